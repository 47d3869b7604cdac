"""Trained nets on disk: half-precision safetensors that carry what is needed to use, trust and repeat them.

Beside the weights a file holds the architecture, the thresholds and neurons of a spiking net, the training mean to
subtract from images, whatever facts the caller gives (data set, recipe, accuracy, command), and a SHA-256 of it all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from snnkit import convert, models, surrogate
from snnkit.neurons import IF, LIF, TRAINABLE
from snnkit.paths import data_roots, locate, write_atomically

OPTIONS = ("thresholds", "reset", "readout", "method", "equalise", "allow_bias")  # of `to_spiking`


@dataclass(frozen=True)
class Checkpoint:
    """A net in eval mode, the training mean [C, H, W] of its images (None if it had none), and the facts saved too."""

    net: nn.Module
    mean: torch.Tensor | None
    facts: dict


def save(path: str | Path, net: nn.Module, mean: torch.Tensor | None = None, **facts) -> Path:
    """Write `net` to `path` (ending `.safetensors`), whole or not at all; returns the path.

    Floating-point weights are stored in half precision (`round_to_half` first, to measure what is stored); thresholds,
    leaks and the `mean` [C, H, W] in full. `facts` must be JSON values. Nets from `models.build` and what `to_spiking`
    made of them load by themselves; for any other network pass one like it to `load`.

    Raises OSError with a clear line when the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} must end in .safetensors")
    conversion = getattr(net, "meta", {}).get("conversion")
    if conversion and conversion["fold_batchnorm"]:
        raise ValueError("a net with folded batch-norm cannot be stored; store the ANN, and its thresholds as a fact")
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in net.state_dict().items()
        if not (conversion and name.startswith("neurons.") and name.endswith(".threshold"))
    }
    for name, _ in _weights(net):
        if name in tensors:
            tensors[name] = tensors[name].half()
    if mean is not None:
        tensors["training_mean"] = mean.float().cpu().contiguous()
    description = {
        "architecture": conversion["net"] if conversion else getattr(net, "config", None),
        "conversion": conversion,
        "neurons": _describe_neurons(net),
        "facts": facts,
    }
    description["sha256"] = _digest(tensors, description)
    write_atomically(path, safetensors.torch.save(tensors, {"snnkit": json.dumps(description)}))
    return path


def load(path: str | Path, net: nn.Module | None = None) -> Checkpoint:
    """Read a checkpoint: a file, or the name of one in the `checkpoints` folder (see `snnkit.paths`).

    `net`: the ANN to fill when the file holds a network that `models.build` cannot make.

    Raises FileNotFoundError for a missing file, ValueError for a truncated or altered one.
    """
    path = _find(path)
    try:
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {})["snnkit"])
        stated = description.pop("sha256")
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no whole snnkit checkpoint ({error}); copy or train it again") from error
    if stated != _digest(tensors, description):
        raise ValueError(f"{path} was altered: its content does not match its SHA-256; copy or train it again")

    mean = tensors.pop("training_mean", None)
    neuron = _neuron_factory(description["neurons"])
    conversion = description["conversion"]
    if net is None:
        if description["architecture"] is None:
            raise ValueError(f"{path} holds a network of your own; pass one like it: load(path, net=...)")
        net = models.build(**description["architecture"], neuron=None if conversion else neuron)
    net.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    if conversion:
        options = {name: conversion[name] for name in OPTIONS}
        net = convert.to_spiking(net, neuron=neuron or IF, **options)
    return Checkpoint(net.eval(), mean, description["facts"])


@torch.no_grad()
def round_to_half(net: nn.Module) -> nn.Module:
    """Round the weights of `net` to half precision in place, as `save` stores them; returns `net`."""
    for _, weight in _weights(net):
        weight.copy_(weight.half())
    return net


def _weights(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The floating-point parameters of `net`, but for those of neurons."""
    neurons = tuple(f"{name}." for name, module in net.named_modules() if isinstance(module, LIF))
    for name, parameter in net.named_parameters():
        if parameter.is_floating_point() and not name.startswith(neurons):
            yield name, parameter


def _find(path: str | Path) -> Path:
    for candidate in (Path(path), locate(f"checkpoints/{path}.safetensors")):
        if candidate.is_file():
            return candidate
    known = {file.stem for root in data_roots() for file in root.glob("checkpoints/*.safetensors")}
    raise FileNotFoundError(f"no checkpoint {path}; there are {', '.join(sorted(known)) or 'none'}")


def _describe_neurons(net: nn.Module) -> dict | None:
    """The one kind of neuron in the net; thresholds, and leaks that learned, are tensors."""
    kinds = []
    for layer in net.modules():
        if isinstance(layer, LIF):
            trainable = [name for name in TRAINABLE if isinstance(getattr(layer, name), nn.Parameter)]
            kind = {"leak": 1.0 if "leak" in trainable else layer.leak, "reset": layer.reset, "trainable": trainable}
            kinds.append(kind | {"surrogate": surrogate.describe(layer.surrogate)})
    others = [kind for kind in kinds if kind != kinds[0]]
    if others:
        raise ValueError(f"the net mixes neurons, {kinds[0]} and {others[0]}; a checkpoint holds one kind")
    return kinds[0] if kinds else None


def _neuron_factory(description: dict | None) -> Callable[..., nn.Module] | None:
    if description is None:
        return None
    options = dict(description)
    if options.get("surrogate"):
        arguments = dict(options["surrogate"])
        options["surrogate"] = surrogate.BY_NAME[arguments.pop("name")](**arguments)
    if options["leak"] == 1 and "leak" not in options.get("trainable", ()):
        del options["leak"]
        return partial(IF, **options)
    return partial(LIF, **options)


def _digest(tensors: dict[str, torch.Tensor], description: dict) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
