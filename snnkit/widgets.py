"""The book's explorers: anywidgets whose dynamics run in the reader's browser (`explorers/*.js`).

On the static page they need no kernel. In JupyterLab the same widget talks to Python: after the reader moved a
control, its value is in the trait of the same name (`explorer.intensity`), and setting a trait moves the control.
Random draws come from one shared grid of uniform numbers, so browser and Python see the same spikes.
"""

from __future__ import annotations

import traitlets

from snnkit.explorer import LONGEST, SEEDS, Choice, Explorer, Within, as_bytes, script, uniform_draws
from snnkit.grids import accuracy_explorer, energy_explorer, unroll_explorer
from snnkit.neurons import RESETS

__all__ = [
    "accuracy_explorer",
    "energy_explorer",
    "junction_explorer",
    "neuron_explorer",
    "two_input_explorer",
    "unroll_explorer",
]


class NeuronExplorer(Explorer):
    """One pixel, Poisson-coded, drives one IF neuron (SN section 4.2). Every trait is a control."""

    _esm = script("neuron")
    intensity = Within(-1.0, 1.0, 0.05).tag(sync=True)
    weight = Within(-2.0, 2.0, 0.05).tag(sync=True)
    threshold = Within(0.1, 4.0, 0.05).tag(sync=True)
    timesteps = Within(1, LONGEST, 1).tag(sync=True)
    reset = Choice(RESETS).tag(sync=True)
    seed = Within(0, SEEDS - 1, 1).tag(sync=True)
    draws = traitlets.Bytes().tag(sync=True)


class TwoInputExplorer(Explorer):
    """SN's example (section 5.1): inputs 0.5 and 1, weights 1, one IF neuron. Every trait is a control."""

    _esm = script("two-input")
    threshold = Within(0.5, 4.0, 0.05).tag(sync=True)
    timesteps = Within(1, LONGEST, 1).tag(sync=True)
    reset = Choice(RESETS).tag(sync=True)
    seed = Within(0, SEEDS - 1, 1).tag(sync=True)
    draws = traitlets.Bytes().tag(sync=True)


class JunctionExplorer(Explorer):
    """Residual units on one pixel (SN section 6): what both paths bring to a junction. Every trait is a control."""

    _esm = script("junction")
    junction = traitlets.Bool().tag(sync=True)
    rule = Choice(("balanced", "gains", "unity", "plain")).tag(sync=True)
    units = Within(1, 6, 1).tag(sync=True)
    weight = Within(0.1, 1.0, 0.1).tag(sync=True)
    intensity = Within(0.05, 1.0, 0.05).tag(sync=True)
    timesteps = Within(2, LONGEST, 1).tag(sync=True)
    reset = Choice(RESETS).tag(sync=True)
    seed = Within(0, SEEDS - 1, 1).tag(sync=True)
    draws = traitlets.Bytes().tag(sync=True)


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
        draws=as_bytes(uniform_draws(1)),
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
        draws=as_bytes(uniform_draws(2)),
    )


def junction_explorer(
    junction: bool = True,
    rule: str = "balanced",
    units: int = 2,
    weight: float = 0.5,
    intensity: float = 0.4,
    timesteps: int = 200,
    reset: str = "zero",
    seed: int = 0,
) -> JunctionExplorer:
    """A chain of residual `units` on one pixel, with SN's constraints to switch (section 6).

    `junction`: neurons behind the sums; `rule` of the thresholds: "balanced" (each by Spike-Norm), "gains" (the same,
    with gains where paths meet), "unity" (1 everywhere) or "plain" (1 in the units, Spike-Norm before them). A unit
    adds `weight` times its input to it. Shows what shortcut and residual path bring to the last junction, and how late.
    Raises traitlets.TraitError, here and on assignment to a trait, for a value outside its control's range.
    """
    return JunctionExplorer(
        explorer="junction",
        junction=junction,
        rule=rule,
        units=units,
        weight=weight,
        intensity=intensity,
        timesteps=timesteps,
        reset=reset,
        seed=seed,
        draws=as_bytes(uniform_draws(1)),
    )
