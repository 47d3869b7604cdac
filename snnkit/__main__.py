"""The command line: `snnkit train MODEL --data NAME`, `snnkit convert FILE.py:NAME --images DIR`, `snnkit fetch`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from snnkit import checkpoint, data, evaluate, events, keep_memory, ledger, models, residual, sources, surrogate, trials
from snnkit.convert import METHODS
from snnkit.neurons import LIF, RESETS
from snnkit.paths import data_root
from snnkit.recipe import CHOICES, Recipe
from snnkit.report import convert_and_report
from snnkit.residual import MSLIF
from snnkit.topologies import HYBRIDS
from snnkit.train import fit

CONVERSION_OPTIONS = ("method", "reset", "coding", "equalise", "fold_batchnorm", "allow_bias", "seed", "precision")


class OwnNetwork(NamedTuple):
    """A network to convert, with the training mean and image size that it came with, if any."""

    net: torch.nn.Module
    mean: torch.Tensor | None = None
    size: int | None = None


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors a user can mend end in one line on standard error and status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.command_line = "python -m snnkit " + " ".join(arguments)
    keep_memory()
    try:
        options.run(options)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"snnkit: {error}", file=sys.stderr)
        return 1
    return 0


def train(options) -> None:
    """Train a net, keep its best validation epoch, store it and its one test figure."""
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    name = options.name or f"{options.model}-{options.data.replace(':', '-').replace('/', '-')}"
    train_split = _split(options, recipe, "train", limit=options.limit)
    if len(train_split.classes) < 2:
        raise ValueError(f"{options.data} holds one class, {train_split.classes[0]}; training needs at least two")
    validation = _split(options, recipe, "validation", mean=train_split.mean)
    init = options.init or ("paper" if "resnet" in options.model else "unit-variance")
    usual = 0.0 if residual.NAME.fullmatch(options.model) else 0.2
    dropout = usual if options.dropout is None else options.dropout
    shape = {"width": options.width, "dropout": dropout, "relu": _relu(options), "stochmax": options.stochmax}
    neuron = _neuron(options) if recipe.timesteps else None
    net = trials.fresh(options.model, train_split, neuron, seed=recipe.seed, init=init, **shape)
    folder = data_root() / "cache" / "training" / name
    history = fit(net, train_split, validation, recipe, folder, options.device, bar=sys.stderr.isatty())

    checkpoint.round_to_half(net)
    test = _split(options, recipe, "test", mean=train_split.mean)
    if recipe.timesteps:
        shown = {"coding": recipe.coding, "precision": recipe.precision, "device": options.device}
        outcome = evaluate.over_time(net, test, [recipe.timesteps], **shown)
        correct, kind = outcome.correct[:, -1], f"as an SNN, T = {recipe.timesteps}, {recipe.coding} coding"
        rates = {"rates": outcome.rates}
    else:
        correct, kind, rates = evaluate.ann_correct(net, test, device=options.device), "as an ANN", {}
    accuracy, (low, high) = float(correct.double().mean()), evaluate.interval(correct)
    best = max(row["validation"] for row in history.rows)
    told = {"history": history.rows, "best_epoch": history.best_epoch, "parameters": _parameters(net)}
    told |= {"pretraining": history.pretraining} if history.pretraining else {}
    file = checkpoint.save(
        data_root() / "checkpoints" / f"{name}.safetensors",
        net,
        train_split.mean,
        data=train_split.label,
        classes=list(train_split.classes),
        recipe=asdict(recipe) | {"init": init},
        validation_accuracy=best,
        test_accuracy=accuracy,
        command=options.command_line,
    )
    ledger.record(
        f"checkpoints/{name}",
        100 * accuracy,
        unit="% accuracy",
        what=f"{options.model}, width {options.width:g}, {kind}",
        command=options.command_line,
        seed=recipe.seed,
        count=len(test),
        seconds=history.seconds,
        interval=(100 * low, 100 * high),
        data=test.describe(),
        details=told | rates,
    )
    print(f"test accuracy {accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), {len(test)} images; saved {file}")


def _split(options, recipe: Recipe, split: str, mean: torch.Tensor | None = None, limit: int | None = None):
    """A split of the images, or of the recordings, that the options name."""
    if options.data in events.DATASETS:
        if recipe.coding != "frames":
            raise ValueError(f"{options.data} holds recordings; give --coding frames --timesteps T")
        return events.load(options.data, split, recipe.timesteps, size=options.size, limit=limit)
    size = models.default_size(options.model) if options.size is None else options.size
    return data.load(options.data, split, size=size, limit=limit, mean=mean)


def _relu(options) -> Sequence[str]:
    """The layers that keep their ReLU; ValueError where the paper is asked for a choice that it does not make."""
    if options.relu != ["paper"]:
        return options.relu
    if options.model not in HYBRIDS:
        raise ValueError(
            f"the paper's hybrid nets are {', '.join(HYBRIDS)}; for {options.model} name the layers: conv1 ..."
        )
    return HYBRIDS[options.model]


def _neuron(options) -> Callable[[], torch.nn.Module]:
    """A factory of the neurons that the options ask for; what they leave open is the paper's in its residual nets."""
    usual = MSLIF if residual.NAME.fullmatch(options.model) else partial(LIF, leak=0.99, surrogate=surrogate.triangle())
    chosen = {name: getattr(options, name) for name in ("leak", "threshold") if getattr(options, name) is not None}
    chosen |= {"reset": options.neuron_reset} if options.neuron_reset else {}
    if options.surrogate:
        chosen["surrogate"] = surrogate.BY_NAME[options.surrogate.replace("-", "_")]()
    return partial(usual, **chosen, trainable=options.trainable)


