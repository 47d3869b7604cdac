"""Checkpoints: what comes back equals what went in, and nothing damaged is read."""

import json
from functools import partial

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from snnkit import checkpoint, convert, models, surrogate
from snnkit.neurons import IF, LIF
from snnkit.paths import locate
from snnkit.simulation import simulate


@pytest.fixture
def net():
    torch.manual_seed(0)
    return checkpoint.round_to_half(models.build("vgg3", width=0.125, in_channels=1, size=8)).eval()


@pytest.fixture
def images():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def spikes_of(net, images):
    with torch.no_grad():
        return simulate(net, images, 30, generator=torch.Generator().manual_seed(2))


def test_an_ann_comes_back_with_mean_and_facts(net, images, tmp_path):
    mean = torch.rand(1, 8, 8)
    file = checkpoint.save(tmp_path / "a.safetensors", net, mean, data="digits", accuracy=0.5)
    loaded = checkpoint.load(file)
    assert torch.equal(loaded.net(images), net(images))
    assert torch.equal(loaded.mean, mean)
    assert loaded.facts == {"data": "digits", "accuracy": 0.5}
    assert not loaded.net.training
    assert file.stat().st_size < 2 * sum(p.numel() for p in net.parameters()) + 4000  # half precision


@pytest.mark.parametrize("readout", ["membrane", "spikes"])
@pytest.mark.parametrize("neuron", [None, partial(LIF, 0.9)])
def test_a_converted_net_comes_back_spike_for_spike(net, images, tmp_path, readout, neuron):
    options = {"neuron": neuron} if neuron else {}
    spiking = convert.to_spiking(net, images, "data", reset="subtract", readout=readout, **options)
    loaded = checkpoint.load(checkpoint.save(tmp_path / "s.safetensors", spiking)).net
    before, after = spikes_of(spiking, images), spikes_of(loaded, images)
    assert torch.equal(before.output, after.output)
    assert before.rates == after.rates
    assert sum(before.rates.values()) > 0
    assert loaded.meta["conversion"] == spiking.meta["conversion"]


def test_a_net_built_with_neurons_comes_back_with_its_thresholds(images, tmp_path):
    net = models.build("vgg3", partial(LIF, 0.5, reset="subtract"), width=0.125, in_channels=1, size=8)
    checkpoint.round_to_half(net)
    net.neurons["conv1"].threshold.fill_(0.3)
    loaded = checkpoint.load(checkpoint.save(tmp_path / "n.safetensors", net)).net
    assert loaded.neurons["conv1"].threshold == pytest.approx(0.3)
    assert loaded.neurons["fc1"].leak == 0.5
    assert torch.equal(spikes_of(net.eval(), images).output, spikes_of(loaded, images).output)


@pytest.mark.parametrize("trainable", [[], ["leak"], ["leak", "threshold"]])
def test_a_trained_spiking_net_comes_back_ready_to_train_on(images, tmp_path, trainable):
    neuron = partial(LIF, 0.9, 0.4, "subtract", surrogate.triangle(0.5), trainable)
    net = models.build("vgg3", neuron, width=0.125, in_channels=1, size=8)
    checkpoint.round_to_half(net)
    if trainable:
        with torch.no_grad():
            net.neurons["conv1"].leak.fill_(0.8125001)  # not a number of half precision
    loaded = checkpoint.load(checkpoint.save(tmp_path / "t.safetensors", net)).net
    assert loaded.neurons["fc1"].surrogate == surrogate.triangle(0.5)
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert torch.equal(spikes_of(net.eval(), images).output, spikes_of(loaded, images).output)


def test_a_surrogate_of_ones_own_cannot_be_stored(tmp_path):
    net = models.build("vgg3", partial(LIF, surrogate=lambda u, v, t: u), width=0.125, in_channels=1, size=8)
    with pytest.raises(ValueError, match="has no name to be stored by; use one of rectangle, triangle, spike_time"):
        checkpoint.save(tmp_path / "t.safetensors", net)


