"""Learning without labels, one layer at a time (BR sections III-B3 and IV), and what a classifier learns from it."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from snnkit import coding as codings
from snnkit.concat import Concat
from snnkit.data import Split
from snnkit.fingerprint import fingerprint
from snnkit.neurons import LIF
from snnkit.paths import data_root, write_atomically
from snnkit.simulation import simulate
from snnkit.stdp import Rule, adapt, learners, weight_change

FURTHEST = 5  # above so many times its target rate a layer is saturated, below one part in so many silent
KEEP_EVERY = 20  # batches
AT_ONCE = 400  # images times steps whose rates are measured at once: more leaves the processor's cache
LEAST = 1e-3  # of a threshold, whatever the currents


@dataclass(frozen=True)
class Schedule:
    """How images are shown: each for `timesteps` steps, `batch` at once, `epochs` times to every layer.

    A layer's thresholds settle for `settle` batches before it learns and again afterwards. With 0 epochs the kernels
    stay as they are, and only thresholds settle. `seed` decides order and draws.
    """

    timesteps: int = 25
    batch: int = 50
    epochs: int = 1
    settle: int = 10
    seed: int = 0
    coding: str = "poisson"

    def __post_init__(self):
        codings.check_timesteps(self.timesteps)
        for name, least in (("batch", 1), ("epochs", 0), ("settle", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if self.coding not in ("poisson", "constant"):
            raise ValueError(f"coding is {self.coding!r}; use 'poisson' or 'constant'")

    def learning(self, images: int) -> tuple[range, int]:
        """The numbers of the batches from which a layer learns, and the number of all its batches."""
        batches = range(self.settle, self.settle + self.epochs * -(-images // self.batch))
        return batches, batches.stop + (self.settle if self.epochs else 0)

    def batch_of(self, images: int, step: int, number: int) -> tuple[torch.Tensor, torch.Generator]:
        """The images of the batch `number` of a layer, and the generator of its draws; `step` counts over all layers.

        Both depend on the seed and these numbers alone, so that a run can go on anywhere.
        """
        epoch, place = divmod(number - self.settle, -(-images // self.batch))
        order = torch.randperm(images, generator=torch.Generator().manual_seed(1_000_003 * self.seed + epoch))
        draws = torch.Generator().manual_seed(1_000_003 * self.seed + 1_000 + step)
        return order[place * self.batch : (place + 1) * self.batch], draws

    def encode(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """`images` [B, ...] as a train [T, B, ...]."""
        if self.coding == "constant":
            return codings.constant(images, self.timesteps)
        return codings.poisson(images, self.timesteps, generator)


@torch.no_grad()
def learn(
    body: Concat,
    images: Split,
    rule: Rule,
    schedule: Schedule,
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
    bar: bool = False,
) -> list[dict]:
    """Let the kernels of `body`, the spiking part of a net, learn from `images` by the `rule`, layer after layer.

    Every pass of a repeated layer (BackRes) updates its kernels once a batch; the later ones read what the pass before
    has sent. Neurons of a map share a threshold; the first batch sets it from their currents. `body` changes in place.
    Returns a row for each pass and batch: {"layer", "batch", "learning", "rate" (spikes a neuron and step), "threshold"
    (mean over the maps), "change" (of the kernels, relative to their norm), "seconds" (of the batch)}. With a `folder`
    the state is kept there, under a name that body, images, rule and schedule decide: the same call again goes on from
    it, to the same weights.

    Raises ValueError if a neuron is none of `snnkit.neurons`, if the images are not coded in spikes but should be
    learned from, or if the state kept is corrupt, and RuntimeError, with the name of the pass, if one is silent or
    saturated when its learning would begin.
    """
    _check_neurons(body)
    if schedule.coding != "poisson" and schedule.epochs:
        raise ValueError(f"coding is {schedule.coding!r}: STDP learns from spikes; use 'poisson', or 0 epochs")
    _prepare(body)
    mark = _mark(body.state_dict(), images, f"{body} {rule} {schedule}")
    file = Path(folder) / f"{mark}.pt" if folder is not None else None
    state = _stored(file)
    rows, done = state.get("rows", []), state.get("done", 0)
    if state:
        body.load_state_dict(state["body"])
        say(f"resuming after {done} batches")
    learning, total = schedule.learning(len(images))
    work = [(layer, number) for layer in body.passes for number in range(total)]
    left = tqdm(work[done:], "learning", len(work), leave=False, initial=done, disable=not bar)
    for step, (layer, number) in enumerate(left, done):
        start = time.perf_counter()
        index, generator = schedule.batch_of(len(images), step, number)
        train = schedule.encode(images.batch(index), generator)
        found = _present(body, layer, train, rule, generator, first=number == 0, learning=number in learning)
        told = {"batch": number, "learning": number in learning, "seconds": time.perf_counter() - start}
        rows += [told | row for row in found]
        if number == learning.start - 1:
            for row in found:
                _refuse_extremes(row, rule)
        if file is not None and (number == total - 1 or number % KEEP_EVERY == 0):
            buffer = io.BytesIO()
            torch.save({"body": body.state_dict(), "rows": rows, "done": step + 1}, buffer)
            write_atomically(file, buffer.getvalue())
        if number == total - 1:
            say(f"{layer}: " + ", ".join(f"{row['layer']} fires {row['rate']:.3f} a neuron and step" for row in found))
    return rows


def _present(body: Concat, layer: str, train, rule: Rule, generator, first: bool, learning: bool) -> list[dict]:
    """Show one batch, a spike `train` [T, B, C, H, W], to the net up to `layer`, whose passes adapt and learn."""
    value, rows = train, []
    for name in [*body.passes][: [*body.passes].index(layer) + 1]:
        convolution = body.get_submodule(name)
        for key in body.passes[name]:
            neuron, pre = body.neurons[key], body.read_by(name, value, train)
            folded = pre.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            currents = convolution(folded).unflatten(0, pre.shape[:2])  # [T*B, C, H, W] -> [T, B, C, H, W]
            if first and name == layer:
                drive = currents.mean(0).clamp(min=0).mean((0, 2, 3))
                neuron.threshold.copy_((drive / rule.target).clamp(min=LEAST).view(-1, 1, 1))
            value = simulate(neuron, currents, len(currents), coding=None).output
            if name == layer:
                rows.append({"layer": key, "rate": value.mean().item(), "threshold": neuron.threshold.mean().item()})
                rows[-1]["change"] = 0.0
                if learning:
                    learns = learners(currents.sum(0) / neuron.threshold, rule, generator)
                    change = weight_change(convolution, pre, value * learns, rule)
                    rows[-1]["change"] = (change.norm() / convolution.weight.norm()).item()
                    convolution.weight += change
                adapt(neuron.threshold, value.mean((0, 1, 3, 4)), rule)
    return rows


def _prepare(body: Concat) -> None:
    """Give every map of every pass a threshold of its own."""
    for layer, keys in body.passes.items():
        for key in keys:
            body.neurons[key].threshold = torch.ones(body.get_submodule(layer).out_channels, 1, 1)


def _check_neurons(body: Concat) -> None:
    if not isinstance(body, Concat):
        raise TypeError(f"body is a {type(body).__name__}; give the spiking part of a net, such as net.body")
    for key, neuron in body.neurons.items():
        if not isinstance(neuron, LIF):
            raise ValueError(f"{key} has a {type(neuron).__name__}; build the net with a neuron, LIF or IF")


def _stored(file: Path | None) -> dict:
    """The state that `file` holds, {} if there is none; ValueError if it is corrupt."""
    if file is None or not file.is_file():
        return {}
    try:
        state = torch.load(file, weights_only=True)
        return {name: state[name] for name in ("body", "rows", "done")}
    except Exception as error:  # whatever torch finds wrong with it
        raise ValueError(f"{file} holds no state of such a run ({type(error).__name__}); delete it") from None


def _mark(tensors: dict[str, torch.Tensor], images: Split, told: str) -> str:
    """A short name for these tensors, for which images these are, and for `told`."""
    told = f"{told}\n{images.describe()} {tuple(images.pixels.shape)}"
    return fingerprint(told, tensors | {"indices": images.indices, "mean": images.mean})


def _refuse_extremes(row: dict, rule: Rule) -> None:
    if not rule.target / FURTHEST <= row["rate"] <= rule.target * FURTHEST:
        state = "silent" if row["rate"] < rule.target else "saturated"
        raise RuntimeError(
            f"{row['layer']} is {state}: {row['rate']:.2g} spikes a neuron and step where {rule.target:g} is the "
            "target; nothing was learned from it. Let thresholds settle for more batches, or raise adaptation"
        )


@torch.no_grad()
def rates(
    body: Concat, split: Split, schedule: Schedule, folder: str | Path | None = None, precision: str | None = None
) -> Split:
    """What `body` makes of every image of `split`: its rates, as a split that a head can be trained on.

    The means of the pooled spikes over all steps, [maps, H / 2, W / 2] in [0, 1], kept on disk in 1/255: in `folder`
    (default: in the data folder's cache), one file for this body, split and schedule, written batch by batch and then
    renamed: memory grows neither with the images nor with the steps. `precision` as for `snnkit.simulate`.
    """
    folder = data_root() / "cache" / "rates" if folder is None else Path(folder)
    _check_neurons(body)
    file = folder / f"{_mark(body.state_dict(), split, f'{body} {schedule} {precision}')}.rates"
    height, breadth = (side // 2 for side in split.pixels.shape[2:])
    shape = len(split), body.channels, height, breadth
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as stored:
                at_once = max(1, AT_ONCE // schedule.timesteps)
                for start in range(0, len(split), at_once):
                    index = slice(start, min(start + at_once, len(split)))
                    draws = torch.Generator().manual_seed(schedule.seed * len(split) + start)
                    options = {"coding": schedule.coding, "generator": draws, "precision": precision}
                    spikes = simulate(body.eval(), split.batch(index), schedule.timesteps, **options).output
                    stored.write((255 * spikes.mean(0)).round().to(torch.uint8).numpy().tobytes())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    if file.stat().st_size != math.prod(shape):
        raise ValueError(f"{file} has {file.stat().st_size} bytes where {math.prod(shape)} belong; delete it")
    pixels = torch.from_numpy(np.memmap(file, np.uint8, "c", shape=shape))
    label = f"{split.label} as rates {file.stem}"
    return replace(split, pixels=pixels, mean=torch.zeros(shape[1:]), label=label)
