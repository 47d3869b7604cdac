"""Accuracy over time, its intervals, the microscope and what the conversion experiment records."""

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
    expected = []
    for rows in (slice(0, 20), slice(20, 30)):
        with torch.no_grad():
            result = simulate(spiking, digits.batch(rows), 25, generator=generator)
        expected.append(torch.stack([result.predict(at) == digits.labels[rows] for at in (3, 10, 25)], 1))
    assert torch.equal(found.correct, torch.cat(expected))
    assert found.accuracy.tolist() == pytest.approx(torch.cat(expected).double().mean(0).tolist())
    assert set(found.rates) == {"conv1", "conv2", "fc1"}
    assert found.seconds > 0


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


def test_a_conversion_record_holds_what_the_chapter_shows(net, digits, thresholds, tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    spiking = convert.to_spiking(net, thresholds=thresholds)
    ann = evaluate.ann_correct(net, digits)
    outcome = evaluate.over_time(spiking, digits.first(20), [5, 30], output_neurons=IF(thresholds["fc2"]))
    experiments.record_conversion("spike-norm/zero", [outcome], ann, thresholds, digits, "net", "auto", 10, 20)
    assert ledger.ids(tmp_path / "results") == [
        "02_spike_norm/digits/spike-norm-zero",
        "SN/section7.2/cifar10-vgg16/spike-norm-loss",
        "SN/table1/cifar10-vgg16/ann",
        "SN/table1/cifar10-vgg16/spike-norm",
    ]
    entry = ledger.load("02_spike_norm/digits/spike-norm-zero")
    assert entry["value"] == pytest.approx(100 * outcome.accuracy[-1].item(), abs=1e-3)
    assert entry["count"] == 20
    assert entry["details"]["at"] == [5, 30]
    expected = 100 * (outcome.correct[:, -1].double().mean() - ann[:20].double().mean())
    assert entry["details"]["difference"][0] == pytest.approx(float(expected), abs=1e-3)
    row = ledger.load("SN/table1/cifar10-vgg16/spike-norm")
    assert row["value"] == pytest.approx(100 * (~outcome.correct_by_spikes[:, -1]).double().mean().item(), abs=1e-3)
