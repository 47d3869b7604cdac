"""Neuron layers: the only place where time exists.

A spiking net is a plain module on folded tensors [T*B, ...], time-major. A neuron layer unfolds them to
[T, B, ...], scans over time, and folds again. What it remembers belongs to the `Presentation` that
`snnkit.simulate` opens and closes around one batch of images; the layer itself holds no state, so nothing can be
saved, copied or carried over to the next image.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
from torch import nn

from snnkit.int8 import spike_bytes
from snnkit.scan import Dynamics, State, scan
from snnkit.spikes import as_spikes
from snnkit.surrogate import Fire, Surrogate

RESETS = ("zero", "subtract")
TRAINABLE = ("leak", "threshold")
LEAST = 1e-3  # of a leak or threshold that learns


def step(current, state: State, leak: float, threshold, reset: str, surrogate: Surrogate | None = None):
    """One time step of a layer of neurons: integrate, fire, reset.

        membrane = leak * membrane + current;  spike = membrane >= threshold
        reset "zero": membrane = 0 where spiked;  reset "subtract": membrane -= threshold where spiked

    `current` and the state are [B, ...], in any unit as long as `threshold` shares it; returns (spikes 0/1, new state).
    Gradients pass through `surrogate`, also to a `leak` or `threshold` that is a tensor and learns, never through the
    reset. leak = 1 is the IF neuron (SN eq. 2), less is LIF (BR eqs. 1-3; MS eqs. 1-2 with reset "zero").
    """
    membrane = leak * state.membrane + current
    limit = threshold.detach() if isinstance(threshold, torch.Tensor) else threshold
    if surrogate is None:
        spikes = (membrane >= limit).to(membrane.dtype)
    else:
        spikes = Fire.apply(membrane, threshold, surrogate(membrane.detach(), limit, state.since_spike))
    fired = spikes.detach()
    membrane = membrane * (1 - fired) if reset == "zero" else membrane - limit * fired
    since_spike = state.since_spike
    if since_spike is not None:
        since_spike = torch.where(fired > 0, torch.zeros_like(since_spike), since_spike) + 1
    return spikes, State(membrane, since_spike)


class Presentation:
    """One batch of images seen over time: the chunk length at hand, and what the layers remember of it."""

    def __init__(self) -> None:
        self.timesteps = 0  # length of the chunk at hand
        self.states: dict[nn.Module, object] = {}
        self.visited: set[nn.Module] = set()  # layers already called in this chunk
        self.spike_counts: defaultdict[nn.Module, float] = defaultdict(float)  # spikes so far, over the batch
        self.neuron_counts: dict[nn.Module, int] = {}  # neurons, over the batch
        self.widest = 0  # elements of the largest input or neuron tensor, per step
        self.constant = False  # whether the input is the same at every step
        self.spikes_as_bytes = False  # in precision "int8"
        self.keeps_codes = True  # whether autograd may save spikes as codes (see `snnkit.spikes`)

    def open_chunk(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.visited.clear()

    def visit(self, layer: Stateful) -> None:
        """Note that `layer` is called; RuntimeError if it was called in this pass before."""
        if layer in self.visited:
            raise RuntimeError(
                f"{type(layer).__name__} layer {layer.key or ''!r} was called twice in one pass, which would mix the "
                "states of two layers; give every call a neuron layer of its own"
            )
        self.visited.add(layer)

    def add(self, other: Presentation) -> None:
        """Count what `other` saw of the same images, in layers that were not called before."""
        for layer in other.visited:
            self.visit(layer)
        for layer, count in other.spike_counts.items():
            self.spike_counts[layer] += count
        self.neuron_counts |= other.neuron_counts
        self.widest = max(self.widest, other.widest)


@contextlib.contextmanager
def presenting(layers: Iterable[Stateful], presentation: Presentation):
    """Lend `presentation` to `layers` for the time of the block, and take it back whatever happens.

    Raises RuntimeError if one of them is in a presentation already.
    """
    layers = list(layers)
    if any(layer._presentation is not None for layer in layers):
        raise RuntimeError("this net is already being simulated; finish that simulation first, or deep-copy the net")
    try:
        for layer in layers:
            layer._presentation = presentation
        yield
    finally:
        for layer in layers:
            layer._presentation = None


class Stateful(nn.Module):
    """A layer that remembers something over one presentation. `key` names it in `Simulation.rates`."""

    key: str | None = None
    needs_all_steps = False  # in one chunk
    _presentation: Presentation | None = None

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_presentation"}

    def presentation(self) -> Presentation:
        """The running presentation; RuntimeError outside of `simulate` or on a second call within one pass."""
        if self._presentation is None:
            raise RuntimeError(
                f"{type(self).__name__} layer {self.key or ''!r} was called outside of a simulation; "
                "run the net with snnkit.simulate(net, images, timesteps)"
            )
        self._presentation.visit(self)
        return self._presentation


class LIF(Stateful):
    """Leaky integrate-and-fire layer: folded input currents [T*B, ...] -> folded spikes [T*B, ...] in {0, 1}.

    `leak` in (0, 1] multiplies the membrane at every step; `threshold` > 0 (a number, or a tensor that broadcasts over
    [B, ...]) in the unit of the input; `reset` is "zero" or "subtract"; `surrogate` (see `snnkit.surrogate`) lets
    gradients through, None lets none through. Membranes are float32 or wider whatever the input.
    `trainable` names what learns, "leak", "threshold" or both: a parameter of the layer, one leak for all its neurons;
    where an optimiser leaves the range above, the neuron takes the nearest value within.
    Source: BR eqs. 1-3; MS eqs. 1-2 (leak 0.25, threshold 0.5, reset "zero").

    Raises ValueError for a value out of range, RuntimeError when called outside of `snnkit.simulate`.
    """

    def __init__(
        self,
        leak: float = 0.99,
        threshold=1.0,
        reset: str = "zero",
        surrogate: Surrogate | None = None,
        trainable: Collection[str] = (),
    ):
        super().__init__()
        threshold = torch.as_tensor(threshold).detach().clone()  # layers must not share one
        if not threshold.is_floating_point():
            threshold = threshold.to(torch.get_default_dtype())
        if not 0 < leak <= 1:
            raise ValueError(f"leak is {leak}; it must lie in (0, 1] (1 is the IF neuron, which forgets nothing)")
        if not bool((threshold > 0).all()):
            raise ValueError(f"threshold is {threshold.min().item():.4g}; it must be above 0")
        if reset not in RESETS:
            raise ValueError(f"reset is {reset!r}; it must be one of {', '.join(map(repr, RESETS))}")
        unknown = set(trainable) - set(TRAINABLE)
        if unknown or isinstance(trainable, str):
            raise ValueError(
                f"trainable is {trainable!r}; give a list of {', '.join(map(repr, TRAINABLE))}, or neither"
            )
        if trainable and surrogate is None:
            raise ValueError(
                "a neuron without a surrogate lets no gradient through; give one to train its leak or threshold"
            )
        self.reset, self.surrogate = reset, surrogate
        self.leak = (
            nn.Parameter(torch.tensor(float(leak), dtype=threshold.dtype)) if "leak" in trainable else float(leak)
        )
        if "threshold" in trainable:
            self.threshold = nn.Parameter(threshold)
        else:
            self.register_buffer("threshold", threshold)

    def extra_repr(self) -> str:
        value = f"{self.threshold.item():.4g}" if self.threshold.numel() == 1 else f"{tuple(self.threshold.shape)}"
        known = f"leak={torch.as_tensor(self.leak).item():g}, threshold={value}, reset={self.reset!r}"
        learning = [name for name in TRAINABLE if isinstance(getattr(self, name), nn.Parameter)]
        known += f", surrogate={self.surrogate!r}" if self.surrogate else ""
        return known + (f", trainable={learning}" if learning else "")

    def forward(self, folded: torch.Tensor) -> torch.Tensor:
        presentation = self.presentation()
        currents = folded.unflatten(0, (presentation.timesteps, -1))  # [T*B, ...] -> [T, B, ...]
        wide = torch.promote_types(folded.dtype, torch.float32)
        state = presentation.states.get(self)
        if state is None:
            membrane = torch.zeros_like(currents[0], dtype=wide, requires_grad=False)
            timed = getattr(self.surrogate, "needs_spike_times", False)
            state = State(membrane, torch.full_like(membrane, torch.inf) if timed else None)
        threshold = _at_least(LEAST, self.threshold).to(wide)
        leak = self.leak if isinstance(self.leak, float) else _at_least(LEAST, self.leak, 1.0).to(wide)
        dynamics = Dynamics(leak, threshold, self.reset, self.surrogate)
        dtype = torch.uint8 if presentation.spikes_as_bytes else folded.dtype
        spikes, presentation.states[self], count, codes = scan(currents, state, dynamics, dtype)
        presentation.spike_counts[self] += count
        presentation.neuron_counts[self] = spikes[0].numel()
        presentation.widest = max(presentation.widest, spikes[0].numel())
        spikes = spikes.flatten(0, 1)  # [T, B, ...] -> [T*B, ...]
        if presentation.spikes_as_bytes:
            return spike_bytes(spikes)
        return as_spikes(spikes, codes.flatten(0, 1) if codes is not None and presentation.keeps_codes else None)


def _at_least(low: float, value: torch.Tensor, high: float | None = None) -> torch.Tensor:
    """`value`, within bounds if it is a parameter; its gradient passes as if it were not bounded."""
    return value + (value.clamp(low, high) - value).detach() if value.requires_grad else value


class IF(LIF):
    """Integrate-and-fire layer: LIF without a leak (SN eq. 2). Fires where membrane >= threshold.

    Folded input currents [T*B, ...] -> folded spikes [T*B, ...] in {0, 1}; arguments and errors as for `LIF`.
    """

    def __init__(
        self,
        threshold=1.0,
        reset: str = "zero",
        surrogate: Surrogate | None = None,
        trainable: Collection[str] = (),
    ):
        if "leak" in trainable:
            raise ValueError("an IF neuron has no leak to train; use LIF(leak=1.0, trainable=['leak'], ...)")
        super().__init__(leak=1.0, threshold=threshold, reset=reset, surrogate=surrogate, trainable=trainable)
