"""A trained network as a graph of operations, each with its place in the user's source."""

from __future__ import annotations

import copy
import inspect
import operator
import os
import sys
import traceback
from pathlib import Path

import torch
from torch import fx, nn
from torch.nn import functional as F

from snnkit.dropout import Dropout
from snnkit.neurons import Stateful

LIBRARY = f"{Path(torch.__file__).parent}{os.sep}"  # frames from here are not the user's
FUNCTIONAL_WEIGHTED = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d, nn.Linear: F.linear}
WEIGHTED = tuple(FUNCTIONAL_WEIGHTED)
RELUS = (nn.ReLU, F.relu, torch.relu, "relu")
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
JOINS = (operator.add, operator.sub, torch.add, torch.sub, torch.cat, torch.concat, torch.stack, "add", "sub")
SHAPES = (getattr, "size", "dim")


IN_PLACE = {
    **{F.relu_: F.relu, torch.relu_: torch.relu, operator.iadd: operator.add, operator.isub: operator.sub},
    **{operator.imul: operator.mul, operator.itruediv: operator.truediv},
    **{f"{name}_": name for name in ("relu", "add", "sub", "mul", "div")},
}  # operations that change their first operand: the same as a new tensor
COPIES = ("clone", operator.neg, torch.neg)  # reshapes that always give a new tensor
VIEWS = (*(x for x in RESHAPES if x not in COPIES), *DROPOUTS)  # what they give may be the tensor they read


class Trace:
    """`net` traced in eval mode: `module`, a deep copy as a `torch.fx.GraphModule`.

    Operands stand in the order of the signatures, whether they were given by name or not. Nothing is changed in place:
    there is a new tensor instead, and whoever read the old one after the change reads the new one.

    Raises ValueError for a net that is spiking already, that has hooks which a graph would lose, that cannot be traced
    (its control flow depends on its data, say), or that changes a tensor in place while another view of it is read.
    """

    def __init__(self, net: nn.Module):
        if not isinstance(net, nn.Module):
            raise ValueError(f"the net is {net!r:.60}; give a torch.nn.Module")
        if any(isinstance(module, Stateful) for module in net.modules()):
            raise ValueError("the net already has spiking neurons; convert the ANN it was made from")
        _check_hooks(net)
        kind = type(net)
        try:
            net = copy.deepcopy(net).eval()
            net.__class__ = _of_one_input(kind)
            graph = _Tracer().trace(net)
        except Exception as error:  # tracing runs the user's code, which may raise anything
            place = _place_of_error(error)
            raise ValueError(
                f"cannot trace {kind.__name__}{f' ({place})' if place else ''}: {type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}; conversion runs the forward pass once with stand-ins for "
                "tensors: no branch, loop or size may depend on values, and modules must be made in __init__"
            ) from error
        for node in graph.nodes:
            if node.op == "call_method" and node.target == "view":
                node.target = "reshape"  # for maps whose channels come last in memory
        self.module = fx.GraphModule(net, graph, kind.__name__)
        for node in graph.nodes:
            _put_in_order(node)
        self._follow_changes()

    def _follow_changes(self) -> None:
        """Turn every change in place into a new tensor, which all nodes behind it read."""
        nodes = list(self.module.graph.nodes)
        place, root = {node: i for i, node in enumerate(nodes)}, {}
        for node in nodes:
            root[node] = node
            if self._changes_its_operand(node):
                changed = node.args[0]
                changed.replace_all_uses_with(node, lambda user, first=place[node]: place[user] > first)
                for other in (x for x, of in root.items() if of is root[changed] and x is not changed):
                    if reader := next((user for user in other.users if place[user] > place[node]), None):
                        raise ValueError(
                            f"{_named(node)} changes a tensor in place that {_named(reader)} reads through another "
                            "view; use the operation that makes a new tensor"
                        )
            elif self.is_a(node, VIEWS) and isinstance(node.args[0], fx.Node):
                root[node] = root[node.args[0]]
        self.module.recompile()

    def _changes_its_operand(self, node: fx.Node) -> bool:
        """Whether `node` changes a tensor in place (a size is no tensor); it does not any more."""
        if self.is_a(node, (nn.ReLU,)):
            changes, self.target(node).inplace = self.target(node).inplace, False
        elif self.is_a(node, (F.relu,)):
            changes = node.kwargs.get("inplace", False) or node.args[1:] == (True,)
            node.args, node.kwargs = node.args[:1], {}
        else:
            changes = self.is_a(node, tuple(IN_PLACE))
            node.target = IN_PLACE[node.target] if changes else node.target
        return changes and isinstance(node.args[0], fx.Node) and not self.is_shape(node.args[0])

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


def _named(node: fx.Node) -> str:
    return name_of(node) + (f" ({place_of(node)})" if place_of(node) else "")


def _check_hooks(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if not isinstance(module, WEIGHTED) and (module._forward_hooks or module._forward_pre_hooks):
            raise ValueError(
                f"{name or type(net).__name__} has forward hooks, which conversion would lose; remove them"
            )


def _of_one_input(kind: type) -> type:
    """`kind` with a forward pass of its first argument only, if all others have defaults; else `kind`."""
    first, *others = list(inspect.signature(kind.forward).parameters.values())[1:] or [None]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p for p in others if p.default is inspect.Parameter.empty and p.kind not in optional]
    if first is None or first.kind in optional or not others or required:
        return kind
    return type(kind.__name__, (kind,), {"forward": lambda self, image: kind.forward(self, image)})


def _put_in_order(node: fx.Node) -> None:
    """Turn operands that were given by name into positional ones, and numpy's name for dimensions into torch's."""
    if node.op not in ("call_function", "call_method", "call_module"):
        return
    named = {"dim" if name == "axis" else name: value for name, value in node.kwargs.items()}
    arguments = list(node.args)
    first = tuple(named)[:1] if node.op == "call_module" else ("input", "tensors")
    for place, names in enumerate((first, ("other",))):
        name = next((name for name in names if name in named), None)
        if name is not None and len(arguments) == place:
            arguments.append(named.pop(name))
    node.args, node.kwargs = tuple(arguments), named


def _place_of_error(error: BaseException) -> str:
    """The line of the user's code that raised it."""
    own = (LIBRARY, str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*own, "<"))]
    return f"{_file_name(frames[-1].filename)}, line {frames[-1].lineno}" if frames else ""


class _Proxy(fx.Proxy):
    """A stand-in that notes changes in place, which torch's own takes for new tensors."""

    def __iadd__(self, other):
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other):
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other):
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other):
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args, **kwargs) -> fx.Node:
        node, frame = super().create_node(*args, **kwargs), sys._getframe(1)
        while frame is not None and (
            frame.f_code.co_filename.startswith(LIBRARY) or frame.f_code.co_name in vars(_Proxy)
        ):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename != __file__:
            node.meta["place"] = f"{_file_name(frame.f_code.co_filename)}, line {frame.f_lineno}"
        return node

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, Dropout) or super().is_leaf_module(module, path)


def _file_name(path: str) -> str:
    """A file's name; a notebook's cells live in temporary files of meaningless names."""
    return "notebook cell" if Path(path).parent.name.startswith("ipykernel_") else Path(path).name
