"""What training does to images before the net sees them: other images of the same things."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from snnkit.data import Split
from snnkit.recipe import Recipe


def augmented(split: Split, index: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """The images of `split` at `index`, changed as the `recipe` says: float32 [n, C, H, W], mean subtracted.

    Shifts and mirrors are drawn from `generator`, what torchvision draws from torch's global one.
    """
    pixels = split.pixels[index]
    if recipe.transform:
        chain = _transform(recipe.transform, pixels.shape[-1])
        pixels = torch.stack([chain(image) for image in pixels])
    images = split.centred(pixels)
    if recipe.augment:
        images = shift(images, 4, generator)
    if recipe.flip:
        mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    return images


def shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Move each image [B, C, H, W] by up to `pixels` in both directions; what comes in is 0, the training mean."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    offsets = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height))[:, None, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, None, :]
    image = torch.arange(count)[:, None, None, None]
    return padded[image, torch.arange(images.shape[1])[None, :, None, None], rows, columns]


def _transform(name: str, size: int) -> v2.Transform:
    """What a recipe's `transform` stands for, of one image uint8 [C, size, size]."""
    if name == "rotation":
        return v2.RandomRotation(15)
    crop = v2.RandomResizedCrop(size, antialias=True)
    return crop if name == "resized-crop" else v2.Compose([crop, v2.AutoAugment()])
