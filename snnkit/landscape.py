"""The loss around trained weights, on a plane of two random directions (Li et al. 2018; MS section V-A)."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from snnkit.paths import write_atomically

Direction = dict[str, torch.Tensor]  # parameter name -> what is added to it


def directions(net: nn.Module, seed: int = 0) -> tuple[Direction, Direction]:
    """Two random directions in the space of the weights of `net`, normalised filter by filter.

    In each filter (all weights to one output) both have the norm that the filter has, and they are orthogonal to one
    another. Parameters of a single dimension, biases and batch-norms, stay where they are.
    """
    generator, first, second = torch.Generator().manual_seed(seed), {}, {}
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2:
            continue
        weight = parameter.detach().cpu().flatten(1)
        one, other = torch.randn(2, *weight.shape, generator=generator).to(weight)
        other = other - (other * one).sum(1, keepdim=True) / one.square().sum(1, keepdim=True) * one
        if weight.shape[1] == 1:  # nothing is orthogonal to a single weight
            other = torch.zeros_like(other)
        for direction, drawn in ((first, one), (second, other)):
            norm = drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)
            scaled = drawn / norm * weight.norm(dim=1, keepdim=True)
            direction[name] = scaled.view(parameter.shape).to(parameter.device)
    return first, second


@torch.no_grad()
def landscape(
    net: nn.Module,
    loss: Callable[[], float],
    alphas: Sequence[float],
    betas: Sequence[float],
    seed: int = 0,
    file: str | Path | None = None,
    bar: bool = False,
) -> torch.Tensor:
    """`loss()` of `net` with its weights moved by `alphas` and `betas` along `directions(net, seed)`, [alphas, betas].

    A step of 1 is as long as the weights are. `net` is given back as it was, whatever happens. With a `file`, every
    value is kept there at once, and the same call goes on where it was cut; `bar` shows progress.

    Raises ValueError if the file belongs to other weights, steps or seed.
    """
    parameters, moves = dict(net.named_parameters()), directions(net, seed)
    kept = {name: parameters[name].detach().clone() for name in moves[0]}
    mark, values = _mark(kept, alphas, betas, seed), torch.full((len(alphas), len(betas)), math.nan)
    if file is not None and Path(file).is_file():
        stored = torch.load(file, weights_only=True)
        if stored["mark"] != mark:
            raise ValueError(f"{file} belongs to other weights, steps or seed; use another file or delete it")
        values = stored["values"]
    try:
        for row, column in tqdm(values.isnan().nonzero().tolist(), "landscape", leave=False, disable=not bar):
            for name, weight in kept.items():
                step = alphas[row] * moves[0][name] + betas[column] * moves[1][name]
                parameters[name].copy_(weight + step)
            found = float(loss())
            values[row, column] = found if math.isfinite(found) else math.inf
            if file is not None:
                buffer = io.BytesIO()
                torch.save({"mark": mark, "values": values}, buffer)
                write_atomically(Path(file), buffer.getvalue())
    finally:
        for name, weight in kept.items():
            parameters[name].copy_(weight)
    return values


def _mark(weights: Direction, alphas: Sequence[float], betas: Sequence[float], seed: int) -> str:
    digest = hashlib.sha256(f"{list(alphas)} {list(betas)} {seed}".encode())
    for name, weight in weights.items():
        digest.update(name.encode() + weight.cpu().flatten().numpy().tobytes())
    return digest.hexdigest()
