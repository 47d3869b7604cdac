"""The book's explorers: anywidgets whose dynamics run in the reader's browser (`explorers.js`).

On the static page they need no kernel. In JupyterLab the same widget talks to Python: after the reader moved a
control, its value is in the trait of the same name (`explorer.intensity`), and setting a trait moves the control.
Random draws come from one shared grid of uniform numbers, so browser and Python see the same spikes.
"""

from __future__ import annotations

import itertools
import math
import operator
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets

from snnkit import plots
from snnkit.neurons import RESETS

SEEDS = 10  # rows of the shared grid of draws
LONGEST = 500  # steps of the shared grid of draws
DRAW_SEED = 2019


def uniform_draws(inputs: int) -> np.ndarray:
    """The shared grid: float32 uniforms [SEEDS, LONGEST, inputs] in [0, 1), always the same."""
    generator = torch.Generator().manual_seed(DRAW_SEED)
    return torch.rand(SEEDS, LONGEST, inputs, generator=generator).numpy()


class Within(traitlets.TraitType):
    """A number from `low` to `high` in slider steps of `step`; whole numbers only if `step` is an int."""

    def __init__(self, low, high, step, **kwargs):
        self.low, self.high, self.step = low, high, step
        super().__init__(default_value=low, **kwargs)

    def validate(self, obj, value):
        whole = isinstance(self.step, int)
        allowed = f"{self.name} takes {'a whole number' if whole else 'a number'} from {self.low:g} to {self.high:g}"
        try:
            number = operator.index(value) if whole else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, (bool, str)) or not self.low <= number <= self.high:
            raise traitlets.TraitError(f"{self.name} is {value!r}; {allowed}")
        return number


class Choice(traitlets.TraitType):
    """One of the names in `names`."""

    def __init__(self, names, **kwargs):
        self.names = names
        super().__init__(default_value=names[0], **kwargs)

    def validate(self, obj, value):
        if value not in self.names:
            raise traitlets.TraitError(f"{self.name} is {value!r}; use one of {', '.join(map(repr, self.names))}")
        return value


class Explorer(anywidget.AnyWidget):
    """What all explorers share: one JavaScript file, one style sheet, the name of the explorer, the slider bounds."""

    _esm = Path(__file__).with_name("explorers.js")
    _css = Path(__file__).with_name("explorers.css")
    explorer = traitlets.Unicode().tag(sync=True)
    bounds = traitlets.Dict().tag(sync=True)

    def __init__(self, **values):
        bounds = {
            name: [trait.low, trait.high, trait.step]
            for name, trait in self.traits().items()
            if isinstance(trait, Within)
        }
        super().__init__(bounds=bounds, **values)


class NeuronExplorer(Explorer):
    """One pixel, Poisson-coded, drives one IF neuron (SN section 4.2). Every trait is a control."""

    intensity = Within(-1.0, 1.0, 0.05).tag(sync=True)
    weight = Within(-2.0, 2.0, 0.05).tag(sync=True)
    threshold = Within(0.1, 4.0, 0.05).tag(sync=True)
    timesteps = Within(1, LONGEST, 1).tag(sync=True)
    reset = Choice(RESETS).tag(sync=True)
    seed = Within(0, SEEDS - 1, 1).tag(sync=True)
    draws = traitlets.Bytes().tag(sync=True)


class TwoInputExplorer(Explorer):
    """SN's example (section 5.1): inputs 0.5 and 1, weights 1, one IF neuron. Every trait is a control."""

    threshold = Within(0.5, 4.0, 0.05).tag(sync=True)
    timesteps = Within(1, LONGEST, 1).tag(sync=True)
    reset = Choice(RESETS).tag(sync=True)
    seed = Within(0, SEEDS - 1, 1).tag(sync=True)
    draws = traitlets.Bytes().tag(sync=True)


class AccuracyExplorer(Explorer):
    """Accuracy against T over computed grids. The controls: `scale`, `at` (time steps) and `shown` (methods)."""

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
        allowed = {"scale": self.scales, "at": self.timesteps, "shown": self.methods}[name]
        if not set(value if name == "shown" else [value]) <= set(allowed):
            raise traitlets.TraitError(f"{name} is {value!r}; the grid has {', '.join(map(str, allowed))}")
        return value


def neuron_explorer(
    intensity: float = 0.4,
    weight: float = 1.0,
    threshold: float = 1.0,
    timesteps: int = 100,
    reset: str = "zero",
    seed: int = 0,
) -> NeuronExplorer:
    """One pixel of `intensity` in [-1, 1] drives one IF neuron through `weight` (SN section 4.2).

    Shows input spikes, membrane, output spikes, and the output rate (spikes per step) beside the clipped ReLU
    min(1, max(0, weight * intensity / threshold)). Raises traitlets.TraitError, here and on assignment to a trait, for
    a value outside its control's range.
    """
    return NeuronExplorer(
        explorer="neuron",
        intensity=intensity,
        weight=weight,
        threshold=threshold,
        timesteps=timesteps,
        reset=reset,
        seed=seed,
        draws=_bytes(uniform_draws(1)),
    )


def two_input_explorer(
    threshold: float = 1.5, reset: str = "zero", timesteps: int = 200, seed: int = 0
) -> TwoInputExplorer:
    """SN's two-input neuron (section 5.1): why the threshold 1.5 of data-based balancing is too low, and what 2 does.

    Shows the evidence that each reset loses, and output rate x threshold beside the true activation 1.5. Raises
    traitlets.TraitError, here and on assignment to a trait, for a value outside its control's range.
    """
    return TwoInputExplorer(
        explorer="two-input",
        threshold=threshold,
        timesteps=timesteps,
        reset=reset,
        seed=seed,
        draws=_bytes(uniform_draws(2)),
    )


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
        grid=_bytes(np.stack(list(grids.values()))),
        ann_accuracy=float(ann_accuracy),
        images=int(images),
        title=title,
        scale=min(scales, key=lambda scale: abs(scale - 1)),
        at=timesteps[-1],
        shown=methods,
    )


def _check_fractions(name: str, values) -> None:
    if not np.all((np.asarray(values) >= 0) & (np.asarray(values) <= 1)):
        raise ValueError(f"{name} leaves [0, 1] or holds NaN; give fractions (percentages: divide by 100)")


def _bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype="<f4").tobytes()
