"""Backpropagation through time that does not remember all of it.

What gradients need of a chunk of time is thrown away after the forward pass and computed again when its turn comes.
That is only right for a function of its inputs alone: so a chunk becomes one, from the input train and the states of
all layers to the output and the states after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from snnkit.neurons import Presentation, Stateful, presenting
from snnkit.scan import State

Form = list[tuple[Stateful, bool]]  # layers that have a state, and whether it is a `State` or a single tensor


def run_forgetful(
    net: nn.Module, layers: Sequence[Stateful], presentation: Presentation, folded: torch.Tensor
) -> torch.Tensor:
    """`net(folded)` for the chunk that `presentation` has open, remembering only `folded` and the states before it.

    `layers` are all stateful layers of `net`, not lent to a presentation yet. States, spike counts and sizes in
    `presentation` move on as in a plain run; gradients reach `folded`, the weights and the states before.
    """
    timesteps, constant, before = presentation.timesteps, presentation.constant, _form(presentation.states)
    first = []  # what the first run saw; holding its tensors here would keep the whole graph alive

    def chunk(folded: torch.Tensor, *tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        own = Presentation()
        own.keeps_codes, own.constant, own.states = False, constant, _states(before, tensors)
        own.open_chunk(timesteps)
        with presenting(layers, own):
            output = net(folded)
        after, own.states = own.states, {}
        if not first:
            first.append((own, _form(after)))
        return output, *_tensors(after)

    output, *tensors = checkpoint(chunk, folded, *_tensors(presentation.states), use_reentrant=False)
    seen, after = first[0]
    presentation.states = _states(after, tensors)
    presentation.add(seen)
    return output


def _form(states: dict) -> Form:
    return [(layer, isinstance(state, State)) for layer, state in states.items()]


def _tensors(states: dict) -> list[torch.Tensor | None]:
    return [tensor for state in states.values() for tensor in (state if isinstance(state, State) else [state])]


def _states(form: Form, tensors: Iterable[torch.Tensor | None]) -> dict:
    values = iter(tensors)
    return {layer: State(next(values), next(values)) if whole else next(values) for layer, whole in form}
