"""What neurons hand to the next layer: `Spikes`, which know how they are best convolved, and how best remembered.

Without gradients, the first: on maps of a few cells, as deep layers have them, most taps of the kernel meet padding.
So a map smaller than its kernel is multiplied with one matrix, and other narrow maps are laid side by side into a wide
one (`snnkit.small_maps`). The sums are the same; only the order of their additions is not.

With gradients, the second: what autograd saves of spikes for the backward pass is the byte that the scan over time
keeps of each anyway (`snnkit.scan.Scanned.codes`), not a second copy of two or four bytes.
"""

from __future__ import annotations

import itertools

import torch
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from snnkit.small_maps import apart, keeps_size, pair, side_by_side

NARROW = 7  # columns of the widest map that is laid side by side with others

_made = WeakTensorKeyDictionary()  # weight -> {layout: what was made of it}


def forget_layouts() -> None:
    """Forget what was made of weights, as every simulation does first: they can change without a trace (`.data`)."""
    _made.clear()


def once(weight: torch.Tensor, layout: tuple, make):
    """What `make` made of `weight` for `layout` in this simulation."""
    kept = _made.setdefault(weight, {})
    if layout not in kept:
        kept[layout] = make()
    return kept[layout]


class Spikes(torch.Tensor):
    """Spikes, or means of spikes in the cells of a pool: a tensor like any other, except in how it is convolved.

    Convolutions return plain tensors; pools and reshaping return `Spikes`; any other operation sees plain tensors. With
    `codes`, which hold the same spikes, every operation returns plain tensors, and autograd saves the codes instead.
    """

    codes: torch.Tensor | None = None

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            coded = next((x for x in args if isinstance(x, Spikes) and x.codes is not None), None)
            if coded is not None:
                cell = pool_cell(coded, *args[1:], **kwargs) if function is F.avg_pool2d else None
                if cell:
                    return _Pool.apply(coded.values(), cell)
                with _saving(coded):
                    return function(*_as_values(args), **_as_values(kwargs))
            if args and isinstance(args[0], Spikes):
                if function is torch.conv2d:
                    return _conv2d(*args, **kwargs)
                if function is F.avg_pool2d:
                    return args[0].pooled(*args[1:], **kwargs)
                if function in _RESHAPING:
                    return args[0].like(function(*args, **kwargs))
            if function.__name__ == "__get__":  # shape, device and the like
                return function(*args, **kwargs)
            return function(*_as_values(args), **_as_values(kwargs))

    def values(self) -> torch.Tensor:
        """The numbers that these spikes stand for, as a plain tensor."""
        return self.as_subclass(torch.Tensor)

    def like(self, spikes: torch.Tensor) -> Spikes:
        """`spikes` as the same kind of tensor as this one."""
        return spikes.as_subclass(Spikes)

    def pooled(self, *args, **kwargs) -> torch.Tensor:
        """As `torch.nn.functional.avg_pool2d`."""
        return self.like(F.avg_pool2d(self.values(), *args, **kwargs))

    def convolved(self, weight, *args) -> torch.Tensor:
        """As `torch.conv2d` with all its arguments in order: a plain tensor."""
        return torch.conv2d(self.values(), weight, *args)

    def multiplied(self, weight, size: list[int]) -> torch.Tensor:
        """[N, C * H * W] in the order (y, x, c) times the matrix of `weight` on maps of `size`: [N, H * W * O]."""
        autocast = torch.is_autocast_enabled(self.device.type)
        dtype = torch.get_autocast_dtype(self.device.type) if autocast else weight.dtype
        matrix = once(weight, (dtype, *size), lambda: as_matrix(weight.detach().to(dtype), *size))
        return F.linear(self.values(), matrix)


_RESHAPING = {torch.flatten, torch.reshape, torch.Tensor.flatten, torch.Tensor.reshape, torch.Tensor.view}


def as_spikes(tensor: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
    """`tensor` as `Spikes` where that is of use: with `codes`, or on a processor and without gradients."""
    if codes is None and (torch.is_grad_enabled() or not tensor.is_cpu):
        return tensor
    found = tensor.as_subclass(Spikes)
    found.codes = codes
    return found


def _saving(spikes: Spikes):
    """A context in which autograd saves the codes in place of `spikes`."""
    values, codes = spikes.values(), spikes.codes
    place = (values.data_ptr(), values.dtype, values.shape, values.stride())

    def pack(tensor):
        same = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) == place
        return (codes, tensor.dtype) if same else tensor

    def unpack(packed):
        return packed if isinstance(packed, torch.Tensor) else (packed[0] >> 1).to(packed[1])

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _as_values(arguments):
    """Arguments with every `Spikes` among them replaced by its values."""
    if isinstance(arguments, Spikes):
        return arguments.values()
    if isinstance(arguments, list | tuple):
        return type(arguments)(_as_values(argument) for argument in arguments)
    if isinstance(arguments, dict):
        return {name: _as_values(argument) for name, argument in arguments.items()}
    return arguments


def pool_cell(maps, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor=None):
    """The cell (height, width) of an average pool that tiles `maps` without rest; None for any other pool."""
    cell = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    tiles = stride in (None, kernel_size, cell) and padding in (0, (0, 0)) and not ceil_mode and divisor is None
    return cell if tiles and not (maps.shape[-2] % cell[0] or maps.shape[-1] % cell[1]) else None


class _Pool(torch.autograd.Function):
    """The mean over each cell: its gradient needs no spikes."""

    @staticmethod
    def forward(ctx, maps, cell):
        ctx.cell = cell
        return F.avg_pool2d(maps, cell)

    @staticmethod
    def backward(ctx, gradient):
        height, width = ctx.cell
        share = (gradient / (height * width)).permute(0, 2, 3, 1)[:, :, None, :, None]  # [N, H, 1, W, 1, C]
        share = share.expand(-1, -1, height, -1, width, -1)
        return share.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2), None


def _conv2d(spikes: Spikes, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    if isinstance(padding, str):
        return torch.conv2d(spikes.values(), weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    size, kernel = list(spikes.shape[2:]), list(weight.shape[2:])
    same = keeps_size(kernel, stride, padding, dilation)
    if same and groups == 1 and bias is None and size[0] * size[1] < kernel[0] * kernel[1]:
        flat = spikes.like(spikes.permute(0, 2, 3, 1).flatten(1))
        return flat.multiplied(weight, size).unflatten(1, (*size, -1)).permute(0, 3, 1, 2)
    if same and size[1] <= NARROW and len(spikes) > 1:
        wide = spikes.like(side_by_side(spikes, padding[1]))
        return apart(wide.convolved(weight, bias, stride, padding, dilation, groups), len(spikes), size[1])
    return spikes.convolved(weight, bias, stride, padding, dilation, groups)


def as_matrix(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The matrix [H * W * O, H * W * C] of a convolution that keeps the size of maps, all in the order (y, x, c)."""
    outputs, inputs, rows, columns = weight.shape
    matrix = weight.new_zeros(height, width, outputs, height, width, inputs)
    for y, x, v, u in itertools.product(range(height), range(width), range(height), range(width)):
        row, column = v - y + rows // 2, u - x + columns // 2
        if 0 <= row < rows and 0 <= column < columns:
            matrix[y, x, :, v, u] = weight[:, :, row, column]
    return matrix.view(height * width * outputs, -1)
