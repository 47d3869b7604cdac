"""Training on a CPU: convolutions with many weights and few positions, each as one matrix product."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LARGEST_MAP = 4  # pixels a side
FEWEST_WEIGHTS = 2**20  # with fewer the convolution is faster


class SmallMaps(TorchFunctionMode):
    """Within this context `F.conv2d` on maps of at most 4 x 4 pixels and a million weights is a matrix product.

    Same sums, in another order. The library's convolution spends most of its backward pass on the weights there: a
    bfloat16 layer of 512 filters on 2 x 2 pixels trains 4 times as fast this way, VGG-16 as a whole 1.5 times. Only
    bfloat16 on a CPU, stride 1, no dilation, no groups; every other call goes through as it is.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d and _pays(*args, **(kwargs or {})):
            return as_product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _pays(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    halved = torch.bfloat16 in (input.dtype, torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
    return (
        input.device.type == "cpu"
        and halved
        and max(input.shape[-2:]) <= LARGEST_MAP
        and weight.numel() >= FEWEST_WEIGHTS
        and input.dim() == 4
        and not isinstance(padding, str)
        and groups == 1
        and {*_pair(stride), *_pair(dilation)} == {1}
    )


def as_product(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    """`F.conv2d` of stride 1: input [B, I, H, W], weight [O, I, h, w] -> [B, O, H', W'], channels last in memory."""
    (high, wide), (pad_high, pad_wide) = weight.shape[-2:], _pair(padding)
    pixels = F.pad(input.permute(0, 2, 3, 1), (0, 0, pad_wide, pad_wide, pad_high, pad_high))
    rows, columns = pixels.shape[1] - high + 1, pixels.shape[2] - wide + 1
    seen = [pixels[:, i : i + rows, j : j + columns] for i in range(high) for j in range(wide)]
    filters = weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(torch.cat(seen, -1), filters, bias).permute(0, 3, 1, 2)


def _pair(value) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
