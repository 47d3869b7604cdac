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
from torch import fx, nn

from snnkit import coding as codings
from snnkit.graph import Site, SiteGraph
from snnkit.neurons import IF, RESETS
from snnkit.rules import lint
from snnkit.simulation import inference_precision
from snnkit.spiketrain import Calibration, InputTrain
from snnkit.surgery import replace_max_pool
from snnkit.tracing import AVERAGE_POOLS, DROPOUTS, RESHAPES, WEIGHTED

__all__ = [
    "data_norm", "lint", "model_norm", "normalise_weights", "percentile_norm", "replace_max_pool", "spike_norm",
    "to_spiking",
]  # fmt: skip
METHODS = ("spike-norm", "data", "percentile", "model")
READOUTS = ("membrane", "spikes")


def model_norm(
    net: nn.Module, images: torch.Tensor | None = None, *, fold_batchnorm: bool = False, allow_bias: bool = False
) -> dict[str, float]:
    """Model-based thresholds: the largest sum of positive input weights of any neuron (Diehl 2015).

    The most that one step of 0/1 spikes could ever add; no data is needed and `images` is ignored. (The signed spikes
    of the image itself can exceed it at the first layer.) A positive bias adds to it. `fold_batchnorm` and `allow_bias`
    as for `to_spiking`.

    Raises ValueError where the neurons have anything but one weight layer before them, and pools.
    """
    graph = SiteGraph.of(net, fold_batchnorm, allow_bias)
    thresholds, scales = {}, {graph.image: 1.0}
    for site in graph.sites:
        plain = all(graph.is_a(n, (*WEIGHTED, *DROPOUTS, *AVERAGE_POOLS, *RESHAPES)) for n in site.nodes)
        if len(site.weighted) != 1 or not plain:
            raise ValueError(
                f"the neurons at {site.key} are fed by {' and '.join(site.weighted) or 'no weight layer'}, sums or "
                "factors; model-based balancing needs exactly one weight layer: use method='data' or 'spike-norm'"
            )
        layer, scale = graph.module.get_submodule(site.weighted[0]), graph.scale(site.input, scales)
        most = layer.weight.detach().clamp(min=0).flatten(1).sum(1)
        if layer.bias is not None:
            most = most + layer.bias.detach().clamp(min=0) / scale
        thresholds[site.key] = _positive(site, float(most.max()))
        scales[site.relu] = thresholds[site.key] * scale
    return thresholds


def data_norm(
    net: nn.Module,
    images: torch.Tensor,
    batch: int = 256,
    *,
    fold_batchnorm: bool = False,
    allow_bias: bool = False,
) -> dict[str, float]:
    """Data-based thresholds: the layer's largest ReLU activation over `images` [N, ...] (Diehl 2015).

    Measured on the ANN whose earlier layers are already balanced, that is divided by the largest activation of the
    layer before. For the first layer this is SN's "maximum activation of all ReLUs in the layer". `fold_batchnorm` and
    `allow_bias` as for `to_spiking`.
    """
    graph = SiteGraph.of(net, fold_batchnorm, allow_bias)
    return _activation_norm(graph, images, batch, lambda activations: activations.max())


