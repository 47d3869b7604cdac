"""The benchmark: its weights, its baseline, its races and its sums."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ci.bench import __main__ as bench
from ci.bench import floor, naive, operations, report, workloads
from ci.bench.race import Lane, race
from snnkit import convert, ledger, models, simulate
from snnkit.int8 import SpikeBytes, has_fast_int8
from snnkit.neurons import LIF

SMALL = workloads.Workload("a small net", "infer", "vgg3", timesteps=30, batch=2)


@pytest.fixture(scope="module")
def weights():
    return workloads.weights(SMALL)


def test_weights_lie_on_a_grid_and_every_layer_fires(weights):
    for weight in weights.values():
        unit = weight.abs().max() / 127
        assert torch.log2(unit) == torch.log2(unit).round()
        assert torch.equal(weight / unit, (weight / unit).round())
        assert (weight.abs().flatten(1).amax(1) == weight.abs().max()).all()  # eight bits a channel hold it exactly
    net = models.build("vgg3", neuron=lambda: LIF(1.0, SMALL.threshold))
    net.load_state_dict(weights, strict=False)
    with torch.no_grad():
        result = simulate(net, workloads.input_train(SMALL), SMALL.timesteps, coding=None)
    assert len(result.rates) == 3
    assert all(0.01 < rate < 0.1 for rate in result.rates.values())
    assert torch.equal(result.output * 2**16, (result.output * 2**16).round())  # sums are exact


def test_the_plain_loop_finds_spike_norms_thresholds(weights):
    net = models.build("vgg3")
    net.load_state_dict(weights)
    images = workloads.images(SMALL)
    loop = naive.spike_norm(net, images, 20, torch.Generator().manual_seed(3))
    ours = convert.spike_norm(net, images, 20, generator=torch.Generator().manual_seed(3))
    assert loop == pytest.approx(list(ours.values()), rel=1e-6)
    assert len(set(loop)) == 4


def test_a_race_runs_in_turns_and_survives_a_contestant_that_fails(tmp_path):
    small = replace(workloads.WORKLOADS["W3"], timesteps=3, batch=2)
    options = {"workload": "W3", "timesteps": 1, "batch": 4, "weights": str(workloads.store(small, tmp_path))}
    lanes = [
        Lane("snnkit", "fp32", {**options, "contestant": "snnkit"}),
        Lane("nobody", "x", {**options, "contestant": "x"}),
    ]
    said = []
    race(Path(sys.executable), lanes, 2, said.append)
    assert len(lanes[0].seconds) == 2
    assert min(lanes[0].seconds) > 0
    assert torch.tensor(lanes[0].output).shape == (4, 10)
    assert len(lanes[0].gradient) == 256
    assert lanes[0].peak > lanes[0].before > 2**20
    assert lanes[1].failure == "KeyError: 'x'"
    assert said == ["  nobody (x) failed: KeyError: 'x'", *(f"  round {turn} of 2" for turn in (0, 1, 2))]


def test_the_sums_of_a_race_by_hand(tmp_path, monkeypatch):
    def lane(name, mode, seconds, peak, output):
        return Lane(name, mode, {}, seconds, peak * 2**20, 2**20, output)

    lanes = [
        lane("snnkit", "fp32", [1.0, 3.0, 2.0], 100, [[0.0, 2.0]]),
        lane("a", "default", [8.0, 8.0, 8.0], 50, [[0.0, 2.0]]),
        lane("a", "tuned: x", [4.0, 4.0, 4.0], 400, [[0.0, 1.0]]),
        lane("b", "default", [10.0, 10.0, 10.0], 900, [[0.0, 2.0]]),
        replace(lane("b", "tuned: x", [], 0, None), failure="out of memory"),
    ]
    result = report.summarise("W1", SMALL, lanes, {"fp32": 1e9})
    ours, default, tuned, _, failed = result["rows"]
    assert ours["ms"] == pytest.approx(1e3 * 2 / (30 * 2))
    assert ours["spread"] == pytest.approx([1e3 / 60, 3e3 / 60])
    macs = sum(m.weight.numel() for m in models.build("vgg3").modules() if isinstance(m, nn.Linear))
    macs += 3 * 64 * 9 * 32**2 + 64 * 64 * 9 * 16**2
    assert result["macs"] == macs
    assert ours["floors"] == pytest.approx(ours["ms"] / (1e3 * macs / 1e9))
    assert result["ratios"] == {"fp32": pytest.approx({"default": 0.25, "tuned": 0.5, "memory": 0.25})}
    assert (result["default"], result["tuned"]) == ("a", "a, tuned: x")
    assert (default["same"], tuned["same"], failed["failure"]) == (True, False, "out of memory")
    text = report.as_text(result)
    assert "0.25 of a by default, 0.50 of a, tuned: x" in text
    assert "failed: out of memory" in text
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    report.record(result, "make bench", 3, {"a": "1.0"}, 5.0)
    entry = ledger.load("bench/W1")
    assert (entry["value"], entry["count"], entry["note"]) == (0.5, 3, "a 1.0; medians of 3 rounds in turns")


def test_who_runs_in_which_mode():
    base = {"workload": "W1", "device": "cpu"}
    found = bench.lanes("W1", ["fp32", "bf16", "int8"], base)
    ours = {lane.mode: lane.options for lane in found if lane.name == "snnkit"}
    assert list(ours) == ["fp32", "bf16", "int8", "bf16, no compiler", "bf16, memory not kept"]
    assert ours["bf16, no compiler"] == ours["bf16"] | {"native": False}
    assert ours["bf16, memory not kept"] == ours["bf16"] | {"keep": False}
    peers = [lane for lane in found if lane.name != "snnkit"]
    assert len(peers) == 4 * 3
    assert {lane.options["keep"] for lane in peers if lane.mode == "default"} == {False}
    assert {lane.options["keep"] for lane in peers if lane.mode != "default"} == {True}
    assert not any("chunk" in lane.options for lane in bench.lanes("W3", ["fp32"], base))
    modes = [lane.mode for lane in bench.lanes("W3", ["fp32", "bf16", "int8"], base) if lane.name == "norse"]
    assert modes == [
        "default",
        "tuned: fp32, channels-last, multi-step",
        "tuned: bf16, channels-last, single-step",
        "tuned: bf16, channels-last, multi-step",
    ]
    modes = [lane.mode for lane in bench.lanes("W3", ["fp32", "bf16"], base) if lane.name == "sinabs"]
    assert modes == ["default", *(f"tuned: {precision}, channels-last, single-step" for precision in ("fp32", "bf16"))]
    quick = bench.lanes("W4", ["fp32", "bf16", "int8"], base, quick=True)
    assert [lane.name for lane in quick] == ["snnkit"] * 2 + ["spikingjelly"] * 2 + ["norse"] * 2
    on_a_gpu = bench.lanes("W4", ["fp32", "bf16"], base | {"device": "cuda"})
    assert [lane.mode for lane in on_a_gpu if lane.name == "snnkit"] == ["fp32", "bf16"]


def test_what_the_parts_cost_is_measured_for_every_way():
    rows = operations.layouts(["fp32"] + ["int8"] * has_fast_int8()) + operations.scans(
        ["fp32", "bf16"], steps=2, neurons=64
    )
    ways = {(row[0], row[1]) for row in rows}
    assert ("512 to 512 channels on 2 x 2", "sparse rows") in ways
    assert ("512 to 512 channels on 4 x 4", "side by side") in ways
    assert {("inference", "bf16"), ("training, backward", "fp32")} <= ways
    assert all(isinstance(row[-2], float | str) and isinstance(row[-1], float | None) for row in rows)


def test_a_floor_counts_the_macs_that_are_done_at_the_precision_it_names(monkeypatch):
    monkeypatch.setattr(floor, "_seconds", lambda *_: 1.0)
    assert floor.rate.__wrapped__("ms-resnet20", "fp32", "cpu") == 16 * 16 * 9 * 32**2  # stride 2: a quarter, doubled
    monkeypatch.undo()
    seen = []
    layer = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    for precision in ("fp32", "bf16", "int8"):
        monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append((type(x), x.dtype, self.weight.dtype)))
        assert floor._seconds(layer, torch.Size([8, 6, 6]), precision, "cpu") > 0
    assert set(seen) == {
        (torch.Tensor, torch.float32, torch.float32),
        (torch.Tensor, torch.bfloat16, torch.bfloat16),
        (SpikeBytes, torch.uint8, torch.float32),
    }
    assert layer.weight.dtype == torch.float32
