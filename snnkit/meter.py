"""Counting what a network computes while it runs: its convolutions and matrix products, and the spikes they read."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from snnkit.hybrid import Static

TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
WEIGHTED = (F.conv1d, F.conv2d, F.conv3d, *TRANSPOSED, F.linear)
MATMULS = (torch.matmul, torch.mm, *(getattr(torch.Tensor, name) for name in ("matmul", "mm", "__matmul__")))
PRODUCTS = (  # of other tensors than an input and a weight
    *(torch.bmm, torch.Tensor.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.tensordot, F.bilinear),
    *(torch.Tensor.__rmatmul__, F.scaled_dot_product_attention, F.multi_head_attention_forward),
)
KINDS = ("binary", "integer", "real")  # what a layer reads: spikes, sums of spikes, other numbers


class _Behind(NamedTuple):
    """The spikes behind each element of a tensor: their `number`, and the `mean` of neurons that a pool averages."""

    number: torch.Tensor
    mean: torch.Tensor
    kind: str


@dataclass
class Total:
    """What one use of a weight cost so far, over the batch."""

    macs: int = 0  # of one image and step
    presentations: int = 0  # image-steps
    acs: float = 0.0
    activity: float = 0.0  # sum of the means, over `elements`
    elements: int = 0
    kind: str = "binary"


class Meter(TorchFunctionMode):
    """Sees every call of a torch function, follows spikes through what only moves or adds them, and counts."""

    def __init__(self, net: nn.Module, spiking: bool):
        super().__init__()
        self.names = {id(p): name.removesuffix(".weight") for name, p in net.named_parameters()}
        self.spiking, self.behind = spiking, WeakTensorKeyDictionary()
        self.totals: defaultdict[tuple[str, int], Total] = defaultdict(Total)  # by layer and pass
        self.passes: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()  # the passes before the static part that runs at the moment
        self.static: dict[Static, Counter[str]] = {}  # the passes of each static part
        self.inside: list[str] = []  # the modules that run at the moment, outermost first
        self.batch = 1  # images, or image-steps, of the forward pass

    def hooks(self, net: nn.Module, neurons: type) -> list:
        """Hooks for a run of `net`, whose spikes come from `neurons`; remove them afterwards."""
        found = [net.register_forward_pre_hook(self._begin)]
        for name, module in net.named_modules():
            found.append(module.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name)))
            found.append(module.register_forward_hook(self._left))
            if isinstance(module, neurons):
                found.append(module.register_forward_hook(self._fired))
            if isinstance(module, Static):
                found.append(module.register_forward_pre_hook(self._enter_static))
                found.append(module.register_forward_hook(self._left_static))
        return found

    def unread(self, net: nn.Module) -> tuple[str, ...]:
        """The weights, by name, that nothing counted has read."""
        read = {name for name, _ in self.totals}
        return tuple(
            name
            for name, parameter in net.named_parameters()
            if parameter.dim() > 1 and not any(name == layer or name.startswith(f"{layer}.") for layer in read)
        )

    def _left(self, *_) -> None:
        self.inside.pop()

    def _enter_static(self, module, *_) -> None:
        self.entered = Counter(self.passes)

    def _left_static(self, module, *_) -> None:
        """What ran once only keeps its place among the passes of the layers in the chunks after the first."""
        ran = self.passes - self.entered
        if ran:
            self.static[module] = ran
        else:
            self.passes += self.static[module]

    def _begin(self, module, inputs) -> None:
        """A forward pass starts, over some steps; spikes among its inputs are known by their values."""
        self.passes.clear()
        self.batch, image = len(inputs[0]), inputs[0]
        if self.spiking and bool(((image == 0) | (image.abs() == 1)).all()):
            self.behind[image] = _Behind(image.abs(), image.abs(), "binary")

    def _fired(self, module, inputs, spikes) -> None:
        """A neuron layer has fired."""
        number = spikes.as_subclass(torch.Tensor).to(module.threshold.dtype)
        self.behind[spikes] = _Behind(number, number, "binary")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in WEIGHTED or function in MATMULS or function in _FOLLOWED:
            args, kwargs = _in_order(args, dict(kwargs))
        if function in PRODUCTS:
            with FlopCounterMode(display=False) as flops:
                result = function(*args, **kwargs)
            self._total(self.inside[-1] if self.inside else "", result, flops.get_total_flops() // 2).kind = "real"
            return result
        result = function(*args, **kwargs)
        if function in WEIGHTED:
            self._count(function, result, *args, **kwargs)
        elif function in MATMULS:
            self._count(F.linear, result, args[0], args[1].mT, names=(args[1],))
        elif function in _FOLLOWED:
            behind = _FOLLOWED[function](function, self.behind, args, kwargs)
            if isinstance(behind, tuple) and not isinstance(behind, _Behind):
                self.behind.update(zip(result, behind, strict=True))
            elif behind is not None:
                self.behind[result] = behind
        return result

    def _total(self, name: str, result, macs: int) -> Total:
        """Where the next pass through `name` is counted: `macs` of the whole batch more."""
        self.passes[name] += 1
        total = self.totals[name, self.passes[name]]
        steps = len(result) if len(result) % self.batch else self.batch
        total.macs = macs / steps
        total.presentations += steps
        return total

    def _count(self, function, result, x, weight, bias=None, *geometry, names=(), **options) -> None:
        known = [self.names[id(w)] for w in (weight, *names) if id(w) in self.names]
        name = (known or self.inside[-1:] or [function.__name__])[0]
        if function in TRANSPOSED:
            macs = x.numel() * weight[0].numel()
        elif function is F.linear:
            macs = result.numel() * weight.shape[-1]
        else:
            macs = result.numel() * weight[0].numel()
        total, behind = self._total(name, result, macs), self.behind.get(x)
        if behind is None:
            total.kind = "real"
            return
        total.kind = max(total.kind, behind.kind, key=KINDS.index)
        total.activity += float(behind.mean.double().sum())
        total.elements += behind.mean.numel()
        if function is F.linear:
            total.acs += float(behind.number.double().sum()) * weight.shape[-2]
            return
        positions = _positions_read(function, x[:1, :1], weight[:1, :1], geometry, options)
        reached = float((behind.number.double().sum((0, 1)) * positions).sum())
        if function in TRANSPOSED:
            total.acs += reached * weight.shape[1]
        else:
            groups = geometry[3] if len(geometry) > 3 else options.get("groups", 1)
            total.acs += reached * len(weight) / groups


def _in_order(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Operands that were given by name, in their places."""
    for place, names in enumerate((("input", "tensors", "tensor"), ("weight", "mat2", "other"), ("bias",))):
        name = next((name for name in names if name in kwargs), None)
        if name is not None and len(args) == place:
            args = (*args, kwargs.pop(name))
    return args, kwargs


