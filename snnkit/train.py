"""One supervised training loop: seeded, resumable, keeping the weights that did best on the validation images."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from snnkit.cost import duration, estimate
from snnkit.data import Split
from snnkit.paths import write_atomically
from snnkit.simulation import inference_precision
from snnkit.small_maps import SmallMaps

MOMENTUM_SWING = 0.05


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum under a one-cycle learning rate.

    The rate rises to `learning_rate` within a fifth of the steps and falls to 0; the momentum falls from 0.05 above
    `momentum` to 0.05 below it and rises again (a run of less than 10 steps sees the beginning of that only).
    `clip` is the largest norm of a step's gradient, 0: any. `centre` keeps the mean of every filter's weights at zero
    (their gradients too; Yong 2020). Both let deep nets without batch-norm and bias learn at high rates.
    `augment` shifts images by up to 4 pixels; `flip` mirrors half of them (not for digits). `precision` as for
    `snnkit.simulate`.
    """

    epochs: int = 30
    batch: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    clip: float = 0.0
    centre: bool = False
    augment: bool = True
    flip: bool = True
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self):
        for name in ("epochs", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not self.clip >= 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0, or 0 for gradients of any size")
        if not MOMENTUM_SWING <= self.momentum < 1 - MOMENTUM_SWING:
            raise ValueError(
                f"momentum is {self.momentum}; it must lie in [{MOMENTUM_SWING}, {1 - MOMENTUM_SWING}), "
                f"for it cycles {MOMENTUM_SWING} up and down"
            )


@dataclass(frozen=True)
class History:
    """What a training run left behind: a row per epoch, the best epoch (from 1), and the seconds it took."""

    rows: list[dict]
    best_epoch: int
    seconds: float


def fit(
    net: nn.Module,
    train: Split,
    validation: Split,
    recipe: Recipe,
    folder: str | Path | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
) -> History:
    """Train `net` (images [B, ...] -> logits [B, K]) in place; it ends with its best validation epoch's weights.

    With a `folder`, the state is kept there after every epoch and a later call with the same recipe and images goes on
    where it stopped, to the same result. `say` receives the progress, one line an epoch, after a line with the
    estimated cost.

    Raises ValueError if the folder holds the state of another recipe or training set, FloatingPointError for a loss
    that is no number, OSError if the folder cannot be written.
    """
    net.to(device, memory_format=torch.channels_last)
    steps_per_epoch = -(-len(train) // recipe.batch)
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=max(10, steps_per_epoch * recipe.epochs),  # with less, torch's cycle divides by zero
        pct_start=0.2,
        base_momentum=round(recipe.momentum - MOMENTUM_SWING, 6),
        max_momentum=round(recipe.momentum + MOMENTUM_SWING, 6),
    )
    if recipe.centre:
        _centre(conv.weight.data for conv in _convolutions(net))
    rows, best, seconds = [], copy.deepcopy(net.state_dict()), 0.0
    state_file = Path(folder) / "state.pt" if folder is not None else None
    if state_file is not None and state_file.is_file():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["recipe"] != asdict(recipe) or state["images"] != train.describe():
            raise ValueError(
                f"{state_file} belongs to another run ({state['recipe']} on {state['images']}); "
                "use another folder or delete it"
            )
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        rows, best, seconds = state["rows"], state["best"], state["seconds"]
        say(f"resuming after epoch {len(rows)} of {recipe.epochs}")
    else:
        cost = estimate(
            net, train.batch(slice(0, recipe.batch)).to(device), 3 * recipe.epochs * len(train), recipe.precision
        )
        say(f"training, forward and backward: {cost}")

    for epoch in range(len(rows), recipe.epochs):
        start = time.perf_counter()
        loss = _train_epoch(net, train, recipe, epoch, optimizer, schedule, device)
        accuracy = evaluate(net, validation, precision=recipe.precision)
        seconds += time.perf_counter() - start
        if not rows or accuracy > max(row["validation"] for row in rows):
            best = copy.deepcopy(net.state_dict())
        rows.append({"epoch": epoch + 1, "loss": loss, "validation": accuracy})
        if state_file is not None:
            state = {"recipe": asdict(recipe), "images": train.describe(), "net": net.state_dict(), "rows": rows}
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            state |= {"best": best, "seconds": seconds}
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomically(state_file, buffer.getvalue())
        left = seconds / len(rows) * (recipe.epochs - len(rows))
        say(f"epoch {epoch + 1}/{recipe.epochs}  loss {loss:.4f}  validation {accuracy:.2%}  {duration(left)} left")
    net.load_state_dict(best)
    net.eval()
    best_epoch = max(rows, key=lambda row: row["validation"])["epoch"]
    return History(rows, best_epoch, seconds)


def _train_epoch(net, train: Split, recipe: Recipe, epoch: int, optimizer, schedule, device) -> float:
    """One pass over the training images in an order, and with dropout masks, that only seed and epoch decide."""
    generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + epoch)
    order = torch.randperm(len(train), generator=generator)
    net.train()
    total = 0.0
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(1_000_003 * recipe.seed + epoch)
        for index in order.split(recipe.batch):
            images = train.batch(index)
            if recipe.augment:
                images = shift(images, 4, generator)
            if recipe.flip:
                mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
                images = torch.where(mirrored, images.flip(-1), images)
            images = images.to(device, memory_format=torch.channels_last)
            with inference_precision(recipe.precision, images.device), SmallMaps():
                logits = net(images)
            loss = F.cross_entropy(
                logits.float(), train.labels[index].to(device), label_smoothing=recipe.label_smoothing
            )
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}; lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.centre:
                _centre(conv.weight.grad for conv in _convolutions(net) if conv.weight.grad is not None)
            if recipe.clip:
                nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
    return total / len(train)


def _convolutions(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]


def _centre(filters: Iterable[torch.Tensor]) -> None:
    """Subtract from each filter [O, I, ...] its mean over all but the first dimension, in place."""
    for weight in filters:
        weight -= weight.mean(tuple(range(1, weight.dim())), keepdim=True)


def shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Move each image [B, C, H, W] by up to `pixels` in both directions; what comes in is 0, the training mean."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    offsets = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height))[:, None, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, None, :]
    image = torch.arange(count)[:, None, None, None]
    return padded[image, torch.arange(images.shape[1])[None, :, None, None], rows, columns]


@torch.no_grad()
def evaluate(net: nn.Module, split: Split, batch: int = 500, precision: str | None = None) -> float:
    """Share of the images of `split` that the ANN `net` classifies correctly; leaves it in eval mode."""
    net.eval()
    device = next(net.parameters()).device
    correct = 0
    for index in torch.arange(len(split)).split(batch):
        images = split.batch(index).to(device, memory_format=torch.channels_last)
        with inference_precision(precision, device):
            correct += int((net(images).argmax(-1).cpu() == split.labels[index]).sum())
    return correct / len(split)
