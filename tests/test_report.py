"""The report on a converted net: its figures against runs by hand, and the same from the command line."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from snnkit import convert, energy, models, simulate
from snnkit.__main__ import main
from snnkit.report import convert_and_report

TINY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(4),
        nn.Flatten(), nn.Linear(16, 2, bias=False),
    )

made, number = net(), 3
biased = nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))

def broken():
    raise RuntimeError("no weights here\\nat all")

def leaves():
    raise SystemExit("usage: nets.py WEIGHTS")

def beside():
    import helper
    return helper.make(net)

grey = nn.Sequential(nn.Conv2d(1, 4, 8, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2, bias=False))
maps = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False))
"""


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return models.build("vgg3", width=0.05, in_channels=1, size=8, num_classes=4)


def images(count, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_its_figures_are_those_of_a_run_by_hand(tiny):
    labels = torch.arange(30) % 4
    report = convert_and_report(tiny, images(6), images(30, 1), labels, at=(5, 20), seed=3, precision=None)
    spiking = convert.to_spiking(tiny, images(6), timesteps=20, generator=torch.Generator().manual_seed(3))
    assert report.conversion["thresholds"] == spiking.meta["conversion"]["thresholds"]
    result = simulate(spiking, images(30, 1), 20, generator=torch.Generator().manual_seed(3))
    by_hand = [float((result.predict(at) == labels).double().mean()) for at in (5, 20)]
    assert report.outcome.accuracy.tolist() == pytest.approx(by_hand)
    assert torch.equal(report.ann, tiny(images(30, 1)).argmax(-1) == labels)
    assert report.outcome.rates == pytest.approx(result.rates)
    account = energy.account(spiking, images(30, 1)[:8], 20, generator=torch.Generator().manual_seed(3))
    assert report.account.acs == account.acs
    text = report.markdown()
    assert f"| 20 | {by_hand[1]:.1%} |" in text
    assert "None is broken" in text
    assert f"| {account.ratio('fp32'):.3g} |" in text
    unlabelled = convert_and_report(tiny, images(6), images(30, 1), at=(5, 20), seed=3, precision=None)
    agree = (result.predict() == tiny(images(30, 1)).argmax(-1)).double().mean()
    assert unlabelled.outcome.accuracy[-1] == agree
    assert "as the ANN" in unlabelled.markdown()
    with pytest.raises(ValueError, match="the labels go up to 4, but the net tells 4 classes apart"):
        convert_and_report(tiny, images(6), images(30, 1), labels + 1, at=(5,))


def folder(path, count, *classes):
    generator = torch.Generator().manual_seed(0)
    for place in range(count):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
        file = path / (classes[place % len(classes)] if classes else "") / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return path


@pytest.fixture
def net_file(tmp_path):
    (tmp_path / "nets.py").write_text(TINY)
    (tmp_path / "nets.txt").write_text(TINY)
    (tmp_path / "helper.py").write_text("def make(net):\n    return net()\n")
    return tmp_path / "nets.py"


@pytest.mark.parametrize("name", ["net", "made", "beside"])
def test_the_command_converts_a_net_of_ones_own(name, net_file, tmp_path, capsys):
    source = folder(tmp_path / "images", 40, "cat", "dog")
    command = ["convert", f"{net_file}:{name}", "--images", str(source), "--size", "8", "--at", "10", "30"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["at"] == [10, 30]
    assert written["images"] == 4  # a tenth of the folder is its test set
    assert 0 <= written["ann_accuracy"] <= 1
    assert set(written["conversion"]["thresholds"]) == {"0", "4"}
    assert (tmp_path / "out" / "report.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vgg9-digits", "resnet14-digits", "vgg2x4-conversion-digits"])
def test_the_command_converts_shipped_nets_on_the_data_they_know(name, tmp_path, capsys):
    command = ["convert", name, "--images", "digits", "--limit", "20", "--at", "100", "200", "--method", "data"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["ann_accuracy"] > 0.8
    assert written["accuracy"][-1] > 0.6


def test_labels_of_another_number_are_refused_and_the_net_stays_as_it_was(tiny):
    with pytest.raises(ValueError, match=r"labels has shape \(2,\) for 4 images; give one an image"):
        convert_and_report(tiny.train(), images(4), images(4), [0, 1], at=(5,))
    assert tiny.training
    assert convert_and_report(tiny, images(4), images(4), [0, 1, 2, 3], at=(5,)).labelled
    assert tiny.training


def test_without_class_folders_it_reports_agreement_and_other_normalisations_are_possible(net_file, tmp_path):
    source = folder(tmp_path / "images", 30)
    command = ["convert", f"{net_file}:net", "--images", str(source), "--size", "8", "--at", "10", "--method", "data"]
    more = ["--mean", "0.5", "0.4", "0.3", "--std", "0.25", "--coding", "constant", "--reset", "subtract"]
    assert main([*command, *more, "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["ann_accuracy"] is None
    assert len(written["agreement"]) == 1
    assert written["layers"][0]["kind"] == "real"
    assert written["conversion"]["reset"] == "subtract"


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("nets.py:missing", [], "has no missing"),
        ("nets.py:number", [], "fails: TypeError: 'int' object is not callable"),
        ("nets.py:broken", [], "broken fails: RuntimeError: no weights here"),
        ("nets.py:leaves", [], "leaves fails: SystemExit: usage: nets.py WEIGHTS"),
        ("nets.py:grey", [], "does not take torch.float32 images of shape (3, 8, 8)"),
        ("nets.py:maps", [], "gives (2, 4, 4) values an image; a report needs class scores"),
        ("nets.py:net", ["--size", "13"], "does not take torch.float32 images of shape (3, 13, 13)"),
        ("nets.py:net", ["--size", "0"], "size is 0; it must be a whole number of pixels"),
        ("nets.py", [], "nets.py names no network; give FILE.py:NAME"),
        ("nets.txt:net", [], "no Python file"),
        ("nowhere.py:net", [], "no Python file"),
        ("no-such-checkpoint", [], "no checkpoint no-such-checkpoint"),
        ("nets.py:biased", [], "0 has a bias (train it with bias=False, or pass allow_bias=True, SN section 4.3.1)"),
        ("nets.py:net", ["--std", "0.2"], "or use coding='constant'"),
        ("nets.py:net", ["--std", "0"], "std is 0"),
        ("nets.py:net", ["--mean", "0.1", "0.2"], "mean has 2 values; give one, or one for each of 3 channels"),
        ("nets.py:net", ["--at", "20", "10"], "give increasing numbers of time steps"),
        ("nets.py:net", ["--calibration", "0"], "limit is 0"),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(target, options, message, net_file, tmp_path, capsys):
    source = folder(tmp_path / "images", 20, "cat", "dog")
    target = str(tmp_path / target) if target.startswith("n") and "." in target else target
    command = ["convert", target, "--images", str(source), "--size", "8", "--at", "10", "--out", str(tmp_path / "out")]
    assert main([*command, *options]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_without_classes_are_not_trained_on(tmp_path, capsys):
    source = folder(tmp_path / "images", 30)
    assert main(["train", "vgg3", "--data", f"imagefolder:{source}", "--size", "8"]) == 1
    assert "holds one class, unlabelled; training needs at least two" in capsys.readouterr().err


def test_max_pools_are_replaced_in_a_copy_by_averages_of_the_same_cells():
    net = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Sequential(nn.AdaptiveMaxPool2d(2)), nn.ReLU())
    found = convert.replace_max_pool(net)
    x = torch.rand(1, 2, 7, 7)
    assert torch.allclose(found[0](x)[0, :, 1, 1], x[0, :, 1:4, 1:4].mean((1, 2)))
    assert torch.allclose(found[0](x)[0, :, 0, 0], x[0, :, :2, :2].mean((1, 2)))  # padding is no element
    assert found(x).shape == net(x).shape
    assert isinstance(net[0], nn.MaxPool2d)
    with pytest.raises(ValueError, match="Linear has no max-pool module to replace"):
        convert.replace_max_pool(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="0 is a dilated max-pool"):
        convert.replace_max_pool(nn.Sequential(nn.MaxPool2d(2, dilation=2)))
