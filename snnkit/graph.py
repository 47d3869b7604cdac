"""A trained network as a chain of neuron sites: what conversion reads, and what it refuses.

A *site* is a place where a spiking net needs neurons: every call of a ReLU, and the output. Tracing (torch.fx) sees
calls, not modules, so a ReLU that is shared, or a block whose weights are used again, has a site for each call.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

from snnkit.dropout import Dropout
from snnkit.neurons import Stateful

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
RELUS = (nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, Dropout, F.dropout, F.dropout2d)
TRANSPARENT = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(nn.Flatten, nn.Identity, torch.flatten, "flatten", "view", "reshape", "size", operator.getitem, getattr),
    *DROPOUTS,
)
MAX_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
)
JOINS = (operator.add, operator.iadd, torch.add, torch.cat, torch.concat, "add", "add_")


@dataclass(frozen=True)
class Site:
    """A place for neurons. `key`: the path of the layer feeding it, with the pass for a layer used more than once
    (`conv2#3`). `nodes`: the graph nodes between the site before (`source`) and this one; `relu`: the ReLU call, None
    at the output. `weighted`: the paths of the weight layers among the nodes."""

    key: str
    source: fx.Node
    nodes: tuple[fx.Node, ...]
    relu: fx.Node | None
    weighted: tuple[str, ...]


class Chain:
    """A network traced in eval mode: `module` (a deep copy as a graph) and its `sites`, input to output.

    Raises ValueError, in one line that names every offending layer and what to do, for a net that cannot be converted.
    """

    def __init__(self, net: nn.Module):
        if any(isinstance(module, Stateful) for module in net.modules()):
            raise ValueError("the net already has spiking neurons; convert the ANN it was made from")
        net = copy.deepcopy(net).eval()
        try:
            graph = _Tracer().trace(net)
        except (fx.proxy.TraceError, TypeError) as error:
            raise ValueError(
                f"cannot trace {type(net).__name__}: {str(error).splitlines()[0]}; conversion needs a forward pass "
                "whose control flow does not depend on the data"
            ) from error
        self.module = fx.GraphModule(net, graph, type(net).__name__)
        self._refuse_what_cannot_spike()
        self.sites = self._find_sites()
        self._parts: dict[str, fx.GraphModule] = {}  # of `run`

    def target(self, node: fx.Node):
        """What a node calls: a module instance, a function, or the name of a tensor method."""
        return self.module.get_submodule(node.target) if node.op == "call_module" else node.target

    def is_a(self, node: fx.Node, kinds: tuple) -> bool:
        if node.op == "call_module":
            return isinstance(self.target(node), tuple(kind for kind in kinds if isinstance(kind, type)))
        return node.op in ("call_function", "call_method") and node.target in kinds

    def run(self, site: Site, value: torch.Tensor) -> torch.Tensor:
        """The input of the neurons at `site`, given the output `value` of the site before."""
        if site.key not in self._parts:
            graph = fx.Graph()
            copies = {site.source: graph.placeholder("value")}
            for node in site.nodes:
                copies[node] = graph.node_copy(node, copies.__getitem__)
            graph.output(copies[site.nodes[-1]])
            self._parts[site.key] = fx.GraphModule(self.module, graph)
        return self._parts[site.key](value)

    def _find_sites(self) -> list[Site]:
        calls = Counter(node.target for node in self.module.graph.nodes if self.is_a(node, WEIGHTED))
        passes: Counter[str] = Counter()
        sites, nodes, weighted, source, key = [], [], [], None, None
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                source = node
            elif self.is_a(node, RELUS):
                sites.append(Site(key, source, tuple(nodes), node, tuple(weighted)))
                source, nodes, weighted = node, [], []
            elif node.op == "output":
                if nodes:
                    sites.append(Site(key, source, tuple(nodes), None, tuple(weighted)))
            else:
                nodes.append(node)
                if self.is_a(node, WEIGHTED):
                    passes[node.target] += 1
                    key = f"{node.target}#{passes[node.target]}" if calls[node.target] > 1 else node.target
                    weighted.append(node.target)
        bare = [site for site in sites if not site.weighted]
        if bare or not sites:
            where = f"the ReLU {bare[0].relu.name!r}" if bare and bare[0].relu else "the output"
            raise ValueError(f"{where} follows no weight layer; neurons need a conv or linear layer that feeds them")
        return sites

    def _refuse_what_cannot_spike(self) -> None:
        problems = []
        if sum(node.op == "placeholder" for node in self.module.graph.nodes) != 1:
            problems.append("the net takes several inputs (give it one image tensor)")
        for node in self.module.graph.nodes:
            problem = self._problem(node)
            if problem and problem not in problems:
                problems.append(problem)
        if problems:
            raise ValueError("this net cannot be converted: " + "; ".join(problems))

    def _problem(self, node: fx.Node) -> str | None:
        """Why conversion cannot carry `node`, and what to do about it; None if it can."""
        if node.op in ("placeholder", "output"):
            return None
        target = self.target(node)
        name = node.target if node.op == "call_module" else node.name
        if self.is_a(node, WEIGHTED):
            return None if target.bias is None else f"{name} has a bias (train it with bias=False, SN section 4.3.1)"
        if self.is_a(node, (nn.modules.batchnorm._BatchNorm, F.batch_norm)):
            return f"{name} is batch-norm (train without it; dropout regularises instead, SN section 4.3.1)"
        if self.is_a(node, MAX_POOLS):
            return f"{name} is max-pooling (use average pooling and train again, SN section 4.3.2)"
        if self.is_a(node, JOINS):
            return f"{name} joins two branches (only chains of layers are converted)"
        if self.is_a(node, (*RELUS, *TRANSPARENT)):
            return None
        kind = type(target).__name__ if node.op == "call_module" else getattr(target, "__name__", str(target))
        return f"{name} is {kind}, which has no spiking counterpart (use ReLU, average pooling, conv and linear)"


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, Dropout) or super().is_leaf_module(module, path)
