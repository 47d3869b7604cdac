"""Small maps side by side: a processor's convolution fills rows of sixteen outputs, which maps of a few columns do not.

Laid into one wide map, with zeros between them, they cost as much as their size says. The sums are the same; only the
order of their additions is not.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LARGEST = 4  # columns of the widest map whose gradients are faster side by side
FEWEST_WEIGHTS = 64 * 64 * 9  # with fewer, laying side by side costs more than it saves


class SmallMaps(TorchFunctionMode):
    """Within this context, for training: `F.conv2d` of maps of at most 4 columns takes them side by side.

    Wide layers train several times as fast that way. Only bfloat16 on a CPU, convolutions that keep the size of their
    maps, and plain tensors (spikes know themselves how they are best convolved, see `snnkit.spikes`); every other call
    goes through as it is.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d and _pays(*args, **(kwargs or {})):
            return _wide_conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def keeps_size(kernel, stride, padding, dilation) -> bool:
    """Whether a convolution with these pairs gives maps of the size of its own."""
    odd = all(2 * p + 1 == k for p, k in zip(padding, kernel, strict=True))
    return odd and [*stride, *dilation] == [1] * 4


def side_by_side(maps: torch.Tensor, gap: int) -> torch.Tensor:
    """[N, C, H, W] -> one map [1, C, H, N * (W + gap)], zeros in the gaps; channels last."""
    number, channels, height, width = maps.shape
    wide = maps.new_zeros(height, number, width + gap, channels)
    wide[:, :, :width] = maps.permute(2, 0, 3, 1)
    return wide.view(1, height, -1, channels).permute(0, 3, 1, 2)


def apart(wide: torch.Tensor, number: int, width: int) -> torch.Tensor:
    """[1, O, H, N * (W + gap)] -> [N, O, H, W], channels last."""
    maps = wide[0].unflatten(2, (number, -1))[..., :width]
    return maps.permute(2, 0, 1, 3).contiguous(memory_format=torch.channels_last)


def pair(value) -> list[int]:
    """A number, or two of them, as torch's convolutions take them: two."""
    return [value, value] if isinstance(value, int) else list(value)


def _pays(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return (
        type(input) is torch.Tensor
        and input.is_cpu
        and torch.bfloat16 in (input.dtype, autocast)
        and input.dim() == 4
        and len(input) > 1
        and input.shape[3] <= LARGEST
        and weight.numel() >= FEWEST_WEIGHTS
        and not isinstance(padding, str)
        and groups == 1
        and keeps_size(weight.shape[2:], pair(stride), pair(padding), pair(dilation))
    )


def _wide_conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    wide = side_by_side(input, pair(padding)[1])
    return apart(F.conv2d(wide, weight, bias, stride, padding, dilation, groups), len(input), input.shape[3])
