"""ANN to SNN: thresholds for every layer, and the spiking net that uses them (SN sections 4-5).

Every function here returns or takes thresholds as {layer: threshold}, in the unit of the unscaled weights, for neurons
that receive 0/1 spikes. The key is the path of the layer that feeds the neurons (`conv2#3` in its third pass); the
output layer has a threshold too, used when it fires (readout="spikes").
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from snnkit import coding
from snnkit.graph import Chain, Site
from snnkit.neurons import IF, RESETS
from snnkit.spiketrain import spike_driven_maxima

METHODS = ("spike-norm", "data", "percentile", "model")
READOUTS = ("membrane", "spikes")


def model_norm(net: nn.Module, images: torch.Tensor | None = None) -> dict[str, float]:
    """Model-based thresholds: the largest sum of positive input weights of any neuron (Diehl 2015).

    The most that one step of 0/1 spikes could ever add; no data is needed and `images` is ignored. (The signed spikes
    of the image itself can exceed it at the first layer.)
    """
    chain = Chain(net)
    thresholds = {}
    for site in chain.sites:
        if len(site.weighted) != 1:
            raise ValueError(
                f"{' and '.join(site.weighted)} follow each other without a ReLU; model-based balancing needs one "
                "weight layer before every ReLU: use method='data' or 'spike-norm'"
            )
        weight = chain.module.get_submodule(site.weighted[0]).weight.detach()
        thresholds[site.key] = _positive(site, float(weight.clamp(min=0).flatten(1).sum(1).max()))
    return thresholds


def data_norm(net: nn.Module, images: torch.Tensor, batch: int = 256) -> dict[str, float]:
    """Data-based thresholds: the layer's largest ReLU activation over `images` [N, ...] (Diehl 2015).

    Measured on the ANN whose earlier layers are already balanced, that is divided by the largest activation of the
    layer before. For the first layer this is SN's "maximum activation of all ReLUs in the layer".
    """
    return _activation_norm(net, images, batch, lambda activations: activations.max())


def percentile_norm(
    net: nn.Module, images: torch.Tensor, percentile: float = 99.9, batch: int = 256
) -> dict[str, float]:
    """Data-based thresholds from a percentile of the positive activations instead of their maximum (Rueckauer 2017)."""
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must lie in (0, 100] (99.9 is the usual choice)")

    def scale(activations: torch.Tensor) -> float:
        positive = activations[activations > 0].float().cpu().numpy()
        return np.percentile(positive, percentile) if len(positive) else 0.0

    return _activation_norm(net, images, batch, scale)


def _activation_norm(net, images, batch: int, scale: Callable) -> dict[str, float]:
    coding.check_finite(images)
    chain = Chain(net)
    thresholds, before = {}, 1.0
    with torch.no_grad():
        values = list(images.split(batch))
        for site in chain.sites:
            values = [chain.run(site, value).relu() for value in values]
            largest = _positive(site, float(scale(torch.cat([value.flatten() for value in values]))))
            thresholds[site.key] = largest / before
            before = largest
    return thresholds


def spike_norm(
    net: nn.Module,
    images: torch.Tensor,
    timesteps: int,
    reset: str = "zero",
    generator: torch.Generator | None = None,
    *,
    neuron: Callable[..., nn.Module] = IF,
    memory: int = 2**30,
    precision: str | None = None,
) -> dict[str, float]:
    """Spike-Norm thresholds: the largest weighted spike input of one step, layer by layer (SN Algorithm 1).

    `images` [N, ...] in [-1, 1] are Poisson coded for `timesteps` steps with `generator`; each layer is driven by the
    spikes of the layers before it, which already have their thresholds. SN takes 256 training images and 2500 steps.
    Each layer is computed twice (its maximum, then its spikes), so work is linear in the layers; spike trains are kept
    one bit a spike and go to a temporary file beyond `memory` bytes. `neuron(threshold=, reset=)` makes the neurons.

    Raises ValueError for a layer whose largest input is not positive.
    """
    coding.check_timesteps(timesteps)
    coding.check_intensities(images)
    _check_choice("reset", reset, RESETS)
    chain = Chain(net)
    maxima = spike_driven_maxima(
        chain,
        images,
        timesteps,
        make_neuron=lambda site, largest: neuron(threshold=_positive(site, largest), reset=reset),
        generator=generator,
        memory=memory,
        precision=precision,
    )
    return {site.key: _positive(site, largest) for site, largest in zip(chain.sites, maxima, strict=True)}


def to_spiking(
    net: nn.Module,
    images: torch.Tensor | None = None,
    method: str = "spike-norm",
    timesteps: int = 500,
    reset: str = "zero",
    readout: str = "membrane",
    neuron: Callable[..., nn.Module] = IF,
    *,
    thresholds: dict[str, float] | None = None,
    generator: torch.Generator | None = None,
    precision: str | None = None,
) -> nn.Module:
    """The spiking net of a trained ANN: a copy in eval mode with a neuron layer in place of every ReLU call.

    `images` [N, ...] calibrate the thresholds by `method` ("spike-norm", "data", "percentile" or "model"; `timesteps`,
    `generator` and `precision` are Spike-Norm's); or give `thresholds` {layer: value}, then nothing is measured.
    `readout`: "membrane" (the classifier accumulates its input) or "spikes" (it fires, as in SN). Run the result with
    `snnkit.simulate`. `net` is left as it was.

    Raises ValueError for a net with a bias, batch-norm, max-pooling or an unknown layer (each named, with what to do),
    for an unknown method, reset or readout, for missing images, and for thresholds that do not fit the layers.
    """
    _check_choice("method", method, METHODS)
    _check_choice("reset", reset, RESETS)
    _check_choice("readout", readout, READOUTS)
    chain = Chain(net)
    if thresholds is None:
        if images is None and method != "model":
            raise ValueError(f"method {method!r} needs calibration images; give a batch of training images")
        if method == "spike-norm":
            thresholds = spike_norm(net, images, timesteps, reset, generator, neuron=neuron, precision=precision)
        else:
            thresholds = {"data": data_norm, "percentile": percentile_norm, "model": model_norm}[method](net, images)
    keys = [site.key for site in chain.sites]
    if set(thresholds) != set(keys):
        odd = sorted(set(thresholds) ^ set(keys))
        raise ValueError(f"thresholds and layers differ in {', '.join(odd)}; the net has {', '.join(keys)}")

    module = chain.module
    for site in chain.sites:
        if site.relu is None and readout == "membrane":
            continue
        layer = neuron(threshold=thresholds[site.key], reset=reset)
        layer.key = site.key
        path = f"neurons.{site.key}"
        module.add_submodule(path, layer)
        last = site.nodes[-1]
        with module.graph.inserting_after(site.relu or last):
            spikes = module.graph.call_module(path, (last,))
        if site.relu is None:
            last.replace_all_uses_with(spikes, delete_user_cb=lambda user, spikes=spikes: user is not spikes)
        else:
            site.relu.replace_all_uses_with(spikes)
            module.graph.erase_node(site.relu)
    module.delete_all_unused_submodules()
    module.recompile()
    module.meta["conversion"] = {
        "method": method, "thresholds": dict(thresholds), "reset": reset, "readout": readout,
        "net": getattr(net, "config", None),
    }  # fmt: skip
    return module.eval()


def normalise_weights(net: nn.Module, thresholds: dict[str, float]) -> nn.Module:
    """A copy of `net` with each layer's weights divided by its threshold: then every threshold is 1 (SN section 5).

    Raises ValueError for a layer used in several passes, whose passes would need different weights.
    """
    chain, scaled = Chain(net), copy.deepcopy(net)
    for site in chain.sites:
        if "#" in site.key or len(site.weighted) != 1:
            raise ValueError(f"{site.key} shares its weights with another pass or neuron; balance thresholds instead")
        with torch.no_grad():
            scaled.get_submodule(site.weighted[0]).weight /= thresholds[site.key]
    return scaled


def _positive(site: Site, largest: float) -> float:
    if not largest > 0:
        raise ValueError(
            f"the largest input of {site.key} over the calibration images is {largest:.4g}, so its neurons could never "
            "fire; give more or other images, or check that the layer is trained"
        )
    return largest


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; use one of {', '.join(map(repr, allowed))}")