def _positions_read(function, x, weight, geometry, options) -> torch.Tensor:
    """[H, W]: how many output positions of a convolution read each input position: the gradient of their sum."""
    groups = 4 if function in TRANSPOSED else 3  # its place behind the bias: one channel has no groups
    geometry = [1 if place == groups else value for place, value in enumerate(geometry)]
    options = {name: value for name, value in options.items() if name != "groups"}
    with torch.enable_grad():
        x = torch.zeros_like(x.as_subclass(torch.Tensor), dtype=torch.float64, requires_grad=True)
        out = function(x, torch.ones_like(weight, dtype=torch.float64), None, *geometry, **options)
        return torch.autograd.grad(out.sum(), x)[0][0, 0]


def _moved(function, behind, args, kwargs):
    """Spikes that change places, into one tensor or several."""
    known = behind.get(args[0])
    if known is None:
        return None
    number, mean = (function(x, *args[1:], **kwargs) for x in known[:2])
    if isinstance(number, torch.Tensor):
        return _Behind(number, mean, known.kind)
    return tuple(_Behind(*part, known.kind) for part in zip(number, mean, strict=True))


def _scaled(function, behind, args, kwargs):
    """Spikes times a number, or an identity."""
    return None if any(isinstance(x, torch.Tensor) for x in args[1:]) else behind.get(args[0])


def _joined(function, behind, args, kwargs):
    known = [behind.get(x) for x in args[0]]
    if None in known:
        return None
    number, mean = (function([k[i] for k in known], *args[1:], **kwargs) for i in (0, 1))
    return _Behind(number, mean, max((k.kind for k in known), key=KINDS.index))


def _added(function, behind, args, kwargs):
    known = [behind.get(x) if isinstance(x, torch.Tensor) else None for x in args[:2]]
    if None in known:
        return None
    return _Behind(known[0].number + known[1].number, known[0].mean + known[1].mean, "integer")


def _pooled(function, behind, args, kwargs):
    """Averages over cells: the numbers add up."""
    known = behind.get(args[0])
    if known is None:
        return None
    mean = function(known.mean, *args[1:], **kwargs)
    if function is F.avg_pool1d:
        names = ("kernel_size", "stride", "padding", "ceil_mode")
        options = dict(zip(names, args[1:5], strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        flat = {k: (v if isinstance(v, bool) else (int(k != "padding"), *_single(v))) for k, v in options.items() if v}
        number = F.avg_pool2d(known.number.unsqueeze(-2), **flat, divisor_override=1).squeeze(-2)
    elif function in (F.avg_pool2d, F.avg_pool3d):
        options = dict(zip(("stride", "padding", "ceil_mode"), args[2:5], strict=False)) | kwargs
        number = function(known.number, *args[1:2], **options | {"divisor_override": 1})
    else:
        number = function(known.number, *args[1:], **kwargs) * _cells(known.number.shape, mean.shape).to(mean)
    return _Behind(number, mean, "integer")


def _cells(before, after) -> torch.Tensor:
    """How many elements of a map [..., H, W] adaptive pooling averages in each cell."""
    cells = torch.ones(())
    for size, number in zip(before[2:], after[2:], strict=True):
        place = torch.arange(number)
        cells = cells[..., None] * (-(-(place + 1) * size // number) - place * size // number)
    return cells


def _summed(function, behind, args, kwargs):
    known = behind.get(args[0])
    if known is None:
        return None
    number, mean = (f(x, *args[1:], **kwargs) for f, x in ((torch.sum, known.number), (torch.mean, known.mean)))
    return _Behind(number, mean, "integer")


def _single(value) -> tuple[int]:
    return (value,) if isinstance(value, int) else tuple(value)


def _of(*names: str) -> tuple:
    """Functions of these names: torch's and the tensors' own."""
    return tuple(f for name in names for f in (getattr(torch, name, None), getattr(torch.Tensor, name, None)) if f)


_MOVES = ("flatten", "reshape", "view", "permute", "transpose", "squeeze", "chunk", "split", "clone", "contiguous")
_POOLS = (
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
_FOLLOWED = {
    **dict.fromkeys((*_of(*_MOVES, "__getitem__"), F.pad), _moved),
    **dict.fromkeys((*_of("mul", "div", "true_divide", "neg", "__neg__", "mul_", "div_"), *_DROPOUTS), _scaled),
    **dict.fromkeys(_of("cat", "concat", "stack"), _joined),
    **dict.fromkeys(_of("add", "add_", "sub", "sub_", "__add__", "__sub__", "__radd__"), _added),
    **dict.fromkeys(_POOLS, _pooled),
    **dict.fromkeys(_of("mean", "sum"), _summed),
}
