"""A trained network as neuron sites joined by linear maps: what conversion reads.

A *site* is a place where a spiking net needs neurons: every call of a ReLU, and the output. Tracing sees calls, not
modules, so a ReLU that is shared, or a block whose weights are used again, has a site for each call. Between sites
everything is linear. There spikes of different worth can meet: a spike stands for the product of the thresholds behind
it, its *scale*. `SiteGraph.copy` is the one place that minds scales: where branches meet it gives each the gain that
makes their scales equal, and a bias becomes a constant current in the scale of the spikes around it.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn

from snnkit.rules import refusals, summary
from snnkit.surgery import fold
from snnkit.tracing import FUNCTIONAL_WEIGHTED, JOINS, RELUS, WEIGHTED, Trace

Scales = dict[fx.Node | None, float]  # of what the image and the sites give: the value of one spike


@dataclass(frozen=True)
class Site:
    """A place for neurons. `key`: the path of the last weight layer feeding it, with the pass for a layer used more
    than once (`conv2#3`). `relu`: the ReLU call, None at the output. Its neurons receive the value of the node `input`,
    a linear map, through `nodes`, of what the `sources` give: ReLU calls of other sites, or the image. `weighted`: the
    paths of the weight layers among the nodes."""

    key: str
    relu: fx.Node | None
    input: fx.Node
    sources: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    weighted: tuple[str, ...]


class SiteGraph(Trace):
    """A network traced in eval mode: `module` (a deep copy as a graph), its `image` and its `sites`, input to output.

    `fold_batchnorm` merges every batch-norm into the layer before it; `allow_bias` lets biases become constant
    currents. Raises ValueError, in one line that names every offending layer and what to do, for a net that cannot be
    converted.
    """

    def __init__(self, net: nn.Module, fold_batchnorm: bool = False, allow_bias: bool = False):
        super().__init__(net)
        if fold_batchnorm:
            fold(self)
        if problems := refusals(self, allow_bias):
            raise ValueError("this net cannot be converted: " + summary(problems))
        self.image = next(node for node in self.module.graph.nodes if node.op == "placeholder")
        self.sites = self._find_sites()

    @classmethod
    def of(cls, net: nn.Module | SiteGraph, fold_batchnorm: bool = False, allow_bias: bool = False) -> SiteGraph:
        """The graph of `net`; one that is a graph already stays as it is."""
        return net if isinstance(net, SiteGraph) else cls(net, fold_batchnorm, allow_bias)

    def check(self, images: torch.Tensor) -> None:
        """Raise ValueError for images [N, ...] that the net does not take, or whose number its answers do not have."""
        if not len(images):
            raise ValueError("images is an empty batch; give at least one image")
        for count in (2, 3):
            several = images[:1].expand(count, *images.shape[1:])
            try:
                with torch.no_grad():
                    answers = self.module(several)
            except RuntimeError as error:
                raise ValueError(
                    f"the net does not take {images.dtype} images of shape {tuple(images.shape[1:])} "
                    f"({str(error).partition(chr(10))[0]}); give images as it was trained on"
                ) from error
            if answers.dim() < 2 or len(answers) != count:
                raise ValueError(
                    f"the net gives {tuple(answers.shape)} for {count} images; conversion needs an answer for each, "
                    f"({count}, classes): check its reshapes"
                )

    def scale(self, node: fx.Node, scales: Scales) -> float:
        """The value that one spike has in what `node` gives: that of its main branch."""
        while node not in scales:
            node = self.main(node)
        return scales[node]

    def scales(self, thresholds: dict[str, float]) -> Scales:
        """What one spike stands for: of the image, and of each site by its ReLU call, None at the output."""
        scales = {self.image: 1.0}
        for site in self.sites:
            scales[site.relu] = thresholds[site.key] * self.scale(site.input, scales)
        return scales

    def part(self, site: Site, scales: Scales | None = None, equalise: bool = True) -> fx.GraphModule:
        """A module: what the `sources` of `site` give -> the input of its neurons.

        With `scales` of the sources, for their spikes; without, for the activations of the ANN. `equalise`: with gains
        where branches meet.
        """
        scales = scales or dict.fromkeys(site.sources, 1.0)
        graph = fx.Graph()
        copies = {source: graph.placeholder(f"source{place}") for place, source in enumerate(site.sources)}
        for node in site.nodes:
            copies[node] = self.copy(node, graph, copies, scales, equalise)
        graph.output(copies[site.input])
        return fx.GraphModule(self.module, graph)

    def copy(self, node: fx.Node, graph: fx.Graph, copies: dict, scales: Scales, equalise: bool = True) -> fx.Node:
        """Copy a linear `node` to `graph`, for spikes of these `scales`; `copies` has the copies of what it reads."""
        if self.is_a(node, JOINS) and equalise:
            common, gained = self.scale(node, scales), {}
            for operand in self.operands(node):
                gain = self.scale(operand, scales) / common
                if gain != 1:
                    gained[operand] = graph.call_function(operator.mul, (copies[operand], gain))
            return graph.node_copy(node, lambda x: gained.get(x, copies[x]))
        layer = self.target(node)
        if not self.is_a(node, WEIGHTED) or layer.bias is None:
            return graph.node_copy(node, copies.__getitem__)
        weight, bias = (graph.get_attr(f"{node.target}.{name}") for name in ("weight", "bias"))
        function = next(f for kind, f in FUNCTIONAL_WEIGHTED.items() if isinstance(layer, kind))
        geometry = [
            getattr(layer, name) for name in ("stride", "padding", "dilation", "groups") if hasattr(layer, name)
        ]
        currents = graph.call_function(function, (copies[node.args[0]], weight, None, *geometry))
        constant = graph.call_function(operator.truediv, (bias, self.scale(node, scales)))
        for _ in range(layer.weight.dim() - 2):
            constant = graph.call_function(torch.unsqueeze, (constant, -1))
        return graph.call_function(operator.add, (currents, constant))

    def main(self, node: fx.Node) -> fx.Node:
        """The operand whose scale `node` takes: one with weights, else the first."""
        operands = self.operands(node)
        return next((operand for operand in operands if self._is_weighted(operand)), operands[0])

    def _is_weighted(self, node: fx.Node) -> bool:
        """Whether a weight layer lies between `node` and the sites before it."""
        if node.op == "placeholder" or self.is_a(node, RELUS):
            return False
        return self.is_a(node, WEIGHTED) or any(map(self._is_weighted, self.operands(node)))

    def _find_sites(self) -> list[Site]:
        calls = Counter(node.target for node in self.module.graph.nodes if self.is_a(node, WEIGHTED))
        passes, names, sites, taken = Counter(), {}, [], set()
        for node in self.module.graph.nodes:
            if self.is_a(node, WEIGHTED):
                passes[node.target] += 1
                names[node] = f"{node.target}#{passes[node.target]}" if calls[node.target] > 1 else node.target
            if not self.is_a(node, RELUS) and node.op != "output":
                continue
            source = node.args[0]
            nodes, sources = self._between(source)
            weights = [n for n in nodes if n in names]
            key = names[weights[-1]] if weights else node.name
            key = key if key not in taken else f"{key}/{node.name}"
            taken.add(key)
            if node.op != "output" or nodes:
                relu = node if node.op != "output" else None
                sites.append(Site(key, relu, source, sources, nodes, tuple(n.target for n in weights)))
        if not any(site.weighted for site in sites):
            raise ValueError("the net has no conv or linear layer; neurons need one that feeds them")
        return sites

    def _between(self, node: fx.Node) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
        """The linear nodes that `node` depends on, itself included, and the sources they read, in graph order."""
        nodes, sources, open_nodes = set(), set(), [node]
        while open_nodes:
            node = open_nodes.pop()
            if node.op == "placeholder" or self.is_a(node, RELUS):
                sources.add(node)
            elif node not in nodes:
                nodes.add(node)
                open_nodes += node.all_input_nodes
        order = [n for n in self.module.graph.nodes if n in nodes or n in sources]
        return tuple(n for n in order if n in nodes), tuple(n for n in order if n in sources)
