"""Accuracy over time, its intervals, the microscope and what the conversion experiment records."""

import copy
import statistics
from dataclasses import replace

import pytest
import torch
from torch import nn

from snnkit import analysis, convert, data, evaluate, experiments, ledger, models
from snnkit.neurons import IF
from snnkit.simulation import simulate


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "test", size=8, limit=30)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return models.build("vgg3", width=0.125, in_channels=1, size=8).eval()


@pytest.fixture(scope="module")
def thresholds(net, digits):
    return convert.data_norm(net, digits.images)


def test_accuracy_over_time_equals_simulating_the_batches_by_hand(net, digits, thresholds):
    spiking = convert.to_spiking(net, thresholds=thresholds)
    found = evaluate.over_time(spiking, digits, [3, 10, 25], seed=4, batch=20, precision=None)
    generator = torch.Generator().manual_seed(4)
    expected, rates = [], dict.fromkeys(thresholds, 0.0)
    for rows in (slice(0, 20), slice(20, 30)):
        with torch.no_grad():
            result = simulate(spiking, digits.batch(rows), 25, generator=generator)
        expected.append(torch.stack([result.predict(at) == digits.labels[rows] for at in (3, 10, 25)], 1))
        for layer, rate in result.rates.items():
            rates[layer] += rate * (rows.stop - rows.start) / 30
    assert torch.equal(found.correct, torch.cat(expected))
    assert found.accuracy.tolist() == pytest.approx(torch.cat(expected).double().mean(0).tolist())
    assert found.rates == {layer: pytest.approx(rates[layer]) for layer in ("conv1", "conv2", "fc1")}
    assert found.seconds > 0
    assert evaluate.over_time(spiking, digits.first(2), [1], precision="fp32").precision == "fp32"


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_output_neurons_on_the_side_equal_a_net_that_fires(net, digits, thresholds, reset):
    silent = convert.to_spiking(net, thresholds=thresholds, reset=reset)
    firing = convert.to_spiking(net, thresholds=thresholds, reset=reset, readout="spikes")
    neurons = IF(thresholds["fc2"], reset)
    both = evaluate.over_time(silent, digits, [10, 40], precision=None, output_neurons=neurons)
    alone = evaluate.over_time(firing, digits, [10, 40], precision=None)
    assert torch.equal(both.correct_by_spikes, alone.correct)


@pytest.mark.parametrize("at", [[], [5, 5], [10, 5], [0, 5]])
def test_steps_that_make_no_sense_are_refused(net, digits, thresholds, at):
    with pytest.raises(ValueError, match=r"increasing numbers|timesteps is 0"):
        evaluate.over_time(convert.to_spiking(net, thresholds=thresholds), digits, at)


def test_an_ann_is_judged_in_eval_mode(digits):
    net = models.build("vgg3", width=0.125, in_channels=1, size=8, dropout=0.9).train()
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(digits.images).argmax(-1) == digits.labels
    assert torch.equal(evaluate.ann_correct(net, digits), expected)
    assert not net.training


