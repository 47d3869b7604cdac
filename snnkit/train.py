"""One supervised training loop for all nets: seeded, resumable, keeping the weights that did best on validation."""

from __future__ import annotations

import copy
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from snnkit.augment import augmented
from snnkit.coding import frames
from snnkit.cost import duration, estimate
from snnkit.data import Split
from snnkit.evaluate import over_time
from snnkit.neurons import LIF
from snnkit.paths import write_atomically
from snnkit.recipe import Recipe
from snnkit.simulation import inference_precision, simulate
from snnkit.small_maps import SmallMaps
from snnkit.stochmax import Stochmax

PATIENCE = 20  # batches without a spike before a layer is called silent


@dataclass(frozen=True)
class History:
    """What a training run left behind: a row per epoch, the best epoch (from 1), the seconds it took with all before,
    and the rows of its pretraining."""

    rows: list[dict]
    best_epoch: int
    seconds: float
    pretraining: list[dict] = field(default_factory=list)


def fit(
    net: nn.Module,
    train: Split,
    validation: Split,
    recipe: Recipe,
    folder: str | Path | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
    bar: bool = False,
) -> History:
    """Train `net` (images [B, ...] -> logits [B, K]) in place; it ends with its best validation epoch's weights.

    A spiking net is simulated as the recipe says, and its neurons need a surrogate (see `snnkit.surrogate`); rows hold
    their rates on the validation images, and a layer that falls silent is named early. With a `folder`, the state is
    kept there after every epoch and a later call with the same recipe and images goes on where it stopped, to the same
    result. `say` receives the progress, one line an epoch, after a line with the estimated cost; `bar` shows it within
    an epoch too, with accuracy and rate.

    Raises ValueError for a recipe that does not suit the net or if the folder holds the state of another recipe or
    training set, FloatingPointError for a loss
    that is no number, OSError if the folder cannot be written.
    """
    _check_neurons(net, recipe)
    _check_images(net, recipe, train)
    state_file = Path(folder) / "state.pt" if folder is not None else None
    state = _stored(state_file, recipe, train, device)
    before = History(state.get("pretraining", []), 0, state.get("pretraining seconds", 0.0))
    if not state and (first := recipe.pretraining()):
        before = fit(net, train, validation, first, folder and Path(folder) / "pretraining", device, say, bar)
    net.to(device, memory_format=torch.channels_last)
    steps_per_epoch = -(-len(train) // recipe.batch)
    optimizer = recipe.make_optimizer(net)
    schedule = recipe.make_schedule(optimizer, steps_per_epoch * recipe.epochs)
    if recipe.centre:
        _centre(conv.weight.data for conv in _convolutions(net))
    rows, best, seconds = [], copy.deepcopy(net.state_dict()), 0.0
    if state:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        rows, best, seconds = state["rows"], state["best"], state["seconds"]
        say(f"resuming after epoch {len(rows)} of {recipe.epochs}")
    else:
        presentations = 3 * recipe.epochs * len(train) * max(1, recipe.timesteps)
        cost = estimate(net, _shown(train, recipe).to(device), presentations, recipe.precision)
        say(f"training, forward and backward: {cost}")

    for epoch in range(len(rows), recipe.epochs):
        start = time.perf_counter()
        loss = _train_epoch(net, train, recipe, epoch, optimizer, schedule, device, say, bar)
        accuracy, rates = _validate(net, validation, recipe, device)
        seconds += time.perf_counter() - start
        if not rows or accuracy > max(row["validation"] for row in rows):
            best = copy.deepcopy(net.state_dict())
        rows.append({"epoch": epoch + 1, "loss": loss, "validation": accuracy} | ({"rates": rates} if rates else {}))
        if state_file is not None:
            state = {"recipe": asdict(recipe), "images": train.describe(), "net": net.state_dict(), "rows": rows}
            state["shape"] = list(train.pixels.shape[1:])
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            state |= {"best": best, "seconds": seconds}
            state |= {"pretraining": before.rows, "pretraining seconds": before.seconds}
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomically(state_file, buffer.getvalue())
        left = seconds / len(rows) * (recipe.epochs - len(rows))
        spikes = f"  spikes {sum(rates.values()) / len(rates):.4f} a neuron and step" if rates else ""
        progress = f"loss {loss:.4f}  validation {accuracy:.2%}{spikes}"
        say(f"epoch {epoch + 1}/{recipe.epochs}  {progress}  {duration(left)} left")
    net.load_state_dict(best)
    net.eval()
    best_epoch = max(rows, key=lambda row: row["validation"])["epoch"]
    return History(rows, best_epoch, seconds + before.seconds, before.rows)


def _shown(train: Split, recipe: Recipe) -> torch.Tensor:
    """What the net reads at the first step of the first batch."""
    images = train.batch(slice(0, recipe.batch))
    return frames(images, recipe.timesteps)[0] if recipe.coding == "frames" else images


def _stored(file: Path | None, recipe: Recipe, train: Split, device) -> dict:
    """The state that `file` holds of this training, {} if there is none; ValueError if it is another's."""
    if file is None or not file.is_file():
        return {}
    state = torch.load(file, map_location=device, weights_only=True)
    # a recipe that was stored before a field came to be has its usual value; shapes were not stored at first
    shape = list(train.pixels.shape[1:])
    same = state["images"] == train.describe() and state.get("shape", shape) == shape
    if asdict(Recipe()) | state["recipe"] != asdict(recipe) or not same:
        raise ValueError(
            f"{file} belongs to another run ({state['recipe']} on {state['images']}, "
            f"{state.get('shape', shape)}); use another folder or delete it"
        )
    return state


def _check_neurons(net: nn.Module, recipe: Recipe) -> None:
    neurons = {name: module for name, module in net.named_modules() if isinstance(module, LIF)}
    if recipe.timesteps and not neurons:
        raise ValueError(f"timesteps is {recipe.timesteps}, but the net has no neurons; leave it at 0 to train an ANN")
    if neurons and not recipe.timesteps:
        raise ValueError("the net has neurons; give the recipe timesteps, for example Recipe(timesteps=10)")
    blocked = [name for name, neuron in neurons.items() if neuron.surrogate is None]
    if blocked:
        raise ValueError(f"neurons {', '.join(blocked)} let no gradient through; build the net with a surrogate")


def _check_images(net: nn.Module, recipe: Recipe, train: Split) -> None:
    steps = recipe.timesteps if recipe.coding == "frames" else 0
    if train.frames != steps:
        held = f"recordings of {train.frames} frames" if train.frames else "still images"
        wanted = f"coding 'frames' and timesteps {train.frames}" if train.frames else "another coding than 'frames'"
        raise ValueError(f"{train.label} holds {held}; the recipe needs {wanted}")
    channels, config = train.pixels.shape[1] // max(1, steps), getattr(net, "config", {})
    if config.get("in_channels", channels) != channels:
        raise ValueError(
            f"the net reads {config['in_channels']} channels, {train.label} has {channels}; build it for them"
        )


def _train_epoch(net, train: Split, recipe: Recipe, epoch: int, optimizer, schedule, device, say, bar) -> float:
    """One pass over the training images, in an order and with draws that only seed and epoch decide."""
    generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + epoch)
    order = torch.randperm(len(train), generator=generator)
    net.train()
    total, right, seen, silent_for, loss_of = 0.0, 0, 0, Counter(), _loss(net, recipe)
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(1_000_003 * recipe.seed + epoch)
        batches = tqdm(order.split(recipe.batch), f"epoch {epoch + 1}", leave=False, disable=not bar)
        for index in batches:
            images = augmented(train, index, recipe, generator)
            images = images.to(device, memory_format=torch.channels_last)
            logits, rates = _answer(net, images, recipe, generator)
            loss = loss_of(logits, train.labels[index].to(device))
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
            seen += len(index)
            right += int((logits[:, : len(train.classes)].argmax(-1).cpu() == train.labels[index]).sum())
            rate = {"spikes": f"{sum(rates.values()) / len(rates):.4f}"} if rates else {}
            batches.set_postfix(accuracy=f"{right / seen:.1%}", **rate)
            _warn_of_silence(rates, silent_for, say)
    return total / len(train)


