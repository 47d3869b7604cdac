"""One training run of an experiment: from a fresh net to its answers, its rates and its operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from snnkit import energy, evaluate, models, train
from snnkit.data import Split
from snnkit.fingerprint import fingerprint
from snnkit.paths import data_root
from snnkit.recipe import Recipe

INITS = ("unit-variance", "paper")


@dataclass(frozen=True)
class Trial:
    """A trained `net`, in eval mode on the CPU, its training's `history`, and what it does on test images.

    `correct` bool [images]; `rates` {layer: spikes a neuron and step}, of an ANN none; `account` of its operations.
    """

    net: nn.Module
    history: train.History
    correct: torch.Tensor
    rates: dict[str, float]
    account: energy.Account

    @property
    def accuracy(self) -> float:
        """Share of the test images answered correctly, in percent."""
        return 100 * self.correct.double().mean().item()


def fresh(
    name: str,
    training: Split,
    neuron: Callable[[], nn.Module] | None = None,
    *,
    seed: int = 0,
    init: str = INITS[0],
    **options,
) -> nn.Module:
    """The net `name` for images and classes like those of `training`, with weights drawn from torch's `seed`.

    `init` "paper" leaves them as `snnkit.models.build` draws them, "unit-variance" rescales them on up to 256 of the
    images (`unit_variance_init`), of recordings on their first frames. `neuron` and `options` (width, dropout, relu,
    stochmax) as for `build`.

    Raises what these raise, and ValueError for an unknown init.
    """
    if init not in INITS:
        raise ValueError(f"init is {init!r}; use one of {', '.join(map(repr, INITS))}")
    torch.manual_seed(seed)
    in_channels, size = training.pixels.shape[1] // max(1, training.frames), training.pixels.shape[-1]
    shape = {"num_classes": len(training.classes), "in_channels": in_channels, "size": size}
    net = models.build(name, neuron, **shape, **options)
    if init == "unit-variance":
        shown = training.subset(min(256, len(training))).images
        models.unit_variance_init(net, shown[:, :in_channels])
    return net


def run(
    net: nn.Module,
    training: Split,
    validation: Split,
    test: Split,
    recipe: Recipe,
    *,
    counted_images: int = 8,
    device: torch.device | str = "cpu",
    keep: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Trial:
    """Train `net` in place with `snnkit.train.fit`, then test it as it was trained: same steps, coding and precision.

    Operations are counted on the first `counted_images` of `test`. With `keep` the training's state stays in the data
    folder's cache, under a name that net, recipe and images decide: the same call again, after a cut or for a second
    look, goes on from there.

    Raises what `fit` raises.
    """
    folder = _folder(net, training, recipe) if keep else None
    history = train.fit(net, training, validation, recipe, folder, device, say)
    counted, draws = test.first(counted_images).images, torch.Generator().manual_seed(recipe.seed)
    if not recipe.timesteps:
        correct = evaluate.ann_correct(net, test, precision=recipe.precision, device=device)
        return Trial(net.cpu(), history, correct, {}, energy.account(net.cpu(), counted))
    options = {"seed": recipe.seed, "coding": recipe.coding, "precision": recipe.precision, "device": device}
    outcome = evaluate.over_time(net, test, [recipe.timesteps], **options)
    account = energy.account(net.cpu(), counted, recipe.timesteps, coding=recipe.coding, generator=draws)
    return Trial(net, history, outcome.correct[:, -1], outcome.rates, account)


def _folder(net: nn.Module, training: Split, recipe: Recipe) -> Path:
    """Where the state of this training is kept: other weights, neurons, recipe or images have another place.

    Of the recipe and of the images' shape only what is not usual counts, so that what is kept stays where it is.
    """
    unusual = {f.name: getattr(recipe, f.name) for f in fields(recipe) if getattr(recipe, f.name) != f.default}
    shape = tuple(training.pixels.shape[1:])
    images = training.describe() + (f" {shape}" if shape != (3, 32, 32) else "")
    return data_root() / "cache" / "trials" / fingerprint(f"{net}\n{unusual}\n{images}", net.state_dict())
