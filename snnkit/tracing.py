"""A trained network as a graph of operations, each with its place in the user's source."""

from __future__ import annotations

import copy
import operator
import os
import sys
from pathlib import Path

import torch
from torch import fx, nn
from torch.nn import functional as F

from snnkit.dropout import Dropout
from snnkit.neurons import Stateful

LIBRARY = f"{Path(torch.__file__).parent}{os.sep}"  # frames from here are not the user's
FUNCTIONAL_WEIGHTED = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d, nn.Linear: F.linear}
WEIGHTED = tuple(FUNCTIONAL_WEIGHTED)
RELUS = (nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, F.batch_norm)
MAX_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, Dropout, F.dropout, F.dropout1d, F.dropout2d)
AVERAGE_POOLS = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
)
PADS = (F.pad, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
DIVISIONS = (operator.truediv, torch.div, "div")
FACTORS = (operator.mul, torch.mul, "mul", *DIVISIONS)  # of a tensor and a number
SUMS = (torch.mean, torch.sum, "mean", "sum")
RESHAPES = (
    *(nn.Flatten, nn.Identity, torch.flatten, torch.permute, torch.transpose, torch.chunk, torch.split, torch.squeeze),
    *("flatten", "view", "reshape", "permute", "transpose", "chunk", "split", "squeeze", "contiguous", "clone"),
    *(operator.getitem, operator.neg, torch.neg),
)
LINEAR = (*DROPOUTS, *AVERAGE_POOLS, *PADS, *SUMS, *RESHAPES)  # beside weight layers, factors and joins
JOINS = (
    *(operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, torch.cat, torch.concat),
    *(torch.stack, "add", "add_", "sub", "sub_"),
)
SHAPES = (getattr, "size", "dim")


class Trace:
    """`net` traced in eval mode: `module`, a deep copy as a `torch.fx.GraphModule`.

    Raises ValueError for a net that is spiking already, or whose control flow depends on its data.
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
        for node in graph.nodes:
            if node.op == "call_method" and node.target == "view":
                node.target = "reshape"  # for maps whose channels come last in memory
        self.module = fx.GraphModule(net, graph, type(net).__name__)

    def target(self, node: fx.Node):
        """What a node calls: a module instance, a function, or the name of a tensor method."""
        return self.module.get_submodule(node.target) if node.op == "call_module" else node.target

    def is_a(self, node: fx.Node, kinds: tuple) -> bool:
        """Whether `node` calls one of `kinds`: module types, functions, names of tensor methods."""
        if node.op == "call_module":
            return isinstance(self.target(node), tuple(kind for kind in kinds if isinstance(kind, type)))
        return node.op in ("call_function", "call_method") and node.target in kinds

    def is_shape(self, node: fx.Node) -> bool:
        """Whether `node` computes a size, not a tensor."""
        if self.is_a(node, SHAPES):
            return node.target is not getattr or node.args[1] == "shape"
        return bool(node.all_input_nodes) and all(map(self.is_shape, node.all_input_nodes))

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose tensors `node` reads."""
        return [x for x in node.all_input_nodes if not self.is_shape(x)]


def name_of(node: fx.Node) -> str:
    """How messages call a node: the module's path, else the node's own name."""
    return str(node.target) if node.op == "call_module" else node.name


def place_of(node: fx.Node) -> str:
    """Where the user's source makes this call, "net.py, line 12"; empty if that is not known."""
    return node.meta.get("place", "")


class _Tracer(fx.Tracer):
    def create_node(self, *args, **kwargs) -> fx.Node:
        node, frame = super().create_node(*args, **kwargs), sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(LIBRARY):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename != __file__:
            node.meta["place"] = f"{_file_name(frame.f_code.co_filename)}, line {frame.f_lineno}"
        return node

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, Dropout) or super().is_leaf_module(module, path)


def _file_name(path: str) -> str:
    """A file's name; a notebook's cells live in temporary files of meaningless names."""
    return "notebook cell" if Path(path).parent.name.startswith("ipykernel_") else Path(path).name
