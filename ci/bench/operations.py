"""Nanoseconds an element of the operations that the scan over time could be made of: what won, what lost."""

from __future__ import annotations

import time

import torch

from snnkit import ledger
from snnkit.scan import TILE


def measure(repetitions: int = 40) -> dict[str, float]:
    """{operation: ns an element}, the fastest of `repetitions`, on float32 tensors of TILE elements in the cache."""
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


def record(command: str) -> dict[str, float]:
    """Measure and keep as `bench/operations`; the value is what the scan's four operations cost together."""
    start, found = time.perf_counter(), measure()
    chosen = ("add to the membrane", "compare, into float32", "reset by multiply and add", "count float32 spikes")
    ledger.record(
        "bench/operations",
        round(sum(found[name] for name in chosen), 4),
        unit="ns a neuron and step",
        what="the scan's own operations on a tile in the cache: " + ", ".join(chosen),
        command=command,
        seed=0,
        count=40,
        seconds=max(0.1, time.perf_counter() - start),
        details={"nanoseconds": found, "chosen": chosen},
    )
    return found