def test_the_wilson_interval_of_a_known_case():
    """8 of 10, worked out by hand: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    low, high = evaluate.interval(torch.tensor([True] * 8 + [False] * 2))
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_pairing_uses_the_differences_image_by_image():
    a = torch.tensor([True, True, False, True] * 25)
    b = torch.tensor([True, False, False, True] * 25)
    mean, low, high = evaluate.paired_difference(a, b)
    assert mean == pytest.approx(0.25)
    assert high - low == pytest.approx(2 * 1.96 * (0.25 * 0.75 * 100 / 99) ** 0.5 / 10, rel=1e-3)
    assert evaluate.paired_difference(a, a) == (0, 0, 0)
    with pytest.raises(ValueError, match="same images"):
        evaluate.paired_difference(a, b[:50])


def test_repeating_a_run_does_not_narrow_the_interval():
    run = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) < 0.7
    once, thrice = evaluate.mean_over_seeds([run]), evaluate.mean_over_seeds([run] * 3)
    for a, b in zip(once, thrice, strict=True):
        assert torch.allclose(a, b)
    both = evaluate.mean_over_seeds([run, ~run])
    assert torch.equal(both.mean, torch.full((2,), 0.5, dtype=torch.float64))


def test_confusions_are_the_shares_of_answers_class_by_class(net, digits, thresholds):
    spiking, options = convert.to_spiking(net, thresholds=thresholds), {"seed": 4, "batch": 20, "precision": None}
    found = evaluate.confusion(spiking, digits, 25, **options)
    correct = evaluate.over_time(spiking, digits, [25], **options).correct[:, -1]
    for label in range(10):
        of_class = digits.labels == label
        assert found[label].sum() == pytest.approx(1)
        assert found[label, label] == pytest.approx(correct[of_class].float().mean())
    only = evaluate.confusion(spiking, digits.first(2), 2)
    assert only.isnan().all(1).sum() == 10 - len(set(digits.labels[:2].tolist()))


def test_the_microscope_sees_what_a_layer_should_and_does_fire():
    """One neuron by hand: weight 1, input 0.5 at every step, threshold 1: fires every second step; the next one too."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    net[4].bias = None
    for layer in (net[0], net[2]):
        nn.init.ones_(layer.weight)
    ones = torch.ones(1, 1)
    spiking = convert.to_spiking(net, thresholds={"0": 2.0, "2": 1.0, "4": 1.0})
    layers = analysis.microscope(net, spiking, ones, [2, 4, 5])
    assert list(layers) == ["0", "2"]
    assert layers["0"].expected.item() == 0.5
    assert layers["0"].rate.flatten().tolist() == pytest.approx([0.5, 0.5, 0.4])
    assert layers["2"].error().tolist() == pytest.approx([0, 0, 0.1])


def test_records_of_other_widths_have_names_of_their_own(digits):
    assert [experiments.group(digits), experiments.group(digits, 0.25)] == ["digits", "digits-width-0.25"]
    assert experiments.group(replace(digits, name="cifar10-jpeg")) == "cifar10"