def convert(options) -> None:
    """Convert a network of the user's own, or a stored one, and write the report."""
    loaded = own_network(options.net)
    source = options.images if options.images in sources.NAMES else f"imagefolder:{options.images}"
    size = options.size if options.size is not None else loaded.size or 32
    mean = loaded.mean
    if options.mean is not None:
        given = _by_channel("mean", options.mean)
        mean = given.expand(max(len(given), 1 if source == "digits" else 3), size, size)
    deviation = _by_channel("std", options.std)
    if not bool((deviation > 0).all()):
        raise ValueError(f"std is {min(options.std):g}; it must be above 0")
    most = {"train": options.calibration, "test": options.limit}
    limits = {split: min(limit, data.count(source, split)) for split, limit in most.items()}
    calibration = data.load(source, "train", limit=limits["train"], size=size, mean=mean)
    test = data.load(source, "test", limit=limits["test"], size=size, mean=calibration.mean)
    report = convert_and_report(
        loaded.net,
        calibration.images / deviation,
        test.images / deviation,
        None if test.classes == (sources.UNLABELLED,) else test.labels,
        at=tuple(options.at),
        name=options.net,
        say=print,
        **{name: getattr(options, name) for name in CONVERSION_OPTIONS},
    )
    print(report.markdown())
    print(f"written to {report.save(options.out)}")


def _by_channel(name: str, values: list[float]) -> torch.Tensor:
    """[1 or 3, 1, 1]."""
    if len(values) not in (1, 3):
        raise ValueError(f"{name} has {len(values)} values; give one, or one for each of 3 channels")
    return torch.tensor(values).view(-1, 1, 1)


