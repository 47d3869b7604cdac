"""Spiking nets to and from NIR, the neuromorphic intermediate representation (package `nir`, Pedersen 2024).

NIR describes neurons in continuous time; one of our steps is one unit of its time, so an IF has R = 1 and a LIF
tau = R = 1 / (1 - leak). What NIR cannot carry is refused: reset by subtraction, pools over uneven cells or with other
divisors, differences and divisions, crops and padding in space, tensors added to themselves, maps other than in two
dimensions. What it does not know is said otherwise: sums are edges that meet; gains, concatenations and
type-A shortcuts are 1x1 convolutions; a threshold that a membrane must reach, not exceed, is the next smaller number.
Dropout and surrogates are left out: NIR describes nets after training.

The spikes of a net written and read again are ours, each of them. Another simulator adds in another order: of its
output counts, one in a hundred may differ, by one spike (spikingjelly on a VGG9: 99.8 % equal, see the results).
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from snnkit.neurons import IF, LIF
from snnkit.nir_writer import Values, Writer
from snnkit.simulation import simulate


def to_nir(net: fx.GraphModule, image: torch.Tensor, file: str | Path | None = None):
    """The `nir.NIRGraph` of a net made by `snnkit.convert.to_spiking`; `image` [1, ...] gives the shapes.

    With `file`, it is written there too (HDF5). Raises ImportError without the package `nir`, ValueError for what NIR
    cannot carry, naming the node.
    """
    nir = _package()
    if not isinstance(net, fx.GraphModule):
        raise ValueError(f"{type(net).__name__} is no converted net; give what snnkit.convert.to_spiking returns")
    values = Values(net)
    with torch.no_grad():
        simulate(values, image, 1, coding="constant")
    writer = Writer(nir, net, values.seen)
    for node in net.graph.nodes:
        writer.add(node)
    graph = nir.NIRGraph(writer.nodes, writer.edges)
    if file is not None:
        nir.write(str(file), graph)
    return graph


def from_nir(graph) -> nn.Module:
    """A net for `snnkit.simulate` from a `nir.NIRGraph` or its file: IF and LIF, convolutions, linear maps, pools.

    Raises ValueError for a node of another kind, a neuron with other dynamics than ours, or a cycle.
    """
    nir = _package()
    return _Imported(nir, nir.read(str(graph)) if isinstance(graph, str | Path) else graph)


def _package():
    try:
        import nir
    except ImportError as error:
        raise ImportError("exchange needs the package nir: pip install nir") from error
    return nir


class _Imported(nn.Module):
    """The nodes of a NIR graph as layers; a layer reads the sum of what its edges bring."""

    def __init__(self, nir, graph):
        super().__init__()
        before: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            before[target].append(source)
        try:
            order = list(TopologicalSorter(before).static_order())
        except CycleError as error:
            raise ValueError(f"the NIR graph has a cycle: {', '.join(error.args[1])}") from error
        layers = [_layer(nir, name, graph.nodes[name]) for name in order]
        self.layers = nn.ModuleList(layers)
        self._plan = [[order.index(source) for source in before[name]] for name in order]
        results = [place for place, name in enumerate(order) if isinstance(graph.nodes[name], nir.Output)]
        if len(results) != 1:
            raise ValueError(f"the NIR graph has {len(results)} outputs; snnkit reads graphs of one")
        self._result = results[0]

    def forward(self, x):
        values = []
        for layer, sources in zip(self.layers, self._plan, strict=True):
            values.append(layer(sum((values[source] for source in sources[1:]), values[sources[0]]) if sources else x))
        return values[self._result]


def _layer(nir, name: str, node) -> nn.Module:
    if isinstance(node, nir.Input | nir.Output):
        return nn.Identity()
    if isinstance(node, nir.Flatten):
        return nn.Flatten(*(int(dim) + (dim >= 0) for dim in (node.start_dim, node.end_dim)))  # NIR has no batch
    if isinstance(node, nir.AvgPool2d):
        return nn.AvgPool2d(*(tuple(map(int, v)) for v in (node.kernel_size, node.stride, node.padding)))
    if isinstance(node, nir.Affine | nir.Linear):
        return _weighted(nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=False), node)
    if isinstance(node, nir.Conv2d):
        padding = node.padding if isinstance(node.padding, str) else _whole(node.padding)
        outputs, inputs, *size = node.weight.shape
        geometry = (size, _whole(node.stride), padding, _whole(node.dilation), int(node.groups))
        return _weighted(nn.Conv2d(inputs * int(node.groups), outputs, *geometry, bias=False), node)
    if isinstance(node, nir.IF | nir.LIF):
        return _neuron(nir, name, node)
    raise ValueError(f"{name} is a NIR {type(node).__name__}; only IF, LIF, Conv2d, Affine, Linear, AvgPool2d, Flatten")


def _neuron(nir, name: str, node) -> LIF:
    """Thresholds are exceeded in NIR, reached here: the next larger number."""
    threshold = torch.from_numpy(np.nextafter(node.v_threshold.astype("f4"), np.float32(np.inf)))
    if len(threshold.unique()) == 1:
        threshold = threshold.flatten()[0]
    rest, one = (np.asarray(getattr(node, key, 0)) for key in ("v_reset", "v_leak")), np.asarray(node.r)
    if any(value.any() for value in rest):
        raise ValueError(f"{name} has a resting or reset potential that is not 0")
    if isinstance(node, nir.IF):
        if not (one == 1).all():
            raise ValueError(f"{name} is an IF with R = {one.flat[0]:g}; with steps of one unit of time it must be 1")
        layer = IF(threshold)
    else:
        tau = np.unique(node.tau)
        if len(tau) > 1 or not (one == tau).all():
            raise ValueError(f"{name} is a LIF that is not uniform, or whose R is not its tau")
        layer = LIF(float(1 - 1 / tau[0]), threshold, "zero")
    layer.key = name
    return layer


def _whole(values) -> tuple[int, ...]:
    return tuple(int(value) for value in np.broadcast_to(values, 2))


def _weighted(layer: nn.Module, node) -> nn.Module:
    layer.weight = nn.Parameter(torch.from_numpy(np.asarray(node.weight, "f4")))
    bias = getattr(node, "bias", None)
    if bias is not None and np.any(bias):
        layer.bias = nn.Parameter(torch.from_numpy(np.asarray(bias, "f4")))
    return layer
