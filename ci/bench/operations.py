"""What the parts of a simulation cost alone, in the ways in which they could be done: what won, what lost."""

from __future__ import annotations

import time
import warnings
from unittest import mock

import torch
from torch.nn import functional as F

from snnkit import ledger, native
from snnkit.int8 import spike_bytes
from snnkit.scan import TILE, Dynamics, State, scan
from snnkit.spikes import as_matrix, as_spikes
from snnkit.surrogate import rectangle

ROWS, RATE = 96, 0.01  # maps at a time (three steps of 32 images), spikes an input and step
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def elementwise(repetitions: int = 40) -> dict[str, float]:
    """{operation of the scan by tensor operations: ns an element}: the fastest of `repetitions`, on float32 tensors of
    TILE elements in the cache."""
    a, b = torch.randn(TILE), torch.rand(TILE)
    flags, halves = torch.empty(TILE, dtype=torch.bool), torch.empty(TILE, dtype=torch.bfloat16)
    signed = torch.empty(TILE, dtype=torch.int8)
    threshold = torch.tensor(1.0)
    operations = {
        "add to the membrane": lambda: a.add_(b),
        "add bfloat16 to the membrane": lambda: a.add_(halves),
        "widen bfloat16 into a scratch tensor": lambda: b.copy_(halves),
        "compare, into float32": lambda: torch.ge(a, threshold, out=b),
        "compare, into bool": lambda: torch.ge(a, threshold, out=flags),
        "spikes to int8": lambda: signed.copy_(b),
        "spikes to uint8": lambda: signed.view(torch.uint8).copy_(b),
        "reset by multiply and add": lambda: a.addcmul_(b, a, value=-1),
        "reset by masked_fill": lambda: a.masked_fill_(flags, 0.0),
        "reset by where": lambda: torch.where(flags, b, a, out=a),
        "count float32 spikes": lambda: b.sum(),
        "count bool spikes": lambda: flags.sum(),
    }
    halves.zero_(), flags.zero_()
    return {name: _fastest(operation, repetitions) / TILE for name, operation in operations.items()}


def _fastest(operation, repetitions: int) -> float:
    best = float("inf")
    for _ in range(repetitions):
        start = time.perf_counter_ns()
        operation()
        best = min(best, time.perf_counter_ns() - start)
    return best


def scans(precisions: list[str], steps: int = 6, neurons: int = 2**20) -> list[list]:
    """[part, currents in, ns a neuron and step by tensor operations, and compiled or None]."""
    rows, scale = [], 1 / (steps * neurons)
    for precision in precisions:
        currents = torch.randn(steps, 1, neurons).mul_(0.5).to(DTYPES[precision]).requires_grad_()
        state, dynamics = State(torch.zeros(1, neurons)), Dynamics(0.5, torch.tensor(1.0), "zero", rectangle())

        def forward(currents=currents, state=state, dynamics=dynamics):
            return scan(currents, state, dynamics)

        def both(currents=currents, forward=forward):
            forward().spikes.backward(currents.detach())
            currents.grad = None

        times = []
        for library in (lambda: None, native.library):
            with mock.patch.object(native, "library", library):
                with torch.no_grad():
                    inference = _fastest(forward, 8) * scale
                there = _fastest(forward, 8) * scale
                found = (inference, there, _fastest(both, 8) * scale - there)
            times.append(found if library() is not None or not times else (None,) * 3)
        parts = ("inference", "training, forward", "training, backward")
        rows += [[part, precision, *pair] for part, pair in zip(parts, zip(*times, strict=True), strict=True)]
    return rows


@torch.no_grad()
def layouts(precisions: list[str]) -> list[list]:
    """[layer, how, precision, ms]: a 3 x 3 convolution of 512 channels on small maps of spikes."""
    rows = []
    for size in (4, 2):
        layer = f"512 to 512 channels on {size} x {size}"
        spikes = (torch.rand(ROWS, 512, size, size) < RATE).float().contiguous(memory_format=torch.channels_last)
        weight = torch.randn(512, 512, 3, 3).contiguous(memory_format=torch.channels_last)
        for precision in precisions:
            if precision == "int8":
                x, w = spike_bytes(spikes.to(torch.uint8)), weight
            else:
                x, w = as_spikes(spikes.to(DTYPES[precision])), weight.to(DTYPES[precision])
            ways = {
                "as it is": lambda x=x, w=w: _as_it_is(x, w),
                "side by side" if size == 4 else "one matrix": lambda x=x, w=w: F.conv2d(x, w, padding=1),
            }
            if precision != "int8":
                ways["packed weights"] = _packed(x.values(), w)
                ways["unfolded"] = lambda x=x, w=w: F.unfold(x.values(), 3, padding=1).mT @ w.flatten(1).T
            if precision == "fp32" and size == 2:
                ways["sparse rows"] = _sparse(spikes, weight)
            rows += [[layer, how, precision, _fastest(way, 10) / 1e6] for how, way in ways.items()]
    return rows


def _as_it_is(x, weight):
    with torch._C.DisableTorchFunctionSubclass():
        return x.convolved(weight, None, [1, 1], [1, 1], [1, 1], 1)


def _packed(x, weight):
    ones = [1, 1]
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, ones, ones, ones, 1, list(x.shape))
    return lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, None, ones, ones, ones, 1, "none", [], "")


def _sparse(spikes, weight):
    """Only the inputs that spiked, as a sparse matrix, times the convolution as a dense one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls sparse matrices a beta
        events = spikes.permute(0, 2, 3, 1).flatten(1).to_sparse_csr()
    matrix = as_matrix(weight, *spikes.shape[2:]).T.contiguous()
    return lambda: events @ matrix


def record(precisions: list[str], command: str) -> dict[str, float]:
    """Measure and keep all as `bench/operations`; its value is what the scan's operations cost together."""
    start, found = time.perf_counter(), elementwise()
    chosen = ("add to the membrane", "compare, into float32", "reset by multiply and add", "count float32 spikes")
    details = {"nanoseconds": found, "chosen": chosen, "layouts": layouts(precisions)}
    details["scans"] = scans([precision for precision in precisions if precision in DTYPES])
    ledger.record(
        "bench/operations",
        round(sum(found[name] for name in chosen), 4),
        unit="ns a neuron and step",
        what="the scan's own tensor operations on a tile in the cache: " + ", ".join(chosen),
        command=command,
        seed=0,
        count=40,
        seconds=max(0.1, time.perf_counter() - start),
        details=details,
    )
    return found