def test_a_conversion_record_holds_what_the_chapter_shows(digits, tmp_path, monkeypatch):
    """Ten images by hand: 8 right by membrane, 6 by spikes, 9 by the ANN; a second seed gets 6 right by membrane."""
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    right = {n: torch.arange(10)[:, None] < torch.tensor([2, n]) for n in (6, 8)}  # after 5 steps 2 are right
    outcomes = [
        evaluate.Outcome((5, 30), right[8], {"conv1": 0.5}, right[6], 2.0, "bf16"),
        evaluate.Outcome((5, 30), right[6], {"conv1": 0.7}, right[6], 1.0, "bf16"),
    ]
    ann = torch.arange(len(digits)) < 9

    what, told = "net as an SNN", {"command": experiments.command("02", "cifar10-jpeg", runs=["a/zero"], images=7)}
    told["note"] = "from 10 training images"
    rows = {"snn": "SN/snn", "ann": "SN/ann", "loss": "SN/loss"}
    given = (what, outcomes, ann, {"conv1": 1.5}, digits)
    experiments.record_conversion("02/digits/alone", *given, **told)
    assert ledger.ids(tmp_path / "results") == ["02/digits/alone"]
    entry = experiments.record_conversion("02/digits/zero", *given, rows=rows, more={"energy": 2}, **told)
    assert ledger.ids(tmp_path / "results") == ["02/digits/alone", "02/digits/zero", "SN/ann", "SN/loss", "SN/snn"]
    assert (entry["value"], entry["count"], entry["seconds"]) == (70.0, 10, 3.0)
    assert entry["data"].endswith("10 images")
    assert entry["note"] == "from 10 training images, precision bf16, 2 seed(s)"
    assert (
        entry["command"] == """.venv/bin/python ci/book.py run 02 --profile cifar10 -p runs='["a/zero"]' -p images=7"""
    )
    assert experiments.command("03", "digits", seeds=[0]) == ".venv/bin/python ci/book.py run 03 -p seeds='[0]'"
    assert experiments.command("03", "imagenet") == (
        ".venv/bin/python ci/book.py run 03 --profile paper -p dataset=imagenet -p record=true"
    )
    details = entry["details"]
    assert (details["at"], details["accuracy"], details["accuracy_by_spikes"]) == ((5, 30), [20.0, 70.0], [20.0, 60.0])
    assert (details["ann"], details["thresholds"], details["rates"]) == (90.0, {"conv1": 1.5}, {"conv1": 0.5})
    assert details["difference"][0] == pytest.approx(-10.0)
    assert details["energy"] == 2
    row = ledger.load("SN/snn")
    assert (row["value"], row["unit"], row["what"]) == (40.0, "% error", "net as an SNN, spike readout, T = 30")
    assert ledger.load("SN/ann")["value"] == 10.0
    loss = ledger.load("SN/loss")
    assert (loss["value"], loss["unit"]) == (pytest.approx(30.0), "points of error")
    assert loss["interval"][0] < 30 < loss["interval"][1]
    accuracies = {None: "BR/ann", 5: "BR/short", 30: "BR/long"}
    experiments.record_conversion("02/digits/zero", *given, accuracies=accuracies, **told)
    values = [(ledger.load(row)["value"], ledger.load(row)["unit"]) for row in ("BR/ann", "BR/short", "BR/long")]
    assert values == [(90.0, "% accuracy"), (20.0, "% accuracy"), (70.0, "% accuracy")]
    assert ledger.load("BR/short")["what"] == "net as an SNN, membrane readout, T = 5"
    with pytest.raises(ValueError, match="no answers after 7 steps; the runs noted 5, 30"):
        experiments.record_conversion("02/digits/zero", *given, accuracies={7: "BR/short"}, **told)
    with pytest.raises(ValueError, match="unknown rows error; use 'snn', 'ann' and 'loss'"):
        experiments.record_conversion("02/digits/zero", *given, rows={"error": "SN/e"}, **told)


def test_without_output_neurons_the_rows_are_read_from_the_membrane(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    outcome = evaluate.Outcome((30,), torch.arange(10)[:, None] < 7, {"conv1": 0.5}, None, 2.0, "bf16")
    told = {"command": "none", "note": "by hand", "rows": {"snn": "SN/snn"}}
    entry = experiments.record_conversion("02/a", "net", [outcome], torch.ones(30).bool(), {}, digits, **told)
    assert "accuracy_by_spikes" not in entry["details"]
    row = ledger.load("SN/snn")
    assert (row["value"], row["what"]) == (30.0, "net, membrane readout, T = 30")


def test_pairs_of_trainings_by_hand():
    a = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    b = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 0]]).bool()
    mean, low, high = evaluate.paired_over_seeds(a, b)
    differences = [0.5, 0.0, 0.25]
    assert mean == pytest.approx(0.25)
    half = 4.302652730 * statistics.stdev(differences) / 3**0.5  # Student's t with two degrees of freedom
    assert (float(low), float(high)) == pytest.approx((0.25 - half, 0.25 + half))
    for wrong in (a[0], a[:2], a[:, :3]):
        with pytest.raises(ValueError, match="to the same images; got"):
            evaluate.paired_over_seeds(wrong, b)
    with pytest.raises(ValueError, match="to the same images; got"):
        evaluate.paired_over_seeds(a[:0], b[:0])


def test_one_or_two_pairs_of_trainings_by_hand():
    a = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    b = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1]]).bool()
    for seeds, differences in ((2, [0.0, 1.0, 0.5, -0.5]), (1, [0.0, 1.0, 1.0, 0.0])):
        mean, low, high = evaluate.paired_over_seeds(a[:seeds], b[:seeds])
        half = 1.959963985 * statistics.stdev(differences) / 4**0.5  # over the images, normal
        middle = sum(differences) / 4
        assert (float(mean), float(low), float(high)) == pytest.approx((middle, middle - half, middle + half))
