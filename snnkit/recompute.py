"""Backpropagation through time that does not remember all of it.

What gradients need of a chunk of time is thrown away after the forward pass and computed again when its turn comes.
That is only right for a function of its inputs alone: so a chunk becomes one, from the input train and the states of
all layers to the output and the states after it. Where all of time has to be one chunk, parts of the net take turns
instead of chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from snnkit.neurons import Presentation, Stateful, presenting
from snnkit.scan import State

Form = list[tuple[Stateful, bool]]  # layers that have a state, and whether it is a `State` or a single tensor


def run_forgetful(
    net: Callable[[torch.Tensor], torch.Tensor],
    modules: Collection[nn.Module],
    presentation: Presentation,
    folded: torch.Tensor,
) -> torch.Tensor:
    """`net(folded)` for the chunk that `presentation` has open, remembering only `folded` and the states before it.

    `modules` are all that `net` calls, its stateful layers not lent to a presentation yet. States, spike counts and
    sizes in `presentation` move on as in a plain run, so do the statistics of batch-norms; gradients reach `folded`,
    the weights and the states before.
    """
    layers = [module for module in modules if isinstance(module, Stateful)]
    norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    timesteps, constant = presentation.timesteps, presentation.constant
    states = {layer: presentation.states[layer] for layer in layers if layer in presentation.states}
    before = _form(states)
    first = []  # what the first run saw; holding its tensors here would keep the whole graph alive

    def chunk(folded: torch.Tensor, *tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        own = Presentation()
        own.keeps_codes, own.constant, own.states = False, constant, _states(before, tensors)
        own.open_chunk(timesteps)
        with presenting(layers, own), _keeping_statistics(norms if first else ()):
            output = net(folded)
        after, own.states = own.states, {}
        if not first:
            first.append((own, _form(after)))
        return output, *_tensors(after)

    output, *tensors = checkpoint(chunk, folded, *_tensors(states), use_reentrant=False)
    seen, after = first[0]
    presentation.states |= _states(after, tensors)
    presentation.add(seen)
    return output


@contextlib.contextmanager
def forgetting(parts: Collection[nn.Module], presentation: Presentation):
    """Every call of one of `parts`, within the block, is forgetful."""
    for part in parts:
        part.forward = partial(run_forgetful, part.forward, [*part.modules()], presentation)
    try:
        yield
    finally:
        for part in parts:
            del part.forward  # what the class says is in force again


@contextlib.contextmanager
def _keeping_statistics(norms: Collection[nn.Module]):
    """Within the block, batch-norms in training mode see a batch that they have counted before."""
    tracking = {n: (n.momentum, n.num_batches_tracked.clone()) for n in norms if n.training and n.track_running_stats}
    for norm in tracking:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in tracking.items():
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def _form(states: dict) -> Form:
    return [(layer, isinstance(state, State)) for layer, state in states.items()]


def _tensors(states: dict) -> list[torch.Tensor | None]:
    return [tensor for state in states.values() for tensor in (state if isinstance(state, State) else [state])]


def _states(form: Form, tensors: Iterable[torch.Tensor | None]) -> dict:
    values = iter(tensors)
    return {layer: State(next(values), next(values)) if whole else next(values) for layer, whole in form}