def _loss(net: nn.Module, recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(Output [B, ...] in training mode, labels [B]) -> loss."""
    classifier = next((module for module in net.modules() if isinstance(module, Stochmax)), None)
    if classifier is None:
        return partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
    if recipe.label_smoothing:
        raise ValueError("label smoothing would ask stochmax for classes that it dropped; leave label_smoothing at 0")
    return classifier.loss


def _answer(net, images, recipe: Recipe, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """What the loss reads, logits [B, K] or stochmax's, and of a spiking net the rates of its layers."""
    if not recipe.timesteps:
        with inference_precision(recipe.precision, images.device), SmallMaps():
            return net(images).float(), {}
    options = {"coding": recipe.coding, "precision": recipe.precision, "recompute": recipe.recompute}
    result = simulate(net, images, recipe.timesteps, generator=generator, **options)
    return result.output.mean(0), result.rates


def _warn_of_silence(rates: dict[str, float], silent_for: Counter, say: Callable[[str], None]) -> None:
    """Name a layer once an epoch when it has sent no spike for a while: nothing behind it can learn any more."""
    for layer, rate in rates.items():
        silent_for[layer] = silent_for[layer] + 1 if rate == 0 else 0
        if silent_for[layer] == PATIENCE:
            say(f"no spike in {layer} for {PATIENCE} batches: lower its threshold, or start from larger weights")


def _validate(net: nn.Module, validation: Split, recipe: Recipe, device) -> tuple[float, dict[str, float]]:
    """Accuracy on the validation images and, of a spiking net, the rates of its layers; leaves it in eval mode."""
    if not recipe.timesteps:
        return evaluate(net, validation, precision=recipe.precision), {}
    options = {"batch": recipe.batch, "coding": recipe.coding, "precision": recipe.precision, "device": device}
    outcome = over_time(net.eval(), validation, [recipe.timesteps], **options)
    return float(outcome.accuracy[-1]), outcome.rates


def _convolutions(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]


def _centre(filters: Iterable[torch.Tensor]) -> None:
    """Subtract from each filter [O, I, ...] its mean over all but the first dimension, in place."""
    for weight in filters:
        weight -= weight.mean(tuple(range(1, weight.dim())), keepdim=True)


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
