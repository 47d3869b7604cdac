"""Convolutions of spikes in eight-bit integers.

Spikes are 0 or 1, so a convolution reads them exactly as bytes; only the weights are rounded, to 127 levels a sign and
output channel. Processors with VNNI do this several times faster than float32. In precision "int8", neurons hand out
`SpikeBytes`; a convolution of these runs in integers and returns float32 currents, average pools add them up
as integers, layers that only reshape pass them on, and any other operation sees the float32 values they stand for. So
the first layer (real or signed input), the linear layers and everything unforeseen run in float32.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from snnkit.spikes import Spikes, as_matrix, once, pool_cell

LEVELS = 127
OPERATIONS = ("qconv_prepack", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")


def has_fast_int8(device: torch.device | str = "cpu") -> bool:
    """Whether `device` is a processor with integer dot products (VNNI), and torch has the convolution for them."""
    capabilities = torch.cpu.get_capabilities() if torch.device(device).type == "cpu" else {}
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and all(hasattr(torch.ops.onednn, operation) for operation in OPERATIONS)


class SpikeBytes(Spikes):
    """uint8 numbers that stand for themselves times `scale`: spikes, or sums of spikes in the cells of a pool."""

    scale: float

    def values(self) -> torch.Tensor:
        plain = self.as_subclass(torch.Tensor).float()
        return plain if self.scale == 1 else plain * self.scale

    def like(self, spikes: torch.Tensor) -> SpikeBytes:
        return spike_bytes(spikes, self.scale)

    def pooled(self, *args, **kwargs) -> torch.Tensor:
        """Sums over the cells, the factor in their scale; a plain tensor of means where bytes do not serve."""
        height, width = pool_cell(self, *args, **kwargs) or (1, 1)
        if not 1 < height * width <= 255 * self.scale:
            return F.avg_pool2d(self.values(), *args, **kwargs)
        rows = sum(self[..., row::height, :] for row in range(height))
        sums = sum(rows[..., column::width] for column in range(width))
        return spike_bytes(sums, self.scale / (height * width))

    def convolved(self, weight, bias, stride, padding, dilation, groups) -> torch.Tensor:
        """In integers; currents are float32 [N, O, H, W]."""
        if weight.dtype != torch.float32:
            return super().convolved(weight, bias, stride, padding, dilation, groups)
        geometry = (*stride, *padding, *dilation, groups)
        scales, packed = once(weight, ("int8", *geometry), lambda: _pack(weight, *geometry))
        return torch.ops.onednn.qconv2d_pointwise(
            self.contiguous(memory_format=torch.channels_last), self.scale, 0, packed, scales, _zeros(scales), bias,
            stride, padding, dilation, groups, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip

    def multiplied(self, weight, size: list[int]) -> torch.Tensor:
        if weight.dtype != torch.float32:
            return super().multiplied(weight, size)
        scales, packed = once(weight, ("int8", *size), lambda: _pack_matrix(weight, *size))
        return torch.ops.onednn.qlinear_pointwise(
            self, self.scale, 0, packed, scales, _zeros(scales), None, 1.0, 0, torch.float32, "none", [], ""
        )


def spike_bytes(spikes: torch.Tensor, scale: float = 1.0) -> SpikeBytes:
    """`spikes` uint8 as `SpikeBytes`."""
    found = spikes.as_subclass(SpikeBytes)
    found.scale = scale
    return found


def _zeros(scales: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(scales), dtype=torch.int8)


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales [O] and integers in -127..127 whose products are the weights, rounded."""
    scales = weight.detach().abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
    return scales, (weight.detach() / scales[:, None, None, None]).round_().to(torch.int8)


def _pack(weight, *geometry):
    scales, integers = _rounded(weight)
    stride, padding, dilation, groups = geometry[:2], geometry[2:4], geometry[4:6], geometry[6]
    return scales, torch.ops.onednn.qconv_prepack(integers, scales, 1.0, 0, stride, padding, dilation, groups, None)


def _pack_matrix(weight, height: int, width: int):
    scales, integers = _rounded(weight)
    matrix = as_matrix(integers, height, width)
    return scales.repeat(height * width), torch.ops.onednn.qlinear_prepack(matrix, None)
