"""What a network costs: every multiply-accumulate and every accumulate of one image, layer by layer (SN 7.4, BR VII).

A layer that reads real numbers multiplies: MACs. A layer that reads spikes only adds, once for each spike and synapse:
ACs. Counted are convolutions and linear layers. Not counted, for nobody agrees on their price: memory, membranes,
biases, pools, and the additions where branches meet.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from snnkit.meter import Meter
from snnkit.neurons import LIF
from snnkit.simulation import simulate


@dataclass(frozen=True)
class Table:
    """Picojoules of one operation at 45 nm."""

    mac: float
    ac: float
    source: str

    @property
    def break_even(self) -> float:
        """ACs a MAC at which an SNN costs as much as its ANN: spikes an input neuron over all steps."""
        return self.mac / self.ac


TABLES = {
    "int32": Table(3.2, 0.1, "32-bit integers, BR Table I (SN's preprint gives the same numbers as floating point)"),
    "fp32": Table(4.6, 0.9, "32-bit floating point, MS section IV-C"),
}


@dataclass(frozen=True)
class Row:
    """One weight layer, per image. `kind` of what it reads: "real", "binary" (spikes), or "integer" (sums of spikes:
    pooled, or of several neurons). `macs` of one step; `calls`: how many steps it ran; `acs` of all steps, each spike
    times its true fan-out; `estimated`: MACs x rate x calls (BR eq. 9); `rate`: spikes a neuron and step before it."""

    layer: str
    kind: str
    macs: float
    calls: float
    acs: float = 0.0
    estimated: float = 0.0
    rate: float = 1.0

    def picojoules(self, table: Table, estimated: bool = False) -> float:
        """Energy for one image."""
        if self.kind == "real":
            return self.macs * self.calls * table.mac
        return (self.estimated if estimated else self.acs) * table.ac


@dataclass(frozen=True)
class Account:
    """The cost of one image: `rows` in the order of the forward pass; `timesteps`, None for an ANN; `uncounted`: the
    names of weights that took part in nothing that is counted (a recurrent layer's, an embedding's)."""

    rows: list[Row]
    timesteps: int | None
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> float:
        """MACs of one pass: those of the ANN of the same shape."""
        return sum(row.macs for row in self.rows)

    @property
    def acs(self) -> float:
        """ACs of all steps."""
        return sum(row.acs for row in self.rows)

    def picojoules(self, table: str | Table = "int32", estimated: bool = False) -> float:
        """Energy for one image; with ACs as counted, or as BR's formula estimates them."""
        return sum(row.picojoules(_table(table), estimated) for row in self.rows)

    def ratio(self, table: str | Table = "int32", estimated: bool = False) -> float:
        """How many times more the ANN of the same shape needs: E_ANN / E_SNN (BR eq. 11); infinite if nothing fires."""
        energy = self.picojoules(table, estimated)
        return self.macs * _table(table).mac / energy if energy else math.inf


def account(
    net: nn.Module,
    images: torch.Tensor,
    timesteps: int | None = None,
    *,
    coding: str | None = "poisson",
    generator: torch.Generator | None = None,
) -> Account:
    """Run `images` [B, ...] through an ANN, or for `timesteps` steps through a spiking net, and count (means over B).

    Whatever computes a convolution or a matrix product is seen, as module or function; recurrent layers are not.
    A pooled spike is still a spike: the layer behind the pool adds for each spike before it. `coding` and `generator`
    as for `snnkit.simulate`.

    Raises ValueError for a spiking net without `timesteps`, or an ANN with, and for no images.
    """
    if not len(images):
        raise ValueError("images is an empty batch; give at least one image")
    spiking = any(isinstance(module, LIF) for module in net.modules())
    if spiking != (timesteps is not None):
        wanted = "give the number of timesteps" if spiking else "it has no neurons, so give no timesteps"
        raise ValueError(f"timesteps is {timesteps} for {'a spiking net' if spiking else 'an ANN'}; {wanted}")
    meter = Meter(net, spiking)
    hooks = meter.hooks(net, LIF)
    was_training = {m for m in net.modules() if m.training}
    net.eval()
    try:
        with torch.no_grad(), meter:
            if spiking:
                simulate(net, images, timesteps, coding=coding, generator=generator)
            else:
                net(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    rows = _rows(meter, images.shape[1] if spiking and coding is None else len(images))
    return Account(rows, timesteps, meter.unread(net))


def _rows(meter: Meter, images: int) -> list[Row]:
    """What was counted, as means over the images."""
    uses, rows = Counter(name for name, _ in meter.totals), []
    for (name, number), total in meter.totals.items():
        layer, calls = f"{name}#{number}" if uses[name] > 1 else name, total.presentations / images
        if total.kind == "real":
            rows.append(Row(layer, "real", total.macs, calls))
            continue
        rate = total.activity / total.elements
        rows.append(Row(layer, total.kind, total.macs, calls, total.acs / images, total.macs * rate * calls, rate))
    return rows


def _table(table: str | Table) -> Table:
    if isinstance(table, str) and table not in TABLES:
        raise ValueError(f"unknown table {table!r}; use one of {', '.join(map(repr, TABLES))}, or an energy.Table")
    return TABLES[table] if isinstance(table, str) else table
