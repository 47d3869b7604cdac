"""Where paths meet: how much of its share each path delivers to the sum, and how late it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn

from snnkit.graph import SiteGraph
from snnkit.simulation import simulate
from snnkit.tracing import JOINS, RELUS, WEIGHTED


@dataclass(frozen=True)
class Path:
    """What one path brings to a junction of a spiking net.

    `layer`: the weight layer that the path ends with, "shortcut" if none lies between the neurons before and the
    junction. `share` [T]: what it brings at each step, as a share of what the ANN's path brings (the projection on it,
    over all neurons and images). A path that is neither late nor wrong has share 1 from the first step on.
    """

    layer: str
    share: torch.Tensor

    @property
    def gain(self) -> float:
        """The mean share over the second half of the steps, when the path has settled: 1 if its scale is right."""
        return float(self.share[len(self.share) // 2 :].mean())

    @property
    def delay(self) -> float:
        """By how many steps it lags, over the second half, behind a path that had brought its `gain` from the start."""
        lag = torch.arange(1, len(self.share) + 1) - self.share.cumsum(0) / self.gain
        return float(lag[len(lag) // 2 :].mean())


@torch.no_grad()
def junctions(
    net: nn.Module,
    spiking: nn.Module,
    images: torch.Tensor,
    timesteps: int,
    generator: torch.Generator | None = None,
) -> dict[str, list[Path]]:
    """Every junction of `spiking`, made of the ANN `net` by `to_spiking`, on `images` [B, ...] over `timesteps` steps.

    Returns {last weight layer before the junction: its paths}, from input to output. Raises ValueError for a net
    without junctions.
    """
    conversion = spiking.meta["conversion"]
    graph = SiteGraph(net, conversion["fold_batchnorm"], conversion["allow_bias"])
    joins = [node for node in graph.module.graph.nodes if graph.is_a(node, JOINS)]
    if not joins:
        raise ValueError(f"{type(net).__name__} has no junction: no sum or concatenation of branches")
    scales = graph.scales(conversion["thresholds"])
    expected: dict[str, torch.Tensor] = {}
    _Watched(graph.module, expected.__setitem__)(images)
    copies = {node.name: node for node in spiking.graph.nodes}
    paths = {  # (join, place of the operand): the nodes in the ANN and in the SNN, and the worth of a spike there
        (join, place): (operand, copies[join.name].all_input_nodes[place], graph.scale(join, scales))
        for join in joins
        for place, operand in enumerate(graph.operands(join))
    }
    shares = {path: [] for path in paths}
    wanted: dict[str, list] = {}
    for path, (_, copy, _) in paths.items():
        wanted.setdefault(copy.name, []).append(path)

    def see(name: str, currents: torch.Tensor) -> None:
        for path in wanted.get(name, ()):
            operand, _, scale = paths[path]
            value = expected[operand.name]
            projected = (currents.unflatten(0, (-1, len(images))) * value).flatten(1).sum(1)  # [steps of the chunk]
            shares[path].append(scale * projected / value.square().sum())

    simulate(_Watched(spiking, see), images, timesteps, generator=generator)
    found: dict[str, list[Path]] = {}
    for (join, place), share in shares.items():
        path = Path(_layer(graph, graph.operands(join)[place]), torch.cat(share).cpu())
        found.setdefault(_layer(graph, graph.main(join)), []).append(path)
    return found


def _layer(graph: SiteGraph, node: fx.Node) -> str:
    """The weight layer that `node` ends with, "shortcut" if there is none after the neurons or the junction before."""
    while not graph.is_a(node, WEIGHTED):
        if node is graph.image or graph.is_a(node, (*RELUS, *JOINS)):
            return "shortcut"
        node = graph.main(node)
    return node.target


class _Watched(nn.Module):
    """A traced net that tells `see` the name of every node and what it gives."""

    def __init__(self, module: fx.GraphModule, see: Callable[[str, torch.Tensor], None]):
        super().__init__()
        self.module, self.see = module, see

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Interpreter(self.module, self.see).run(x)


class _Interpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, see: Callable[[str, torch.Tensor], None]):
        super().__init__(module)
        self.see = see

    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        self.see(node.name, value)
        return value