def own_network(target: str) -> OwnNetwork:
    """The net that FILE.py:NAME makes when NAME is called, or is; or that of a stored checkpoint.

    Raises ValueError or FileNotFoundError, in one line, for a file that is missing or fails, and for anything but a
    torch module.
    """
    file, colon, name = target.rpartition(":")
    if not colon and target.endswith(".py"):
        raise ValueError(f"{target} names no network; give FILE.py:NAME, where NAME makes a trained network")
    if not colon:
        stored = checkpoint.load(target)
        return OwnNetwork(stored.net, stored.mean, stored.net.config["size"] if hasattr(stored.net, "config") else None)
    if not Path(file).is_file() or Path(file).suffix != ".py":
        raise FileNotFoundError(f"no Python file {file}; give FILE.py:NAME, where NAME makes a trained network")
    specification = importlib.util.spec_from_file_location(f"snnkit_own_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    folder = str(Path(file).resolve().parent)
    sys.path.insert(0, folder)  # for what it imports from beside it
    try:
        specification.loader.exec_module(module)
        made = getattr(module, name)
        made = made if isinstance(made, torch.nn.Module) else made()
    except AttributeError as error:
        raise ValueError(f"{file} has no {name}, or fails in it: {error}") from error
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise ValueError(f"{target} fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(made, torch.nn.Module):
        raise ValueError(f"{target} gives {made!r:.60}; it must be, or return, a torch.nn.Module")
    return OwnNetwork(made)


def fetch(options) -> None:
    """Download a data set into the data folder."""
    for split in ("train", "test"):
        if options.data in events.DATASETS:
            events.load(options.data, split, 10, limit=10, download=True)
            print(f"{events.DATASETS[options.data].title}, {split}: complete")
        else:
            print(data.load(options.data, split, download=True, mean=torch.zeros(3, 32, 32)).describe())


def _parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snnkit", description="Train and convert networks, and fetch their data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a network and store it as a checkpoint", allow_abbrev=False)
    command.set_defaults(run=train)
    kinds = (f"{kind}-resnet20" for kind in residual.KINDS)
    command.add_argument("model", help=f"one of {', '.join(sorted([*models.TOPOLOGIES, *models.RESNETS, *kinds]))}")
    command.add_argument("--data", required=True, help=f"one of {', '.join([*sources.NAMES, *events.DATASETS])}")
    command.add_argument("--name", help="name of the checkpoint (default: MODEL-DATA)")
    command.add_argument("--width", type=float, default=1.0, help="scale of the channel counts (default 1)")
    command.add_argument("--size", type=int, help="side of the images in pixels (default: the net's, or the sensor's)")
    command.add_argument("--dropout", type=float, help="its probability (default 0.2; spiking resnets: 0)")
    command.add_argument("--limit", type=int, help="train on this many images only, class-balanced")
    init = "initial weights (default unit-variance; resnets: paper)"
    command.add_argument("--init", choices=trials.INITS, help=init)
    command.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    command.add_argument("--leak", type=float, help="of a spiking net's neurons (default 0.99; spiking resnets: 0.25)")
    command.add_argument("--threshold", type=float, help="of its neurons (default 1; spiking resnets: 0.5)")
    command.add_argument("--neuron-reset", choices=RESETS, help="of its neurons (default zero)")
    kinds = [name.replace("_", "-") for name in surrogate.BY_NAME]
    command.add_argument(
        "--surrogate", choices=kinds, help="its gradient (default triangle; spiking resnets: rectangle)"
    )
    command.add_argument("--trainable", nargs="+", default=[], metavar="WHAT", help="of its neurons: leak, threshold")
    hybrid = "layers of a hybrid net that keep their ReLU; 'paper': those of the paper"
    command.add_argument("--relu", nargs="+", default=[], metavar="LAYER", help=hybrid)
    command.add_argument("--stochmax", action="store_true", help="classify by stochmax")
    for field in fields(Recipe):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            command.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            known = ", ".join(choice for choice in CHOICES.get(field.name, ()) if choice)
            told = f"{known} (default {default or 'none'})" if known else f"(default {default})"
            command.add_argument(flag, type=type(default), default=default, help=told)

    command = commands.add_parser("convert", help="convert a network and report on it", allow_abbrev=False)
    command.set_defaults(run=convert)
    command.add_argument(
        "net", help="FILE.py:NAME, a trained torch module or a function that makes it; or a checkpoint"
    )
    images = "a folder of images, in class folders if there are labels; or the name of a data set, like digits"
    command.add_argument("--images", required=True, help=images)
    command.add_argument("--out", default="report", help="folder for report.md and report.json (default report)")
    command.add_argument("--method", choices=METHODS, default="spike-norm", help="(default spike-norm)")
    command.add_argument("--reset", choices=RESETS, default="zero", help="(default zero)")
    command.add_argument("--coding", choices=("poisson", "constant"), default="poisson", help="(default poisson)")
    command.add_argument(
        "--at", type=int, nargs="+", default=[50, 100, 200, 500], help="steps (default 50 100 200 500)"
    )
    command.add_argument("--limit", type=int, default=200, help="test images (default 200)")
    command.add_argument("--calibration", type=int, default=32, help="calibration images (default 32)")
    command.add_argument("--size", type=int, help="side of the images in pixels (default: the net's, else 32)")
    command.add_argument("--mean", type=float, nargs="+", help="a number or one a channel (default: the mean image)")
    command.add_argument("--std", type=float, nargs="+", default=[1.0], help="a number or one a channel (default 1)")
    command.add_argument("--fold-batchnorm", action="store_true", help="merge batch-norms into the layers before them")
    command.add_argument("--allow-bias", action="store_true", help="make biases constant currents")
    command.add_argument("--equalise", action=argparse.BooleanOptionalAction, default=True, help="gains at junctions")
    command.add_argument("--precision", default="auto", help="auto, fp32, bf16 or int8 (default auto)")
    command.add_argument("--seed", type=int, default=0, help="(default 0)")

    command = commands.add_parser("fetch", help="download a data set")
    command.set_defaults(run=fetch)
    command.add_argument("data", choices=("cifar10", "cifar100", *events.DATASETS))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