def percentile_norm(
    net: nn.Module,
    images: torch.Tensor,
    percentile: float = 99.9,
    batch: int = 256,
    *,
    fold_batchnorm: bool = False,
    allow_bias: bool = False,
) -> dict[str, float]:
    """Data-based thresholds from a percentile of the positive activations instead of their maximum (Rueckauer 2017).

    `fold_batchnorm` and `allow_bias` as for `to_spiking`.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must lie in (0, 100] (99.9 is the usual choice)")

    def scale(activations: torch.Tensor) -> float:
        positive = activations[activations > 0].float().cpu().numpy()
        return np.percentile(positive, percentile) if len(positive) else 0.0

    return _activation_norm(SiteGraph.of(net, fold_batchnorm, allow_bias), images, batch, scale)


def _activation_norm(graph: SiteGraph, images, batch: int, measure: Callable) -> dict[str, float]:
    codings.check_finite(images)
    graph.check(images)
    thresholds, scales, values = {}, {graph.image: 1.0}, {graph.image: images.split(batch)}
    with torch.no_grad():
        for place, site in enumerate(graph.sites):
            part, sources = graph.part(site), zip(*(values[source] for source in site.sources), strict=True)
            values[site.relu] = [part(*activations).relu() for activations in sources]
            largest = _positive(site, float(measure(torch.cat([value.flatten() for value in values[site.relu]]))))
            thresholds[site.key] = largest / graph.scale(site.input, scales)
            scales[site.relu] = largest
            later = {source for s in graph.sites[place + 1 :] for source in s.sources}
            values = {source: kept for source, kept in values.items() if source in later}
    return thresholds


def spike_norm(
    net: nn.Module,
    images: torch.Tensor,
    timesteps: int,
    reset: str = "zero",
    generator: torch.Generator | None = None,
    *,
    neuron: Callable[..., nn.Module] = IF,
    fixed: dict[str, float] | None = None,
    equalise: bool = True,
    fold_batchnorm: bool = False,
    allow_bias: bool = False,
    coding: str = "poisson",
    memory: int = 2**30,
    precision: str | None = None,
) -> dict[str, float]:
    """Spike-Norm thresholds: the largest weighted spike input of one step, layer by layer (SN Algorithm 1).

    `images` [N, ...] in [-1, 1] are Poisson coded for `timesteps` steps with `generator` (or `coding` "constant": any
    values, repeated); each layer is driven by the spikes of the layers before it, which already have their thresholds.
    SN takes 256 training images and 2500 steps.
    Each layer is computed twice (its maximum, then its spikes), so work is linear in the layers; spike trains are kept
    one bit a spike and go to a temporary file beyond `memory` bytes. `neuron(threshold=, reset=)` makes the neurons.
    `fixed` {layer: threshold} gives thresholds that are not measured (SN's unity in residual units, section 6.2);
    `equalise`, `fold_batchnorm` and `allow_bias` as for `to_spiking`, which takes the thresholds.

    Raises ValueError for a layer whose largest input is not positive, and for unknown layers in `fixed`.
    """
    codings.check_timesteps(timesteps)
    _check_choice("reset", reset, RESETS)
    _check_choice("coding", coding, ("poisson", "constant"))
    (codings.check_intensities if coding == "poisson" else codings.check_finite)(images)
    graph, fixed, thresholds = SiteGraph.of(net, fold_batchnorm, allow_bias), fixed or {}, {}
    graph.check(images)
    _check_keys(graph, {site.key: 1.0 for site in graph.sites} | fixed)

    def threshold_of(site: Site, largest: float | None) -> float:
        thresholds[site.key] = fixed[site.key] if largest is None else _positive(site, largest)
        return thresholds[site.key]

    calibration = Calibration(graph, images, equalise, memory)
    train = InputTrain(images, timesteps, calibration.groups, generator, coding)
    with inference_precision(precision, images.device):
        calibration.run(train, threshold_of, fixed, lambda site, value: neuron(threshold=value, reset=reset))
    return thresholds


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
    equalise: bool = True,
    fold_batchnorm: bool = False,
    allow_bias: bool = False,
    coding: str = "poisson",
    generator: torch.Generator | None = None,
    precision: str | None = None,
) -> nn.Module:
    """The spiking net of a trained ANN: a copy in eval mode with a neuron layer in place of every ReLU call.

    `images` [N, ...] calibrate the thresholds by `method` ("spike-norm", "data", "percentile" or "model"; `timesteps`,
    `coding`, `generator` and `precision` are Spike-Norm's); or give `thresholds` {layer: value}, then nothing is
    measured. `readout`: "membrane" (the classifier accumulates its input) or "spikes" (it fires, as in SN). Run the
    result with `snnkit.simulate`. `net` is left as it was.

    Branches may meet in sums and concatenations. A spike stands for the thresholds behind it, so they get the gains
    that make their spikes worth the same; `equalise=False` leaves that out, as SN does. Two extensions of SN's rules:
    `fold_batchnorm` merges batch-norms into the layers before them, `allow_bias` makes a bias a constant current.

    Raises ValueError for a net with a bias, batch-norm, max-pooling or an unknown layer (each named, with its place in
    the source and what to do), for an unknown method, reset or readout, for missing images, and for thresholds that do
    not fit the layers.
    """
    _check_choice("method", method, METHODS)
    _check_choice("reset", reset, RESETS)
    _check_choice("readout", readout, READOUTS)
    graph = SiteGraph(net, fold_batchnorm, allow_bias)
    if thresholds is None:
        if images is None and method != "model":
            raise ValueError(f"method {method!r} needs calibration images; give a batch of training images")
        if method == "spike-norm":
            options = {"neuron": neuron, "equalise": equalise, "coding": coding, "precision": precision}
            thresholds = spike_norm(graph, images, timesteps, reset, generator, **options)
        else:
            thresholds = {"data": data_norm, "percentile": percentile_norm, "model": model_norm}[method](graph, images)
    _check_keys(graph, thresholds)
    spiking = _with_neurons(graph, thresholds, lambda value: neuron(threshold=value, reset=reset), readout, equalise)
    spiking.meta["conversion"] = {
        "method": method, "thresholds": dict(thresholds), "reset": reset, "readout": readout, "equalise": equalise,
        "fold_batchnorm": fold_batchnorm, "allow_bias": allow_bias, "net": getattr(net, "config", None),
    }  # fmt: skip
    return spiking.eval()


def _with_neurons(graph: SiteGraph, thresholds: dict, make: Callable, readout: str, equalise: bool) -> fx.GraphModule:
    """The graph again, every site of which fires, the output if the readout is "spikes"."""
    sites = {site.relu or "output": site for site in graph.sites}
    new, copies, scales = fx.Graph(), {}, graph.scales(thresholds)

    def fire(site: Site) -> fx.Node:
        layer = make(thresholds[site.key])
        layer.key = site.key
        graph.module.add_submodule(f"neurons.{site.key}", layer)
        return new.call_module(f"neurons.{site.key}", (copies[site.input],))

    for node in graph.module.graph.nodes:
        if node in sites:
            copies[node] = fire(sites[node])
        elif node.op == "output":
            fires = readout == "spikes" and "output" in sites
            new.output(fire(sites["output"]) if fires else copies[node.args[0]])
        elif node.op == "placeholder":
            copies[node] = new.node_copy(node)
        else:
            copies[node] = graph.copy(node, new, copies, scales, equalise)
    return fx.GraphModule(graph.module, new, graph.module._get_name())


def normalise_weights(net: nn.Module, thresholds: dict[str, float]) -> nn.Module:
    """A copy of `net` with each layer's weights divided by its threshold: then every threshold is 1 (SN section 5).

    Raises ValueError for a layer used in several passes, whose passes would need different weights, and where branches
    meet.
    """
    graph, scaled = SiteGraph.of(net), copy.deepcopy(net)
    for site in graph.sites:
        if "#" in site.key or len(site.weighted) != 1 or len(site.sources) != 1:
            raise ValueError(f"{site.key} shares its weights with another pass or neuron; balance thresholds instead")
        with torch.no_grad():
            scaled.get_submodule(site.weighted[0]).weight /= thresholds[site.key]
    return scaled


def _check_keys(graph: SiteGraph, thresholds: dict[str, float]) -> None:
    keys = [site.key for site in graph.sites]
    if set(thresholds) != set(keys):
        odd = sorted(set(thresholds) ^ set(keys))
        raise ValueError(f"thresholds and layers differ in {', '.join(odd)}; the net has {', '.join(keys)}")


def _positive(site: Site, largest: float) -> float:
    if site.relu is None and not largest > 0:
        return 1.0  # the output may be negative for all images: its neurons, if there are any, never fire
    if not largest > 0:
        raise ValueError(
            f"the largest input of {site.key} over the calibration images is {largest:.4g}, so its neurons could never "
            "fire; give more or other images, or check that the layer is trained"
        )
    return largest


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; use one of {', '.join(map(repr, allowed))}")
