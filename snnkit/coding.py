"""Coding: an image becomes a train of spikes (SN section 4.1) or a constant current, a recording its frames."""

from __future__ import annotations

from numbers import Integral

import torch


def poisson(images: torch.Tensor, timesteps: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Code each value x as spikes of sign(x), fired at every step with probability |x|, independently.

    `images` [B, ...] with values in [-1, 1] -> spikes [T, B, ...] in {-1, 0, 1} of the same dtype. Their mean over
    time converges to `images` as 1/sqrt(T). Draws come from `generator` (default: torch's global one) in
    time-major order, so coding T steps at once or in several calls gives the same spikes.

    Raises ValueError for values outside [-1, 1] or NaN, and for timesteps < 1. Source: SN section 4.1.
    """
    check_timesteps(timesteps)
    check_intensities(images)
    device = generator.device if generator is not None else images.device
    # one call a step: the draws then do not depend on how many steps a caller asks for at once
    uniforms = [torch.rand(images.shape, generator=generator, device=device) for _ in range(timesteps)]
    return spikes_from_uniforms(images, torch.stack(uniforms).to(images.device))


def spikes_from_uniforms(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The rule of `poisson` for given draws: images [B, ...], uniforms [T, B, ...] in [0, 1) -> [T, B, ...]."""
    return (uniforms < images.abs()) * images.sign()


def constant(images: torch.Tensor, timesteps: int) -> torch.Tensor:
    """Direct ("constant current") coding: the image itself at every step, [B, ...] -> [T, B, ...] (MS section IV)."""
    check_timesteps(timesteps)
    check_finite(images)
    return images.unsqueeze(0).expand(timesteps, *images.shape)


def frames(images: torch.Tensor, timesteps: int) -> torch.Tensor:
    """Recordings whose frames lie one behind another along the channels: [B, T * C, ...] -> [T, B, C, ...].

    So a recording can be kept and handled like an image. Raises ValueError if the channels are no multiple of
    `timesteps`.
    """
    check_timesteps(timesteps)
    check_finite(images)
    channels = images.shape[1] if images.dim() > 1 else 0
    if not channels or channels % timesteps:
        raise ValueError(f"the recordings have {channels} channels; give a multiple of timesteps, which is {timesteps}")
    return images.unflatten(1, (timesteps, -1)).transpose(0, 1)


def check_timesteps(timesteps: int) -> None:
    """Raise ValueError unless `timesteps` is a whole number of at least 1."""
    if not isinstance(timesteps, Integral) or isinstance(timesteps, bool) or timesteps < 1:
        raise ValueError(f"timesteps is {timesteps!r}; it must be a whole number of at least 1")


def check_finite(images: torch.Tensor) -> None:
    """Raise unless `images` is a floating-point tensor without NaN or infinity."""
    if not torch.is_tensor(images) or not images.is_floating_point():
        given = f"a {images.dtype} tensor" if torch.is_tensor(images) else f"a {type(images).__name__}"
        raise TypeError(f"images is {given}; give a floating-point tensor [B, ...] (uint8 pixels: divide by 255)")
    if not torch.isfinite(images).all():
        bad = int((~torch.isfinite(images)).sum())
        raise ValueError(f"images holds {bad} NaN or infinite values; clean the images first")


def check_intensities(images: torch.Tensor) -> None:
    """Raise unless every value of `images` is a spike probability with a sign: in [-1, 1], not NaN."""
    check_finite(images)
    largest = float(images.abs().max()) if images.numel() else 0.0
    if largest > 1:
        raise ValueError(
            f"images reach |x| = {largest:.4g}; Poisson coding needs values in [-1, 1] because |x| is a firing "
            "probability: subtract the mean of pixels in [0, 1] and do not divide by their standard deviation, "
            "or use coding='constant'"
        )
