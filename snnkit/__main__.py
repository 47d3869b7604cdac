"""The command line: `python -m snnkit train MODEL --data NAME` and `python -m snnkit fetch NAME`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields

import torch

from snnkit import checkpoint, data, evaluate, keep_memory, ledger, models
from snnkit.neurons import Stateful
from snnkit.paths import data_root
from snnkit.train import Recipe, fit


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors a user can mend end in one line on standard error and status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.command_line = "python -m snnkit " + " ".join(arguments)
    keep_memory()
    try:
        options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"snnkit: {error}", file=sys.stderr)
        return 1
    return 0


def train(options) -> None:
    """Train a net, keep its best validation epoch, store it and its one test figure."""
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    name = options.name or f"{options.model}-{options.data.replace(':', '-').replace('/', '-')}"
    size = {"size": options.size} if options.size else {}
    train_split = data.load(options.data, "train", limit=options.limit, **size)
    validation = data.load(options.data, "validation", mean=train_split.mean, **size)
    torch.manual_seed(recipe.seed)
    net = models.build(
        options.model,
        width=options.width,
        num_classes=len(train_split.classes),
        in_channels=train_split.pixels.shape[1],
        size=train_split.pixels.shape[-1],
        dropout=options.dropout,
    )
    if any(isinstance(module, Stateful) for module in net.modules()):
        raise ValueError(f"{options.model} is a spiking net; this command trains ANNs, for example resnet20")
    init = options.init or ("paper" if options.model.startswith("resnet") else "unit-variance")
    if init == "unit-variance":
        models.unit_variance_init(net, train_split.subset(min(256, len(train_split))).images)
    history = fit(net, train_split, validation, recipe, data_root() / "cache" / "training" / name, options.device)

    checkpoint.round_to_half(net)
    test = data.load(options.data, "test", mean=train_split.mean, **size)
    correct = evaluate.ann_correct(net, test, device=options.device)
    accuracy, (low, high) = float(correct.double().mean()), evaluate.interval(correct)
    best = max(row["validation"] for row in history.rows)
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
        what=f"{options.model}, width {options.width:g}, as an ANN",
        command=options.command_line,
        seed=recipe.seed,
        count=len(test),
        seconds=history.seconds,
        interval=(100 * low, 100 * high),
        data=test.describe(),
        details={"history": history.rows, "best_epoch": history.best_epoch, "parameters": _parameters(net)},
    )
    print(f"test accuracy {accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), {len(test)} images; saved {file}")


def fetch(options) -> None:
    """Download a data set into the data folder."""
    for split in ("train", "test"):
        print(data.load(options.data, split, download=True, mean=torch.zeros(3, 32, 32)).describe())


def _parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snnkit", description="Train the book's networks and fetch their data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a network and store it as a checkpoint", allow_abbrev=False)
    command.set_defaults(run=train)
    command.add_argument("model", help=f"one of {', '.join(sorted([*models.TOPOLOGIES, *models.RESNETS[:3]]))}")
    command.add_argument("--data", required=True, help=f"one of {', '.join(data.NAMES)}")
    command.add_argument("--name", help="name of the checkpoint (default: MODEL-DATA)")
    command.add_argument("--width", type=float, default=1.0, help="scale of the channel counts (default 1)")
    command.add_argument("--size", type=int, help="side of the images in pixels (default 32)")
    command.add_argument("--dropout", type=float, default=0.2, help="probability of dropout (default 0.2)")
    command.add_argument("--limit", type=int, help="train on this many images only, class-balanced")
    init = "initial weights (default unit-variance; resnets: paper)"
    command.add_argument("--init", choices=("unit-variance", "paper"), help=init)
    command.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    for field in fields(Recipe):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            command.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            command.add_argument(flag, type=type(default), default=default, help=f"(default {default})")

    command = commands.add_parser("fetch", help="download a data set")
    command.set_defaults(run=fetch)
    command.add_argument("data", choices=("cifar10", "cifar100"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
