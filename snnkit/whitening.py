"""Whitening images with filters, so that a rule that learns correlations finds more than brightness.

In photographs neighbouring pixels and colours say nearly the same. A Hebbian rule follows the strongest correlation,
and all kernels come to look alike; whitened first, images leave it the rest to learn from (Falez et al. 2020, who
also put the filters in place of a matrix over whole images).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from snnkit.data import Split

IMAGES, PATCHES = 2_000, 100_000  # from which covariances are measured
MIDDLE = 0.5  # what an image's pixels / 255 have as their mean afterwards: values lie in [-1/2, 1/2]
SPREAD = 0.2  # standard deviation of whitened training images
AT_ONCE = 1000  # images


@dataclass(frozen=True)
class Whitening:
    """Filters [C, C, size, size] that whiten images of C channels, with the `floor` of the variances they divide by."""

    filters: torch.Tensor
    floor: float

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """`images` [N, C, H, W] -> whitened, of the same shape; beyond their edges they are mirrored."""
        return F.conv2d(F.pad(images, 4 * [self.filters.shape[-1] // 2], mode="reflect"), self.filters)

    def split(self, split: Split) -> Split:
        """The images of `split` whitened, as a split: in [-1/2, 1/2], eight bits each, those beyond cut off.

        All in memory. Raises ValueError for recordings, and for images of another number of channels.
        """
        _check(split, self.filters.shape[-1])
        if split.pixels.shape[1] != len(self.filters):
            raise ValueError(
                f"{split.label} has {split.pixels.shape[1]} channels; the filters read {len(self.filters)}"
            )
        places = torch.arange(len(split)).split(AT_ONCE)
        white = (self(split.batch(index)).clamp(-MIDDLE, MIDDLE) for index in places)
        pixels = torch.cat([((values + MIDDLE) * 255).round().to(torch.uint8) for values in white])
        label = f"{split.label} whitened ({self.filters.shape[-1]} x {self.filters.shape[-1]}, floor {self.floor:g})"
        return replace(split, pixels=pixels, mean=torch.full(split.mean.shape, MIDDLE), label=label)


def fit(split: Split, size: int = 9, floor: float = 1e-3, seed: int = 0) -> Whitening:
    """Filters of `size` x `size` pixels that whiten images like those of `split`.

    The middle rows of the ZCA matrix U (L + floor)^(-1/2) U' of patches with covariance U L U', scaled so that
    whitened training images have a standard deviation of 0.2. The smaller the `floor`, a variance, the more of the
    finest detail, and of its noise, is amplified. `seed` draws the patches.

    Raises ValueError for a size that is even or too large, a floor that is not finite and above 0, and for recordings.
    """
    _check(split, size)
    if not 0 < floor < math.inf:
        raise ValueError(f"floor is {floor}; it must be a finite number above 0, for instance 1e-3")
    images = split.first(min(len(split), IMAGES)).images
    channels, generator = images.shape[1], torch.Generator().manual_seed(seed)
    bounds = len(images), images.shape[2] - size + 1, images.shape[3] - size + 1
    image, top, left = (torch.randint(bound, (PATCHES, 1, 1), generator=generator) for bound in bounds)
    along = torch.arange(size)
    patches = images.movedim(1, -1)[image, top + along[:, None], left + along]  # [PATCHES, size, size, C]
    patches = patches.movedim(-1, 1).flatten(1).double()
    variances, directions = torch.linalg.eigh(patches.T.cov())
    zca = directions * (variances + floor).rsqrt() @ directions.T
    middle = torch.arange(channels) * size**2 + size**2 // 2
    found = Whitening(zca[middle].view(channels, channels, size, size).float(), floor)
    return replace(found, filters=found.filters * (SPREAD / found(images).std()))


def _check(split: Split, size: int) -> None:
    if split.frames:
        raise ValueError(f"{split.label} holds recordings; whitening is for images")
    least = min(split.pixels.shape[2:])
    if not (isinstance(size, int) and size % 2 == 1 and 1 < size <= least):
        raise ValueError(f"size is {size}; give an odd number of pixels from 3 to {least}, the images' own")
