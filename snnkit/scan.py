"""The scan over time of one layer of neurons, and its gradient: what `snnkit.neurons.step` defines, made fast.

Elementwise work on a processor waits for memory. So the neurons are scanned in the order in which they lie in memory,
in tiles whose membranes stay in a core's cache for all steps, and in preallocated tensors of one dtype: operations that
mix dtypes, or write booleans, are several times slower than copying to and from a scratch tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from snnkit.surrogate import Surrogate

TILE = 2**18  # neurons at a time on a processor: 1 MiB a float32 tensor


class State(NamedTuple):
    """What a neuron layer remembers between steps: tensors [B, ...]."""

    membrane: torch.Tensor
    since_spike: torch.Tensor | None = None  # steps since the latest spike; infinite before the first


class Dynamics(NamedTuple):
    """What makes a neuron: `threshold` is a tensor that broadcasts over [B, ...], in the membrane's dtype."""

    leak: float
    threshold: torch.Tensor
    reset: str
    surrogate: Surrogate | None = None


def scan(
    currents: torch.Tensor, state: State, dynamics: Dynamics, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, State, torch.Tensor]:
    """Drive neurons with `currents` [T, B, ...] from `state`: (spikes [T, B, ...], the state after, spikes in all).

    Bit for bit what T calls of `snnkit.neurons.step` give. Spikes are of `dtype` (default: that of the currents).
    Under grad, with a surrogate, gradients reach currents and state; a surrogate with a `height` then costs one byte a
    neuron and step besides the spikes, any other one number.
    """
    order = _MemoryOrder(currents)
    threshold = dynamics.threshold
    if threshold.numel() > 1:
        threshold = order.flat(threshold.expand(currents.shape[1:])[None])[0]
    flat = [order.flat(currents), order.flat(state.membrane[None])[0], state.since_spike]
    if state.since_spike is not None:
        flat[2] = order.flat(state.since_spike[None])[0]
    dynamics, dtype = dynamics._replace(threshold=threshold.reshape(-1)), dtype or currents.dtype
    differentiable = torch.is_grad_enabled() and (currents.requires_grad or state.membrane.requires_grad)
    if dynamics.surrogate is not None and differentiable:
        train, membrane, since_spike, count = _Scan.apply(*flat, dynamics, dtype)
    else:
        (train, membrane, since_spike, count), _ = _forward(*flat, dynamics._replace(surrogate=None), dtype)
    if since_spike is not None:
        since_spike = order.shaped(since_spike[None])[0]
    return order.shaped(train), State(order.shaped(membrane[None])[0], since_spike), count


class _MemoryOrder:
    """The order in which the neurons of a tensor [T, B, ...] lie in memory: [T, B, ...] <-> [T, N] without copies."""

    def __init__(self, tensor: torch.Tensor):
        self.dims = sorted(range(1, tensor.dim()), key=tensor.stride, reverse=True)
        self.shape = [tensor.shape[dim] for dim in self.dims]
        self.inverse = [1 + self.dims.index(dim) for dim in range(1, tensor.dim())]

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(0, *self.dims).reshape(len(tensor), -1)

    def shaped(self, flat: torch.Tensor) -> torch.Tensor:
        return flat.view(len(flat), *self.shape).permute(0, *self.inverse)


def _tiles(membrane: torch.Tensor) -> Iterator[slice]:
    size = TILE if membrane.is_cpu else len(membrane)
    return (slice(start, start + size) for start in range(0, len(membrane), size))


def _forward(currents, membrane, since_spike, dynamics: Dynamics, dtype):
    """The scan on flat tensors [T, N] and [N]: ((spikes, membrane, since_spike, count), slopes for the gradient)."""
    leak, threshold, reset, surrogate = dynamics
    membrane = membrane.clone()
    train = torch.empty_like(currents, dtype=dtype)
    stored = train.view(torch.int8) if dtype == torch.uint8 else train  # conversion to int8 is fast, to uint8 slow
    slopes = None
    if surrogate is not None:
        slopes = torch.empty_like(currents, dtype=torch.int8 if _is_window(surrogate) else membrane.dtype)
    since_spike = None if since_spike is None or surrogate is None else since_spike.clone()
    counts = []
    scratch = torch.empty_like(membrane[next(_tiles(membrane))])
    for tile in _tiles(membrane):
        u, limit = membrane[tile], threshold if len(threshold) == 1 else threshold[tile]
        since = None if since_spike is None else since_spike[tile]
        for t, (current, spikes) in enumerate(zip(*(x[:, tile].unbind(0) for x in (currents, stored)), strict=True)):
            if leak != 1:
                u.mul_(leak)
            u.add_(_in_dtype_of(u, current, scratch))
            if surrogate is not None:
                slopes[t, tile].copy_(_slope(surrogate, u, limit, since))
            fired = spikes if spikes.dtype == u.dtype else scratch[: len(u)]
            torch.ge(u, limit, out=fired)
            if fired is not spikes:
                spikes.copy_(fired)
            counts.append(fired.sum())
            u.addcmul_(fired, u if reset == "zero" else limit, value=-1)
            if since is not None:
                since.masked_fill_(fired > 0, 0).add_(1)
    return (train, membrane, since_spike, torch.stack(counts).double().sum()), slopes


def _backward(slopes_of_train, slope_of_membrane, train, slopes, dynamics: Dynamics, dtype):
    """Gradients of currents [T, N] and of the membrane [N] before the chunk; resets are detached."""
    gradients = torch.empty_like(train, dtype=dtype)
    behind = slope_of_membrane.clone()  # the gradient of the membrane after the step at hand
    height = dynamics.surrogate.height if _is_window(dynamics.surrogate) else 1.0
    scratch = torch.empty_like(behind[next(_tiles(behind))])
    for tile in _tiles(behind):
        g = behind[tile]
        columns = (x[:, tile].unbind(0) for x in (slopes_of_train, train, slopes, gradients))
        for of_spikes, spikes, slope, out in reversed(list(zip(*columns, strict=True))):
            if dynamics.reset == "zero":
                g.addcmul_(g, _in_dtype_of(g, spikes, scratch), value=-1)
            slope = _in_dtype_of(g, slope, scratch)
            g.addcmul_(slope, of_spikes.to(g.dtype), value=height)
            out.copy_(g)
            if dynamics.leak != 1:
                g.mul_(dynamics.leak)
    return gradients, behind


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, currents, membrane, since_spike, dynamics, dtype):
        outputs, slopes = _forward(currents, membrane, since_spike, dynamics, dtype)
        train, _, since_spike, count = outputs
        ctx.save_for_backward(train, slopes)
        ctx.dynamics, ctx.dtype = dynamics, currents.dtype
        ctx.mark_non_differentiable(*(x for x in (since_spike, count) if x is not None))
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slopes_of_train, slope_of_membrane, *_):
        return *_backward(slopes_of_train, slope_of_membrane, *ctx.saved_tensors, ctx.dynamics, ctx.dtype), *[None] * 3


def _is_window(surrogate: Surrogate) -> bool:
    """Whether the surrogate has only two values, 0 and its `height`."""
    return hasattr(surrogate, "height")


def _slope(surrogate: Surrogate, membrane, threshold, since_spike) -> torch.Tensor:
    slope = surrogate(membrane, threshold, since_spike)
    return slope.gt_(0) if _is_window(surrogate) else slope


def _in_dtype_of(wanted: torch.Tensor, values: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """`values` in the dtype of `wanted`, widened into `scratch` if they have another."""
    return values if values.dtype == wanted.dtype else scratch[: len(values)].copy_(values)
