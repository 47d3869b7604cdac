"""The book's explorers: anywidgets whose dynamics run in the reader's browser (`explorers/*.js`).

On the static page they need no kernel. In JupyterLab the same widget talks to Python: after the reader moved a
control, its value is in the trait of the same name (`explorer.intensity`), and setting a trait moves the control.
Random draws come from one shared grid of uniform numbers, so browser and Python see the same spikes.
"""

from __future__ import annotations

import traitlets

from snnkit.explorer import LONGEST, SEEDS, Choice, Explorer, Within, as_bytes, script, uniform_draws
from snnkit.grids import accuracy_explorer, blocks_explorer, energy_explorer, unroll_explorer
from snnkit.neurons import RESETS

DRAWS = 40  # of classes, in the stochmax explorer

__all__ = [
    "accuracy_explorer",
    "blocks_explorer",
    "energy_explorer",
    "junction_explorer",
    "neuron_explorer",
    "stdp_explorer",
    "stochmax_explorer",
    "surrogate_explorer",
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


class StochmaxExplorer(Explorer):
    """Ten class scores and what stochmax makes of them (BR section V). Every trait is a control."""

    _esm = script("stochmax")
    target = Within(-2.0, 6.0, 0.1).tag(sync=True)
    rival = Within(-2.0, 6.0, 0.1).tag(sync=True)
    rival_retained = Within(0.0, 1.0, 0.05).tag(sync=True)
    others_retained = Within(0.0, 1.0, 0.05).tag(sync=True)
    shown = Within(1, DRAWS, 1).tag(sync=True)
    seed = Within(0, SEEDS - 1, 1).tag(sync=True)
    draws = traitlets.Bytes().tag(sync=True)


class StdpExplorer(Explorer):
    """One synapse that learns from the times of spikes (BR eq. 5). Every trait is a control."""

    _esm = script("stdp")
    every = Within(2, 20, 1).tag(sync=True)
    lag = Within(0, 19, 1).tag(sync=True)
    again = Within(2, 20, 1).tag(sync=True)
    tau = Within(1.0, 20.0, 0.5).tag(sync=True)
    offset = Within(0.0, 1.0, 0.05).tag(sync=True)
    rate = Within(0.01, 0.5, 0.01).tag(sync=True)
    weight = Within(-1.0, 1.0, 0.1).tag(sync=True)


class SurrogateExplorer(Explorer):
    """Three surrogate gradients of one neuron (HC, BR eq. 4, MS eq. 3). Every trait is a control."""

    _esm = script("surrogate")
    alpha = Within(0.05, 1.0, 0.05).tag(sync=True)
    beta = Within(0.0, 0.5, 0.01).tag(sync=True)
    gamma = Within(0.05, 1.0, 0.05).tag(sync=True)
    width = Within(0.1, 2.0, 0.1).tag(sync=True)
    current = Within(0.02, 1.5, 0.02).tag(sync=True)
    leak = Within(0.5, 1.0, 0.01).tag(sync=True)
    timesteps = Within(2, 200, 1).tag(sync=True)
    reset = Choice(RESETS).tag(sync=True)


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


def stochmax_explorer(
    target: float = 2.5,
    rival: float = 2.0,
    rival_retained: float = 0.9,
    others_retained: float = 0.3,
    shown: int = 1,
    seed: int = 0,
) -> StochmaxExplorer:
    """Ten classes: a `target` and a `rival` with these scores, and eight others (BR section V).

    The rival and the others are retained with the given probabilities in each of 40 draws, of which one is `shown`.
    Shows the distribution beside softmax's, and against which classes the loss pushes on average. Raises
    traitlets.TraitError, here and on assignment to a trait, for a value outside its control's range.
    """
    return StochmaxExplorer(
        explorer="stochmax",
        target=target,
        rival=rival,
        rival_retained=rival_retained,
        others_retained=others_retained,
        shown=shown,
        seed=seed,
        draws=as_bytes(uniform_draws(10)[:, :DRAWS]),
    )


def surrogate_explorer(
    alpha: float = 0.3,
    beta: float = 0.1,
    gamma: float = 0.3,
    width: float = 1.0,
    current: float = 0.14,
    leak: float = 0.99,
    timesteps: int = 60,
    reset: str = "subtract",
) -> SurrogateExplorer:
    """One neuron with threshold 1 under a constant `current`, and what three surrogate gradients let through.

    Spike-time (`alpha`, `beta`; HC), triangle (`gamma`; BR eq. 4) and rectangle (`width`; MS eq. 3), step by step.
    Raises traitlets.TraitError, here and on assignment to a trait, for a value outside its control's range.
    """
    return SurrogateExplorer(
        explorer="surrogate",
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        width=width,
        current=current,
        leak=leak,
        timesteps=timesteps,
        reset=reset,
    )


def stdp_explorer(
    every: int = 10,
    lag: int = 2,
    again: int = 10,
    tau: float = 5.0,
    offset: float = 0.3,
    rate: float = 0.05,
    weight: float = 0.0,
) -> StdpExplorer:
    """A synapse fires once in `every` steps; its neuron first `lag` steps later, then once in `again` (BR eq. 5).

    `tau`, `offset` and `rate` as in `snnkit.stdp.Rule`, whose bounds -1 and 1 the weight has; `weight` is its first
    value. Raises traitlets.TraitError, here and on assignment to a trait, for a value outside its control's range.
    """
    return StdpExplorer(
        explorer="stdp", every=every, lag=lag, again=again, tau=tau, offset=offset, rate=rate, weight=weight
    )
