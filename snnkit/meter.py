"""Counting what a network computes while it runs: its convolutions and matrix products, and the spikes they read."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

WEIGHTED = (F.conv1d, F.conv2d, F.conv3d, F.linear)
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

    def begin(self, module, inputs) -> None:
        """A forward pass starts, over some steps; spikes among its inputs are known by their values."""
        self.passes.clear()
        image = inputs[0]
        if self.spiking and bool(((image == 0) | (image.abs() == 1)).all()):
            self.behind[image] = _Behind(image.abs(), image.abs(), "binary")

    def fired(self, module, inputs, spikes) -> None:
        """A neuron layer has fired."""
        number = spikes.as_subclass(torch.Tensor).to(module.threshold.dtype)
        self.behind[spikes] = _Behind(number, number, "binary")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function in WEIGHTED and id(args[1]) in self.names:
            self._count(function, result, *args, **kwargs)
        elif function in _FOLLOWED:
            behind = _FOLLOWED[function](function, self.behind, args, kwargs)
            if behind is not None:
                self.behind[result] = behind
        return result

    def _count(self, function, result, x, weight, bias=None, *geometry, **options) -> None:
        name = self.names[id(weight)]
        self.passes[name] += 1
        total = self.totals[name, self.passes[name]]
        total.macs = result[0].numel() * weight[0].numel()
        total.presentations += len(result)
        behind = self.behind.get(x)
        if behind is None:
            total.kind = "real"
            return
        total.kind = max(total.kind, behind.kind, key=KINDS.index)
        total.activity += float(behind.mean.double().sum())
        total.elements += behind.mean.numel()
        if function is F.linear:
            total.acs += float(behind.number.double().sum()) * len(weight)
        else:
            groups = geometry[3] if len(geometry) > 3 else options.get("groups", 1)
            positions = _positions_read(function, x[:1, :1], weight[:1, :1], geometry[:3], options)
            total.acs += float((behind.number.double().sum((0, 1)) * positions).sum()) * len(weight) / groups


def _positions_read(function, x, weight, geometry, options) -> torch.Tensor:
    """[H, W]: how many output positions of a convolution read each input position: the gradient of their sum."""
    options = {name: value for name, value in options.items() if name != "groups"}
    with torch.enable_grad():
        x = torch.zeros_like(x.as_subclass(torch.Tensor), dtype=torch.float64, requires_grad=True)
        out = function(x, torch.ones_like(weight, dtype=torch.float64), None, *geometry, **options)
        return torch.autograd.grad(out.sum(), x)[0][0, 0]


def _moved(function, behind, args, kwargs):
    """Spikes that change places."""
    known = behind.get(args[0])
    return known and _Behind(*(function(x, *args[1:], **kwargs) for x in known[:2]), known.kind)


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
    if function in (F.avg_pool2d, F.avg_pool3d):
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


_METHODS = ("flatten", "reshape", "view", "permute", "transpose", "squeeze", "contiguous", "clone", "__getitem__")
_FOLLOWED = {
    **dict.fromkeys((torch.flatten, torch.permute, torch.transpose, torch.squeeze, F.pad), _moved),
    **dict.fromkeys((getattr(torch.Tensor, name) for name in _METHODS), _moved),
    **dict.fromkeys((torch.Tensor.mul, torch.Tensor.div, torch.mul, torch.div, F.dropout, F.dropout2d), _scaled),
    **dict.fromkeys((torch.cat, torch.concat), _joined),
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.add_, torch.sub, torch.Tensor.sub), _added),
    **dict.fromkeys((F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), _pooled),
    **dict.fromkeys((torch.mean, torch.Tensor.mean, torch.sum, torch.Tensor.sum), _summed),
}
