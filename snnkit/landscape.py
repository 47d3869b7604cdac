"""The loss around trained weights, on a plane of two random directions (Li et al. 2018; MS section V-A)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from snnkit.fingerprint import fingerprint
from snnkit.neurons import LIF
from snnkit.paths import write_atomically

Direction = dict[str, torch.Tensor]  # parameter name -> what is added to it


def directions(net: nn.Module, seed: int = 0) -> tuple[Direction, Direction]:
    """Two random directions in the space of the weights of `net`, normalised filter by filter.

    In each filter (all weights to one output) both have the norm that the filter has, and they are orthogonal to one
    another. Parameters of a single dimension, biases and batch-norms, stay where they are, and so do neurons'.
    """
    generator, first, second = torch.Generator().manual_seed(seed), {}, {}
    of_neurons = {id(p) for module in net.modules() if isinstance(module, LIF) for p in module.parameters()}
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2 or id(parameter) in of_neurons:
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
    folder: str | Path | None = None,
    what: str = "",
    bar: bool = False,
) -> torch.Tensor:
    """`loss()` of `net` with its weights moved by `alphas` and `betas` along `directions(net, seed)`, [alphas, betas].

    A step of 1 is as long as the weights are; a loss that is no finite number counts as infinite. `net` is given back
    as it was, statistics included, whatever happens. With a `folder`, every value is kept there at once, in a file
    whose name weights, grid, seed and `what` decide, and the same call goes on where it was cut; `what` says what the
    loss is of (images, time steps). `bar` shows progress.

    Raises ValueError if that file holds no such values, OSError if it cannot be written.
    """
    alphas, betas = [float(a) for a in alphas], [float(b) for b in betas]
    kept, moves = {name: value.clone() for name, value in net.state_dict().items()}, directions(net, seed)
    values, file = torch.full((len(alphas), len(betas)), math.nan), None
    if folder is not None:
        file = Path(folder) / f"{fingerprint(f'{alphas} {betas} {seed} {what}', kept)}.pt"
        values = _stored(file, values.shape) if file.is_file() else values
    try:
        for row, column in tqdm(values.isnan().nonzero().tolist(), "landscape", leave=False, disable=not bar):
            net.load_state_dict(kept)
            for name, weight in net.named_parameters():
                if name in moves[0]:
                    weight += alphas[row] * moves[0][name] + betas[column] * moves[1][name]
            found = float(loss())
            values[row, column] = found if math.isfinite(found) else math.inf
            if file is not None:
                buffer = io.BytesIO()
                torch.save(values, buffer)
                write_atomically(file, buffer.getvalue())
    finally:
        net.load_state_dict(kept)
    return values


def _stored(file: Path, shape: torch.Size) -> torch.Tensor:
    try:
        values = torch.load(file, weights_only=True)
        if values.shape != shape:
            raise ValueError(f"{list(values.shape)} values, not {list(shape)}")
    except Exception as error:  # whatever torch finds wrong with it
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{file} holds no such landscape ({told}); delete it") from None
    return values
