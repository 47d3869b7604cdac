"""Writing a converted net as a NIR graph, operation by operation."""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from snnkit.neurons import LIF
from snnkit.tracing import DROPOUTS

IDENTITIES = (nn.Identity, *DROPOUTS, "contiguous", "clone")


class Values(nn.Module):
    """Runs a net and remembers what every node gave."""

    def __init__(self, net: fx.GraphModule):
        super().__init__()
        self.net, self.seen = net, {}

    def forward(self, x):
        interpreter = fx.Interpreter(self.net, garbage_collect_values=False)
        result = interpreter.run(x)
        self.seen = dict(interpreter.env)
        return result


class Writer:
    """Collects NIR nodes and edges; `sources` {node: names of the NIR nodes whose sum is its value}."""

    def __init__(self, nir, net: fx.GraphModule, values: dict):
        self.nir, self.net, self.values = nir, net, values
        self.nodes, self.edges, self.sources = {}, [], {}

    def add(self, node: fx.Node) -> None:
        value = self.values.get(node)
        if node.op == "placeholder":
            self._place(node, self.nir.Input({"input": np.array(value.shape[1:])}), [])
        elif node.op == "output":
            self._output(node.args[0])
        elif not any(argument in self.sources for argument in node.all_input_nodes):
            return  # a constant, or a size
        elif node.op == "call_module":
            self._module(node, self.net.get_submodule(node.target))
        else:
            self._call(node, value)

    def _place(self, node: fx.Node, made, arguments) -> None:
        """A NIR node for `node`, fed by `arguments`."""
        name = "input" if node.op == "placeholder" else node.name
        self.nodes[name] = made
        self.edges += [(source, name) for argument in arguments for source in self.sources[argument]]
        self.sources[node] = [name]

    def _output(self, node: fx.Node) -> None:
        self.nodes["output"] = self.nir.Output({"output": np.array(self.values[node].shape[1:])})
        self.edges += [(source, "output") for source in self.sources[node]]

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        x = node.args[0]
        if isinstance(module, LIF):
            self._place(node, self._neuron(node, module), [x])
        elif isinstance(module, nn.Conv2d):
            geometry = (module.stride, module.padding, module.dilation, module.groups)
            self._place(node, self._conv(x, module.weight, *geometry), [x])
        elif isinstance(module, nn.Linear):
            self._place(node, self._affine(module.weight), [x])
        elif isinstance(module, nn.AvgPool2d):
            if module.divisor_override:
                self._refuse(node, "an average pool with divisor_override")
            options = (module.stride, module.padding, module.ceil_mode, module.count_include_pad)
            self._pool(node, x, module.kernel_size, *options)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._adaptive(node, x)
        elif isinstance(module, nn.Flatten):
            self._flatten(node, x)
        elif isinstance(module, tuple(kind for kind in IDENTITIES if isinstance(kind, type))):
            self.sources[node] = self.sources[x]
        else:
            self._refuse(node, type(module).__name__)

    def _call(self, node: fx.Node, value) -> None:
        x, function = node.args[0], node.target
        if function is F.conv2d:
            stride, padding, dilation, groups = node.args[3:]
            weight = self.values[node.args[1]]
            self._place(node, self._conv(x, weight, stride, padding, dilation, groups), [x])
        elif function is F.linear:
            self._place(node, self._affine(self.values[node.args[1]]), [x])
        elif function in (operator.add, torch.add, "add"):
            self._add(node)
        elif function in (operator.mul, torch.mul, "mul"):
            x, factor = (x, node.args[1]) if isinstance(x, fx.Node) else (node.args[1], x)
            self._place(node, self._embed(x, value.shape[1], factor=factor), [x])
        elif function in (torch.cat, torch.concat):
            self._cat(node, value)
        elif function is operator.getitem:
            self._slice(node, value)
        elif function is F.pad and not any(node.args[1][:-1]) and len(node.args[1]) == 6:
            self._place(node, self._embed(x, value.shape[1]), [x])
        elif function is F.avg_pool2d:
            options = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True}
            options |= dict(zip((*options, "divisor_override"), node.args[2:], strict=False)) | dict(node.kwargs)
            if options.pop("divisor_override", None):
                self._refuse(node, "an average pool with divisor_override")
            self._pool(node, x, node.args[1], *list(options.values())[:4])
        elif function is F.adaptive_avg_pool2d or (function in ("mean", torch.mean) and value.dim() == 2):
            self._adaptive(node, x)
        elif function in (torch.flatten, "flatten", "reshape", "view") and value.dim() == 2:
            self._flatten(node, x)
        elif function in IDENTITIES:
            self.sources[node] = self.sources[x]
        else:
            self._refuse(node, getattr(function, "__name__", str(function)))

    def _neuron(self, node: fx.Node, layer: LIF):
        if layer.reset != "zero":
            self._refuse(node, f"a neuron that resets by {layer.reset}")
        if layer.threshold.dtype != torch.float32:
            self._refuse(node, f"a threshold of {layer.threshold.dtype}")
        shape = tuple(self.values[node].shape[1:])
        threshold = np.nextafter(layer.threshold.detach().cpu().numpy(), np.float32(-np.inf))
        threshold, one, zero = np.broadcast_to(threshold, shape).copy(), np.ones(shape, "f4"), np.zeros(shape, "f4")
        leak = torch.as_tensor(layer.leak).item()
        if leak == 1:
            return self.nir.IF(r=one, v_threshold=threshold, v_reset=zero)
        tau = one / np.float32(1 - leak)
        return self.nir.LIF(tau=tau, r=tau, v_leak=zero, v_threshold=threshold, v_reset=zero)

    def _conv(self, x: fx.Node, weight: torch.Tensor, stride, padding, dilation, groups):
        """Groups as zeros in the weights between them, for NIR's readers do not agree about groups."""
        shape, bias = tuple(self.values[x].shape[2:]), np.zeros(len(weight), "f4")
        outputs, inputs = len(weight) // groups, weight.shape[1]
        dense = weight.new_zeros(len(weight), inputs * groups, *weight.shape[2:])
        for group in range(groups):
            mine = slice(group * outputs, (group + 1) * outputs)
            dense[mine, group * inputs : (group + 1) * inputs] = weight[mine]
        return self.nir.Conv2d(shape, _array(dense), stride, padding, dilation, 1, bias)

    def _affine(self, weight: torch.Tensor):
        return self.nir.Affine(_array(weight), np.zeros(len(weight), "f4"))

    def _embed(self, x: fx.Node, outputs: int, first: int = 0, factor: float = 1.0, stride: int = 1):
        """Channels of `x`, times a factor, at the places from `first` on of `outputs` channels."""
        inputs = self.values[x].shape[1]
        matrix = factor * torch.eye(outputs, inputs).roll(first, 0)
        if self.values[x].dim() == 2:
            return self._affine(matrix)
        return self._conv(x, matrix[:, :, None, None], stride, 0, 1, 1)

    def _add(self, node: fx.Node) -> None:
        known = [x for x in node.args[:2] if x in self.sources]
        if node.kwargs.get("alpha", 1) != 1:
            self._refuse(node, "a sum with a factor alpha")
        if len(known) == 2:
            if set(self.sources[known[0]]) & set(self.sources[known[1]]):
                self._refuse(node, "a tensor added to itself")
            self.sources[node] = [*self.sources[known[0]], *self.sources[known[1]]]
            return
        # a bias: the constant joins the layer that it is added to
        name = self.sources[known[0]][0]
        constant = next(x for x in node.args[:2] if x is not known[0])
        self.nodes[name].bias = self.nodes[name].bias + _array(self.values[constant]).reshape(-1)
        self.sources[node] = [name]

    def _cat(self, node: fx.Node, value) -> None:
        if (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) not in (1, 1 - value.dim()):
            self._refuse(node, "a concatenation along anything but the channels")
        names, first = [], 0
        for place, x in enumerate(node.args[0]):
            name = f"{node.name}_{place}"
            self.nodes[name] = self._embed(x, value.shape[1], first)
            self.edges += [(source, name) for source in self.sources[x]]
            names, first = [*names, name], first + self.values[x].shape[1]
        self.sources[node] = names

    def _slice(self, node: fx.Node, value) -> None:
        x, index = node.args
        whole, steps = slice(None), {part.step for part in index[2:] if isinstance(part, slice)}
        regular = isinstance(index, tuple) and index[:2] == (whole, whole) and len(index) == 4 and len(steps) == 1
        if not regular or any(part.start or part.stop for part in index[2:]):
            self._refuse(node, f"an index {index}")
        self._place(node, self._embed(x, value.shape[1], stride=steps.pop() or 1), [x])

    def _pool(self, node: fx.Node, x: fx.Node, size, stride, padding, ceil_mode, include_pad) -> None:
        if ceil_mode or (not include_pad and padding not in (0, (0, 0))):
            self._refuse(node, "an average pool with ceil_mode, or without its padding")
        size, stride, padding = (_pair(v) for v in (size, size if stride is None else stride, padding))
        self._place(node, self.nir.AvgPool2d(kernel_size=size, stride=stride, padding=padding), [x])

    def _adaptive(self, node: fx.Node, x: fx.Node) -> None:
        before, after = self.values[x].shape[2:], (*self.values[node].shape[2:], 1, 1)[:2]
        if any(b % a for b, a in zip(before, after, strict=True)):
            self._refuse(node, f"an average over uneven cells of a map of {tuple(before)}")
        size = np.array([b // a for b, a in zip(before, after, strict=True)])
        pool = self.nir.AvgPool2d(kernel_size=size, stride=size, padding=_pair(0))
        if self.values[node].dim() == 4:
            self._place(node, pool, [x])
            return
        name = f"{node.name}_pool"  # a mean over the map drops its two dimensions
        self.nodes[name] = pool
        self.edges += [(source, name) for source in self.sources[x]]
        self.nodes[node.name] = self._flattening((self.values[x].shape[1], *after))
        self.edges.append((name, node.name))
        self.sources[node] = [node.name]

    def _flatten(self, node: fx.Node, x: fx.Node) -> None:
        if self.values[x].dim() == 2:
            self.sources[node] = self.sources[x]
        else:
            self._place(node, self._flattening(tuple(self.values[x].shape[1:])), [x])

    def _flattening(self, shape):
        return self.nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)

    def _refuse(self, node: fx.Node, what: str):
        raise ValueError(f"NIR cannot carry {what}, at {node.name}; see snnkit.exchange for what it carries")


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _pair(value) -> np.ndarray:
    return np.array([value, value] if isinstance(value, int) else value)
