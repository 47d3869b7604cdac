"""Explorers over numbers that Python computed: accuracy against T, unrolled and residual blocks, energy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import traitlets

from snnkit import plots
from snnkit.depth import Blocks
from snnkit.energy import TABLES, Account
from snnkit.explorer import Explorer, as_bytes, one_of, script


class AccuracyExplorer(Explorer):
    """Accuracy against T over computed grids. The controls: `scale`, `at` (time steps) and `shown` (methods)."""

    _esm = script("accuracy")
    timesteps = traitlets.List(traitlets.Int()).tag(sync=True)
    scales = traitlets.List(traitlets.Float()).tag(sync=True)
    methods = traitlets.List(traitlets.Unicode()).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    colours = traitlets.List(traitlets.Unicode()).tag(sync=True)
    grid = traitlets.Bytes().tag(sync=True)  # float32 [methods, scales, timesteps]
    ann_accuracy = traitlets.Float().tag(sync=True)
    images = traitlets.Int().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    scale = traitlets.Float().tag(sync=True)
    at = traitlets.Int().tag(sync=True)
    shown = traitlets.List(traitlets.Unicode()).tag(sync=True)

    @traitlets.validate("scale", "at", "shown")
    def _on_the_grid(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        return one_of(name, value, {"scale": self.scales, "at": self.timesteps, "shown": self.methods}[name])


class UnrollExplorer(Explorer):
    """A BackRes block applied 1, 2, 3, ... times, over computed nets. The controls: `passes` and `at` (time steps)."""

    _esm = script("unroll")
    nets = traitlets.List().tag(sync=True)
    timesteps = traitlets.List(traitlets.Int()).tag(sync=True)
    images = traitlets.Int().tag(sync=True)
    passes = traitlets.Int().tag(sync=True)
    at = traitlets.Int().tag(sync=True)

    @traitlets.validate("passes", "at")
    def _on_the_grid(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        return one_of(name, value, {"passes": [net["passes"] for net in self.nets], "at": self.timesteps}[name])


class BlocksExplorer(Explorer):
    """Fresh residual nets over a grid (MS section III). The controls: `kind`, `sigma`, `threshold`, `depth`."""

    _esm = script("blocks")
    nets = traitlets.List().tag(sync=True)
    kinds = traitlets.List(traitlets.Unicode()).tag(sync=True)
    sigmas = traitlets.List(traitlets.Float()).tag(sync=True)
    thresholds = traitlets.List(traitlets.Float()).tag(sync=True)
    depths = traitlets.List(traitlets.Int()).tag(sync=True)
    kind = traitlets.Unicode().tag(sync=True)
    sigma = traitlets.Float().tag(sync=True)
    threshold = traitlets.Float().tag(sync=True)
    depth = traitlets.Int().tag(sync=True)

    @traitlets.validate("kind", "sigma", "threshold", "depth")
    def _on_the_grid(self, proposal):
        name = proposal["trait"].name
        return one_of(name, proposal["value"], getattr(self, f"{name}s"))


class EnergyExplorer(Explorer):
    """An SNN's energy beside its ANN's (BR eqs. 8-11). The controls: `net`, `table`, `timesteps`, `rate`, `direct`."""

    _esm = script("energy")
    nets = traitlets.List().tag(sync=True)  # {name, layers, macs}
    tables = traitlets.List().tag(sync=True)  # {name, label, mac, ac}
    steps = traitlets.List(traitlets.Int()).tag(sync=True)
    rates = traitlets.List(traitlets.Float()).tag(sync=True)
    net = traitlets.Unicode().tag(sync=True)
    table = traitlets.Unicode().tag(sync=True)
    timesteps = traitlets.Int().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    direct = traitlets.Bool().tag(sync=True)

    @traitlets.validate("net", "table", "timesteps", "rate")
    def _on_offer(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        lists = {"net": [net["name"] for net in self.nets], "table": [table["name"] for table in self.tables]}
        return one_of(name, value, (lists | {"timesteps": self.steps, "rate": self.rates})[name])


def accuracy_explorer(
    timesteps: list[int],
    scales: list[float],
    accuracy: dict[str, np.ndarray],
    ann_accuracy: float,
    title: str = "",
    images: int = 1,
) -> AccuracyExplorer:
    """Accuracy against T for several methods, under a slider that multiplies all thresholds by one of `scales`.

    `accuracy` {method: [len(scales), len(timesteps)]} and `ann_accuracy` are fractions in [0, 1] measured on `images`
    images; `timesteps` and `scales` rise. Starts at the scale nearest to 1 and the longest T, all methods shown.
    Raises ValueError for anything else.
    """
    timesteps, scales = [int(t) for t in timesteps], [float(s) for s in scales]
    for name, values, low in (("timesteps", timesteps, 1), ("scales", scales, 1e-6)):
        if not values or values[0] < low or any(b <= a for a, b in itertools.pairwise(values)):
            raise ValueError(f"{name} is {values}; give a rising list of numbers above 0")
    if not accuracy:
        raise ValueError("accuracy is empty; give {method: array [scales, timesteps]}")
    grids = {str(method): np.asarray(grid, dtype="<f4") for method, grid in accuracy.items()}
    for method, grid in grids.items():
        if grid.shape != (len(scales), len(timesteps)):
            raise ValueError(f"accuracy[{method!r}] has shape {grid.shape}; it must be {(len(scales), len(timesteps))}")
        _check_fractions(f"accuracy[{method!r}]", grid)
    _check_fractions("ann_accuracy", ann_accuracy)
    if images < 1:
        raise ValueError(f"images is {images}; give the number of images behind each accuracy, at least 1")
    methods = list(grids)
    known = [plots.COLOURS.get(method) for method in methods]
    spare = itertools.cycle([colour for colour in plots.CYCLE if colour not in known] or plots.CYCLE)
    return AccuracyExplorer(
        explorer="accuracy",
        timesteps=timesteps,
        scales=scales,
        methods=methods,
        labels=[plots.LABELS.get(method, method) for method in methods],
        colours=[colour or next(spare) for colour in known],
        grid=as_bytes(np.stack(list(grids.values()))),
        ann_accuracy=float(ann_accuracy),
        images=int(images),
        title=title,
        scale=min(scales, key=lambda scale: abs(scale - 1)),
        at=timesteps[-1],
        shown=methods,
    )


def unroll_explorer(nets: list[dict], timesteps: list[int], images: int) -> UnrollExplorer:
    """A block applied n times (BR section II-A): parameters, thresholds, rates, accuracy and energy as n changes.

    `nets`, one a number of `passes`: `parameters`, `unshared` (parameters if no pass shared weights), `ann` accuracy
    and `accuracy` at each of `timesteps` (fractions, on `images` images), `thresholds` and `rates` {layer and pass:
    value}, `account` (what `energy.account` counted over the last of `timesteps`).
    """
    return UnrollExplorer(
        explorer="unroll",
        nets=[
            {
                "passes": net["passes"],
                "parameters": int(net["parameters"]),
                "unshared": int(net["unshared"]),
                "ann": float(net["ann"]),
                "accuracy": [float(value) for value in net["accuracy"]],
                "layers": [key.removeprefix("conv") for key in net["rates"]],
                "repeated": ["#" in key for key in net["rates"]],
                "thresholds": [float(net["thresholds"][key]) for key in net["rates"]],
                "rates": [float(value) for value in net["rates"].values()],
                "macs": net["account"].macs,
                "acs": net["account"].acs,
                "ratio": net["account"].ratio("int32"),
            }
            for net in nets
        ],
        timesteps=[int(steps) for steps in timesteps],
        images=int(images),
        passes=nets[-1]["passes"],
        at=int(timesteps[-1]),
    )


def blocks_explorer(nets: Sequence[Blocks], sigma: float = 0.5, threshold: float = 0.5) -> BlocksExplorer:
    """What the blocks of residual nets change, and the gradient's norm along depth (MS eqs. 7, 8 and 14).

    `nets` from `snnkit.depth.fresh_blocks`, all combinations of its lists. Starts at the first kind and the greatest
    depth. Raises ValueError if a combination is missing, traitlets.TraitError for a value that is not on the grid.
    """
    axes = {
        f"{name}s": list(dict.fromkeys(getattr(net, name) for net in nets))
        for name in ("kind", "sigma", "threshold", "depth")
    }
    given = {(net.kind, net.sigma, net.threshold, net.depth) for net in nets}
    if not nets or len(given) < math.prod(map(len, axes.values())):
        raise ValueError(f"the {len(given)} nets are not all combinations of {axes}; give what `fresh_blocks` gives")
    start = {"kind": axes["kinds"][0], "sigma": sigma, "threshold": threshold, "depth": max(axes["depths"])}
    return BlocksExplorer(explorer="blocks", nets=[net._asdict() for net in nets], **axes, **start)


def energy_explorer(
    accounts: dict[str, Account], timesteps: int = 500, rate: float = 0.02, table: str = "int32", direct: bool = False
) -> EnergyExplorer:
    """Energy of the ANNs in `accounts` {name: what `energy.account` counted} and of spiking nets of the same shape.

    Controls: the net, T, the spikes a neuron and step in front of every layer (`rate`), the price list, and whether the
    first layer reads real numbers (`direct`). Shows E_ANN / E_SNN against T, energy by layer, and the break-even rate.
    Raises ValueError for an empty dict, traitlets.TraitError for a value that is not on offer.
    """
    if not accounts:
        raise ValueError("accounts is empty; give {name: energy.account(net, images)}")
    nets = [
        {"name": name, "layers": [row.layer for row in account.rows], "macs": [row.macs for row in account.rows]}
        for name, account in accounts.items()
    ]
    tables = [
        {"name": name, "label": f"{name}: {t.mac:g} pJ a MAC, {t.ac:g} an AC", "mac": t.mac, "ac": t.ac}
        for name, t in TABLES.items()
    ]
    return EnergyExplorer(
        explorer="energy",
        nets=nets,
        tables=tables,
        steps=[1, 2, 4, 6, 10, 20, 50, 100, 200, 500, 1000, 2000, 2500],
        rates=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
        net=nets[0]["name"],
        table=table,
        timesteps=timesteps,
        rate=rate,
        direct=direct,
    )


def _check_fractions(name: str, values) -> None:
    if not np.all((np.asarray(values) >= 0) & (np.asarray(values) <= 1)):
        raise ValueError(f"{name} leaves [0, 1] or holds NaN; give fractions (percentages: divide by 100)")
