"""Convolutions of spikes in eight-bit integers.

Spikes are 0 or 1, so a convolution reads them exactly as bytes; only the weights are rounded, to 127 levels a sign and
output channel. Processors with VNNI do this several times faster than float32. In precision "int8", neurons hand out
`SpikeBytes`; a convolution of these runs in integers and returns float32 currents, average pools add them up
as integers, layers that only reshape pass them on, and any other operation sees the float32 values they stand for. So
the first layer (real or signed input), the linear layers and everything unforeseen run in float32.
"""

from __future__ import annotations

import itertools

import torch
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

LEVELS = 127
OPERATIONS = ("qconv_prepack", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")


def has_fast_int8(device: torch.device | str = "cpu") -> bool:
    """Whether `device` is a processor with integer dot products (VNNI), and torch has the convolution for them."""
    capabilities = torch.cpu.get_capabilities() if torch.device(device).type == "cpu" else {}
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and all(hasattr(torch.ops.onednn, operation) for operation in OPERATIONS)


_packed = WeakTensorKeyDictionary()  # weight -> {geometry: what was made of it}


def pack_anew() -> None:
    """Forget the packed weights, as every simulation does first: weights can change without a trace (`.data`)."""
    _packed.clear()


class SpikeBytes(torch.Tensor):
    """uint8 numbers that stand for themselves times `scale`: spikes, or sums of spikes in the cells of a pool."""

    scale: float

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if function in _IN_INTEGERS:
                done = _IN_INTEGERS[function](*args, **kwargs)
                if done is not None:
                    return done
            if function in _RESHAPING:
                return spike_bytes(function(*args, **kwargs), args[0].scale)
            if function.__name__ == "__get__":  # shape, device and the like
                return function(*args, **kwargs)
            return function(*_as_floats(args), **_as_floats(kwargs))


def spike_bytes(spikes: torch.Tensor, scale: float = 1.0) -> SpikeBytes:
    """`spikes` uint8 as `SpikeBytes`."""
    found = spikes.as_subclass(SpikeBytes)
    found.scale = scale
    return found


def _as_floats(values):
    """Arguments with every `SpikeBytes` among them replaced by the float32 values that it stands for."""
    if isinstance(values, SpikeBytes):
        return values.float() if values.scale == 1 else values.float() * values.scale
    if isinstance(values, list | tuple):
        return type(values)(_as_floats(value) for value in values)
    if isinstance(values, dict):
        return {name: _as_floats(value) for name, value in values.items()}
    return values


def _conv2d(spikes, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """The convolution in integers, float32 [N, O, H, W]; None for one that integers do not serve."""
    if not isinstance(spikes, SpikeBytes) or isinstance(padding, str) or weight.dtype != torch.float32:
        return None
    stride, padding, dilation = ([x, x] if isinstance(x, int) else list(x) for x in (stride, padding, dilation))
    spikes_nhwc = spikes.contiguous(memory_format=torch.channels_last)
    size, kernel = list(spikes.shape[2:]), list(weight.shape[2:])
    same = all(2 * p + 1 == k for p, k in zip(padding, kernel, strict=True))  # the map keeps its size
    if same and [*stride, *dilation, groups] == [1] * 5 and size[0] * size[1] < kernel[0] * kernel[1] and bias is None:
        return _dense(spikes_nhwc, weight, size)
    geometry = (*stride, *padding, *dilation, groups)
    scales, packed = _once(weight, geometry, lambda: _pack(weight, *geometry))
    return torch.ops.onednn.qconv2d_pointwise(
        spikes_nhwc, spikes.scale, 0, packed, scales, torch.zeros(len(scales), dtype=torch.int8), bias,
        stride, padding, dilation, groups, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip


def _dense(spikes, weight, size) -> torch.Tensor:
    """A convolution whose map is smaller than its kernel, as the matrix product that it is: most taps see padding."""
    scales, packed = _once(weight, ("dense", *size), lambda: _pack_dense(weight, *size))
    currents = torch.ops.onednn.qlinear_pointwise(
        spikes.permute(0, 2, 3, 1).flatten(1), spikes.scale, 0, packed, scales,
        torch.zeros(len(scales), dtype=torch.int8), None, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return currents.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)


def _once(weight: torch.Tensor, geometry: tuple, make):
    """What `make` made of `weight` for `geometry` in this simulation."""
    kept = _packed.setdefault(weight, {})
    if geometry not in kept:
        kept[geometry] = make()
    return kept[geometry]


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales [O] and integers in -127..127 whose products are the weights, rounded."""
    scales = weight.detach().abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
    return scales, (weight.detach() / scales[:, None, None, None]).round_().to(torch.int8)


def _pack(weight, *geometry):
    scales, integers = _rounded(weight)
    stride, padding, dilation, groups = geometry[:2], geometry[2:4], geometry[4:6], geometry[6]
    return scales, torch.ops.onednn.qconv_prepack(integers, scales, 1.0, 0, stride, padding, dilation, groups, None)


def _pack_dense(weight, height: int, width: int):
    """The matrix from all inputs (y, x, c) to all outputs (y, x, o) of a map."""
    scales, integers = _rounded(weight)
    outputs, inputs, rows, columns = integers.shape
    matrix = integers.new_zeros(height, width, outputs, height, width, inputs)
    for y, x, v, u in itertools.product(range(height), range(width), range(height), range(width)):
        row, column = v - y + rows // 2, u - x + columns // 2
        if 0 <= row < rows and 0 <= column < columns:
            matrix[y, x, :, v, u] = integers[:, :, row, column]
    matrix = matrix.view(height * width * outputs, -1)
    return scales.repeat(height * width), torch.ops.onednn.qlinear_prepack(matrix, None)


def _avg_pool2d(spikes, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor=None):
    """Sums over the cells of a pool, as `SpikeBytes` with the factor in their scale; None where bytes do not serve."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    cells = stride in (None, kernel_size, (height, width)) and padding in (0, (0, 0)) and not ceil_mode
    largest = height * width / spikes.scale  # of a sum
    if not cells or divisor or largest > 255 or spikes.shape[-2] % height or spikes.shape[-1] % width:
        return None
    rows = sum(spikes[..., row::height, :] for row in range(height))
    sums = sum(rows[..., column::width] for column in range(width))
    return spike_bytes(sums, spikes.scale / (height * width))


_IN_INTEGERS = {torch.conv2d: _conv2d, F.avg_pool2d: _avg_pool2d}
_RESHAPING = {torch.flatten, torch.reshape, torch.Tensor.flatten, torch.Tensor.reshape, torch.Tensor.view}