def test_a_network_of_ones_own_is_loaded_into_one_like_it(images, tmp_path):
    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))

    net = checkpoint.round_to_half(make())
    file = checkpoint.save(tmp_path / "own.safetensors", convert.to_spiking(net, images, "data"))
    assert torch.equal(
        spikes_of(checkpoint.load(file, net=make()).net, images).output,
        spikes_of(convert.to_spiking(net, images, "data"), images).output,
    )
    with pytest.raises(ValueError, match=r"network of your own; pass one like it"):
        checkpoint.load(file)


def test_a_truncated_file_is_refused(net, tmp_path):
    file = checkpoint.save(tmp_path / "t.safetensors", net)
    for size in (10, 500, file.stat().st_size - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"cut\.safetensors is no whole snnkit checkpoint"):
            checkpoint.load(cut)


def test_an_altered_weight_or_fact_is_refused(net, tmp_path):
    file = checkpoint.save(tmp_path / "w.safetensors", net, accuracy=0.5)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(content)
    with pytest.raises(ValueError, match="was altered"):
        checkpoint.load(altered)

    with safetensors.safe_open(file, "pt") as opened:
        description = json.loads(opened.metadata()["snnkit"])
    description["facts"]["accuracy"] = 0.99
    tensors = safetensors.torch.load_file(file)
    altered.write_bytes(safetensors.torch.save(tensors, {"snnkit": json.dumps(description)}))
    with pytest.raises(ValueError, match="was altered"):
        checkpoint.load(altered)


def test_other_safetensors_and_missing_names_are_refused_by_name(net, tmp_path, monkeypatch):
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2)}, foreign)
    with pytest.raises(ValueError, match="no whole snnkit checkpoint"):
        checkpoint.load(foreign)
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    checkpoint.save(tmp_path / "checkpoints" / "shelf.safetensors", net)
    assert checkpoint.load("shelf").net.config == net.config
    with pytest.raises(FileNotFoundError, match=r"no checkpoint nothing; there are .*shelf"):
        checkpoint.load("nothing")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        checkpoint.save(tmp_path / "net.pt", net)


def test_a_disk_that_refuses_leaves_the_old_checkpoint_whole(net, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "c.safetensors", net)
    assert (tmp_path / "file").read_text() == "in the way"


def test_every_shipped_checkpoint_loads_and_names_its_command():
    files = sorted(locate("checkpoints").glob("*.safetensors"))
    assert files
    for file in files:
        loaded = checkpoint.load(file)
        assert loaded.facts["command"].startswith("python -m snnkit train")
        assert 0 < loaded.facts["test_accuracy"] <= 1
        assert file.stat().st_size < 35e6
    assert sum(file.stat().st_size for file in files) < 150e6


def test_a_net_of_two_kinds_of_neurons_is_refused(tmp_path):
    net = nn.Sequential(IF(), nn.Linear(2, 2), LIF(leak=0.5))
    with pytest.raises(ValueError, match=r"mixes neurons, .*'leak': 1.0.* and .*'leak': 0.5"):
        checkpoint.save(tmp_path / "net.safetensors", net)
    assert not list(tmp_path.iterdir())


def test_a_converted_net_of_ones_own_with_biases_comes_back(images, tmp_path):
    def own():
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
        return checkpoint.round_to_half(nn.Sequential(*layers))

    torch.manual_seed(1)
    spiking = convert.to_spiking(own(), images, "data", allow_bias=True, equalise=False)
    path = checkpoint.save(tmp_path / "own.safetensors", spiking)
    loaded = checkpoint.load(path, own()).net
    assert loaded.meta["conversion"] == spiking.meta["conversion"]
    with torch.no_grad():
        found, expected = (simulate(net, images, 10, coding="constant").output for net in (loaded, spiking))
    assert torch.equal(found, expected)


def test_a_net_with_folded_batch_norm_is_not_stored(images, tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    spiking = convert.to_spiking(net, images, "data", allow_bias=True, fold_batchnorm=True)
    with pytest.raises(ValueError, match="folded batch-norm cannot be stored; store the ANN"):
        checkpoint.save(tmp_path / "own.safetensors", spiking)
    assert not list(tmp_path.iterdir())
