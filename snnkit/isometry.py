"""How gradients travel through the blocks of a net: block dynamical isometry and gradient norms (MS section III-B)."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.special import ndtr

from snnkit.firing import check_gate


@contextlib.contextmanager
def _watching(blocks: dict[str, nn.Module], apart: bool) -> Iterator[dict[str, list]]:
    """Within the block, every call of one of `blocks` leaves its input and output under its name.

    `apart` cuts the graph before each: its input is a leaf of its own.
    """
    seen: dict[str, list] = {}
    for (name, block), (other, inner) in itertools.permutations(blocks.items(), 2):
        if any(module is inner for module in block.modules()):
            raise ValueError(f"{other} is a part of {name}; give blocks that follow one another")

    def before(name):
        def hook(module, inputs):
            if name in seen:
                raise ValueError(f"{name} is called twice; give blocks that are called once, and simulate in one chunk")
            x = inputs[0].detach() if apart else inputs[0].clone()  # spikes become a plain tensor
            seen[name] = [x if x.requires_grad else x.requires_grad_()]
            return (x, *inputs[1:])

        return hook

    def after(name):
        def hook(module, inputs, output):
            seen[name].append(output)

        return hook

    handles = []
    try:
        for name, block in blocks.items():
            handles += [block.register_forward_pre_hook(before(name)), block.register_forward_hook(after(name))]
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def gate_isometry(sigma: float, threshold: float, rate: float, width: float = 1.0) -> float:
    """phi(J J^T) = p / a^2 of the neurons behind the sum of a vanilla block (MS eq. 14), at a first step.

    p is the share of membranes within half of the rectangle's `width` a of the threshold. The residual path brings a
    normal value of mean 0 and standard deviation `sigma` beside a spike that is there with probability `rate`.

    Raises ValueError for values out of range.
    """
    check_gate(sigma, threshold, rate)
    if not width > 0:
        raise ValueError(f"width is {width}; it must be above 0")
    edges = torch.tensor([-width / 2, width / 2], dtype=torch.float64) + threshold
    silent, fired = (ndtr((edges - mean) / sigma).diff().item() for mean in (0, 1))
    return ((1 - rate) * silent + rate * fired) / width**2


def isometry(
    blocks: dict[str, nn.Module], run: Callable[[], object], probes: int = 8, generator: torch.Generator | None = None
) -> dict[str, float]:
    """phi(J J^T) of each of `blocks` {name: module}: the mean square singular value of its Jacobian J.

    `run` calls the net with gradients and each block once (`simulate` with `chunk=timesteps`); J holds the derivatives
    of all outputs by all inputs, over batch, space and time, through the neurons' surrogates. 1 keeps the norm of
    gradients (MS definition 1). The normalised trace is estimated as the mean of |J^T v|^2 over `probes` random sign
    vectors v, divided by the number of outputs (Hutchinson 1990).

    Raises ValueError for a block that is not called, or called twice, or a part of another, or without a gradient.
    """
    if probes < 1:
        raise ValueError(f"probes is {probes}; it must be at least 1")
    with torch.enable_grad(), _watching(blocks, apart=True) as seen:
        run()
    _check_called(blocks, seen)
    found = {}
    for name, (x, y) in seen.items():
        if not y.requires_grad:
            raise ValueError(f"{name} lets no gradient through; give its neurons a surrogate")
        squares = 0.0
        for _ in range(probes):
            signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
            (back,) = torch.autograd.grad(y, x, signs, retain_graph=True)
            squares += back.double().square().sum().item()
        found[name] = squares / probes / y.numel()
    return found


def gradient_norms(blocks: dict[str, nn.Module], loss: Callable[[], torch.Tensor]) -> dict[str, float]:
    """The norm of the gradient of `loss()` by the input of each of `blocks` {name: module}, called once each.

    Equal along depth where blocks are isometries. Raises ValueError for a block that is not called, or called twice,
    or a part of another.
    """
    with torch.enable_grad(), _watching(blocks, apart=False) as seen:
        value = loss()
    _check_called(blocks, seen)
    inputs = [x for x, _ in seen.values()]
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    return {
        name: 0.0 if gradient is None else math.sqrt(gradient.double().square().sum().item())
        for name, gradient in zip(seen, gradients, strict=True)
    }


def _check_called(blocks: dict[str, nn.Module], seen: dict[str, list]) -> None:
    if missing := [name for name in blocks if name not in seen]:
        raise ValueError(f"{', '.join(missing)} was not called; give blocks of the net that runs")
