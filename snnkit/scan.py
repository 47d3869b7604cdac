"""The scan over time of one layer of neurons, and its gradient: what `snnkit.neurons.step` defines, made fast.

Elementwise work on a processor waits for memory. So the neurons are scanned in the order in which they lie in memory,
in tiles whose membranes stay in a core's cache for all steps, and in preallocated tensors of one dtype: operations that
mix dtypes, or write booleans, are several times slower than copying to and from a scratch tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from snnkit import native
from snnkit.surrogate import Surrogate

TILE = 2**18  # neurons at a time on a processor: 1 MiB a float32 tensor
SPIKE = 2  # in a code: the neuron fired; 1 more: its membrane was within the window of the surrogate


class State(NamedTuple):
    """What a neuron layer remembers between steps: tensors [B, ...]."""

    membrane: torch.Tensor
    since_spike: torch.Tensor | None = None  # steps since the latest spike; infinite before the first


class Dynamics(NamedTuple):
    """What makes a neuron: `threshold` is a tensor that broadcasts over [B, ...], in the membrane's dtype.

    `leak` is a number, or a tensor of one element if it learns.
    """

    leak: float | torch.Tensor
    threshold: torch.Tensor
    reset: str
    surrogate: Surrogate | None = None


class Scanned(NamedTuple):
    """What a scan gives: `spikes` [T, B, ...], the `state` after it, and `count`, the number of spikes.

    `codes`, int8 [T, B, ...], is what the gradient remembers where the surrogate is a window, else None: one byte a
    neuron and step, from which `snnkit.spikes` has the spikes again.
    """

    spikes: torch.Tensor
    state: State
    count: torch.Tensor
    codes: torch.Tensor | None = None


def scan(currents: torch.Tensor, state: State, dynamics: Dynamics, dtype: torch.dtype | None = None) -> Scanned:
    """Drive neurons with `currents` [T, B, ...] from `state`, bit for bit as T calls of `snnkit.neurons.step` would.

    Spikes are of `dtype` (default: that of the currents). Under grad, with a surrogate, gradients reach currents,
    state, threshold and a leak that is a tensor. They remember one byte a neuron and step if the surrogate is a window,
    else its slope and the spikes; for a leak that learns, the membranes too.
    """
    order = _MemoryOrder(currents)
    threshold, leak = dynamics.threshold, None
    if threshold.numel() > 1:
        threshold = order.flat(threshold.expand(currents.shape[1:]))
    threshold = threshold.reshape(-1)
    if isinstance(dynamics.leak, torch.Tensor):
        leak, dynamics = dynamics.leak, dynamics._replace(leak=dynamics.leak.item())
    flat = [order.flat(currents), *(None if x is None else order.flat(x) for x in state)]
    dynamics, dtype = dynamics._replace(threshold=threshold.detach()), dtype or currents.dtype
    learning = [x for x in (currents, state.membrane, threshold, leak) if x is not None and x.requires_grad]
    if dynamics.surrogate is not None and torch.is_grad_enabled() and learning:
        train, membrane, since_spike, count, codes = _Scan.apply(*flat, threshold, leak, dynamics, dtype)
    else:
        (train, membrane, since_spike, count), _ = _forward(*flat, dynamics._replace(surrogate=None), dtype)
        codes = None
    train, membrane, since_spike, codes = (
        None if x is None else order.shaped(x) for x in (train, membrane, since_spike, codes)
    )
    return Scanned(train, State(membrane, since_spike), count, codes)


class _MemoryOrder:
    """The order in which the neurons of currents [T, B, ...] lie in memory, as one dimension, without copies."""

    def __init__(self, currents: torch.Tensor):
        self.dims = sorted(range(1, currents.dim()), key=currents.stride, reverse=True)
        self.shape = [currents.shape[dim] for dim in self.dims]

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """[B, ...] -> [N], [T, B, ...] -> [T, N]."""
        time = [0] * (tensor.dim() > len(self.dims))
        return tensor.permute(*time, *(dim - 1 + len(time) for dim in self.dims)).flatten(len(time))

    def shaped(self, flat: torch.Tensor) -> torch.Tensor:
        """[N] -> [B, ...], [T, N] -> [T, B, ...]."""
        time = [0] * (flat.dim() - 1)
        inverse = [self.dims.index(dim) + len(time) for dim in range(1, len(self.dims) + 1)]
        return flat.unflatten(-1, self.shape).permute(*time, *inverse)


def _tiles(membrane: torch.Tensor) -> Iterator[slice]:
    size = TILE if membrane.is_cpu else len(membrane)
    return (slice(start, start + size) for start in range(0, len(membrane), size))


def _forward(currents, membrane, since_spike, dynamics: Dynamics, dtype, before=None):
    """The scan on flat tensors [T, N] and [N]: ((spikes, membrane, since_spike, count), codes or slopes).

    `before` [T, N], if given, receives the membranes at the beginning of each step.
    """
    leak, threshold, reset, surrogate = dynamics
    membrane, window = membrane.clone(), getattr(surrogate, "window", None)
    since_spike = None if since_spike is None or surrogate is None else since_spike.clone()
    if before is None and native.serves(currents, membrane, dynamics, dtype):
        train, kept, count = native.forward(currents, membrane, since_spike, dynamics, dtype)
        return (train, membrane, since_spike, torch.tensor(count, dtype=torch.float64)), kept
    train = torch.empty_like(currents, dtype=dtype)
    stored = train.view(torch.int8) if dtype == torch.uint8 else train  # conversion to int8 is fast, to uint8 slow
    kept = None
    if surrogate is not None:
        kept = torch.empty_like(currents, dtype=torch.int8 if window else membrane.dtype)
    counts = []
    scratch, slopes = (torch.empty_like(membrane[next(_tiles(membrane))]) for _ in range(2))
    for tile in _tiles(membrane):
        u, limit = membrane[tile], threshold if len(threshold) == 1 else threshold[tile]
        since, slope = None if since_spike is None else since_spike[tile], slopes[: len(u)]
        for t, (current, spikes) in enumerate(zip(*(x[:, tile].unbind(0) for x in (currents, stored)), strict=True)):
            if before is not None:
                before[t, tile].copy_(u)
            if leak != 1:
                u.mul_(leak)
            u.add_(_in_dtype_of(u, current, scratch))
            if window:
                torch.le(torch.sub(u, limit, out=slope).abs_(), window, out=slope)
            elif surrogate is not None:
                kept[t, tile].copy_(surrogate(u, limit, since))
            fired = spikes if spikes.dtype == u.dtype else scratch[: len(u)]
            torch.ge(u, limit, out=fired)
            if fired is not spikes:
                spikes.copy_(fired)
            if window:
                kept[t, tile].copy_(slope.add_(fired, alpha=SPIKE))
            counts.append(fired.sum())
            u.addcmul_(fired, u if reset == "zero" else limit, value=-1)
            if since is not None:
                since.masked_fill_(fired > 0, 0).add_(1)
    return (train, membrane, since_spike, torch.stack(counts).double().sum()), kept


def _backward(slopes_of_train, slope_of_membrane, train, kept, dynamics: Dynamics, dtype):
    """Gradients of currents [T, N] and of the membrane [N] before the chunk; resets are detached.

    `kept` is codes if `train` is None, else slopes.
    """
    behind = slope_of_membrane.clone()  # the gradient of the membrane after the step at hand
    if native.serves(slopes_of_train, behind, dynamics, dtype) and (train is None or train.dtype == dtype):
        return native.backward(slopes_of_train, behind, kept, train, dynamics), behind
    gradients, height = torch.empty_like(kept, dtype=dtype), getattr(dynamics.surrogate, "height", 1.0)
    scratches = [torch.empty_like(behind[next(_tiles(behind))]) for _ in range(3)]
    for tile in _tiles(behind):
        g = behind[tile]
        slope, silent, scratch = (x[: len(g)] for x in scratches)
        for t in reversed(range(len(kept))):
            slope.copy_(kept[t, tile])
            if train is None:
                torch.lt(slope, SPIKE, out=silent)
                slope.add_(silent, alpha=SPIKE).sub_(SPIKE)
            if dynamics.reset == "zero" and train is None:
                g.mul_(silent)
            elif dynamics.reset == "zero":
                g.addcmul_(g, _in_dtype_of(g, train[t, tile], scratch), value=-1)
            g.addcmul_(slope, _in_dtype_of(g, slopes_of_train[t, tile], scratch), value=height)
            gradients[t, tile].copy_(g)
            if dynamics.leak != 1:
                g.mul_(dynamics.leak)
    return gradients, behind


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, currents, membrane, since_spike, threshold, leak, dynamics, dtype):
        before = torch.empty_like(currents, dtype=membrane.dtype) if ctx.needs_input_grad[4] else None
        (train, membrane, since_spike, count), kept = _forward(currents, membrane, since_spike, dynamics, dtype, before)
        codes = kept if hasattr(dynamics.surrogate, "window") else None
        ctx.save_for_backward(train if codes is None else None, kept, before)
        ctx.dynamics, ctx.dtype, ctx.wide = dynamics, currents.dtype, membrane.dtype
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for x in (since_spike, count, codes) if x is not None))
        return train, membrane, since_spike, count, codes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slopes_of_train, slope_of_membrane, *_):
        train, kept, before = ctx.saved_tensors
        if slope_of_membrane is None:  # of the last chunk
            slope_of_membrane = torch.zeros_like(kept[0], dtype=ctx.wide)
        if slopes_of_train is None:
            slopes_of_train = torch.zeros((), dtype=ctx.wide, device=kept.device).expand(kept.shape)
        currents, membrane = _backward(slopes_of_train, slope_of_membrane, train, kept, ctx.dynamics, ctx.dtype)
        threshold = leak = None
        if ctx.needs_input_grad[3]:
            threshold = _of_threshold(slopes_of_train, train, kept, ctx.dynamics)
        if ctx.needs_input_grad[4]:  # the membrane before a step enters the one that fires with the factor `leak`
            leak = sum((g * u).sum() for g, u in zip(currents, before, strict=True))
        return currents, membrane, None, threshold, leak, None, None


def _of_threshold(slopes_of_train, train, kept, dynamics: Dynamics) -> torch.Tensor:
    """The gradient of the threshold [N] or [1]: a spike depends on it as on its membrane, with the other sign."""
    threshold, height = dynamics.threshold, getattr(dynamics.surrogate, "height", 1.0)
    total = torch.zeros_like(kept[0], dtype=threshold.dtype)
    for slope, of_spikes in zip(kept, slopes_of_train, strict=True):
        slope = slope & 1 if train is None else slope
        total.addcmul_(slope.to(total.dtype), of_spikes.to(total.dtype), value=-height)
    return total if threshold.numel() > 1 else total.sum().view(1)


def _in_dtype_of(wanted: torch.Tensor, values: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """`values` in the dtype of `wanted`, widened into `scratch` if they have another."""
    return values if values.dtype == wanted.dtype else scratch[: len(values)].copy_(values)
