"""What the book's explorers share: one script and style sheet, sliders with bounds, one grid of random draws."""

from __future__ import annotations

import math
import operator
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets

SEEDS = 10  # rows of the shared grid of draws
LONGEST = 500  # steps of the shared grid of draws
DRAW_SEED = 2019
SCRIPTS = Path(__file__).with_name("explorers")


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


def script(name: str) -> str:
    """The JavaScript module of an explorer: what all share, then its own."""
    return "\n".join((SCRIPTS / f"{part}.js").read_text(encoding="utf-8") for part in ("base", name))


class Explorer(anywidget.AnyWidget):
    """What all explorers share: a style sheet, the name of the explorer, the slider bounds."""

    _css = SCRIPTS / "explorers.css"
    explorer = traitlets.Unicode().tag(sync=True)
    bounds = traitlets.Dict().tag(sync=True)

    def __init__(self, **values):
        bounds = {
            name: [trait.low, trait.high, trait.step]
            for name, trait in self.traits().items()
            if isinstance(trait, Within)
        }
        super().__init__(bounds=bounds, **values)


def one_of(name: str, value, allowed: list):
    """`value`, or the values in it, if all are `allowed`."""
    if not set(value if isinstance(value, list) else [value]) <= set(allowed):
        raise traitlets.TraitError(f"{name} is {value!r}; the grid has {', '.join(map(str, allowed))}")
    return value


def as_bytes(values: np.ndarray) -> bytes:
    """`values` as the float32 numbers, row by row, that the scripts read."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()
