"""Image data sets as tensors, mean-subtracted and ready for rate coding (SN section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from snnkit.paths import data_roots
from snnkit.sources import SPLITS, Source, Unread, choose, class_round_robin, source_of

FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar10-jpeg"),
    "cifar10-jpeg": ("cifar10-jpeg",),
    "cifar100": ("cifar-100-python",),
    "imagenet": ("imagenet",),
}
MEAN_IMAGES = 50_000  # the training mean is taken over at most this many images, class-balanced
MEAN_BATCH = 500  # of them, this many at a time


@dataclass(frozen=True)
class Split:
    """Images of one split.

    `pixels` uint8 [N, C, H, W], in memory or, if they are too many, left in their files and read batch by batch;
    `labels` int64 [N]; `mean` float32 [C, H, W], the training set's mean per pixel in [0, 1]; `indices` the images'
    positions in the full split; `label` the name to quote beside a number; `frames`: recordings, of so many frames, one
    behind another along the channels (`snnkit.coding.frames`), 0: still images.
    """

    pixels: torch.Tensor | Unread
    labels: torch.Tensor
    mean: torch.Tensor
    classes: tuple[str, ...]
    indices: torch.Tensor
    name: str
    label: str
    split: str
    frames: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index) -> torch.Tensor:
        """The images at `index` (slice, list or tensor): float32 [n, C, H, W] in [-1, 1], mean subtracted."""
        return self.centred(self.pixels[index])

    def centred(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels` uint8 [n, C, H, W] of such images as `batch` gives them."""
        return pixels.float() / 255 - self.mean

    @property
    def images(self) -> torch.Tensor:
        """All images, as `batch` gives them. Raises ValueError for more than `sources.MEMORY_LIMIT` bytes of pixels."""
        return self.batch(slice(None))

    def subset(self, limit: int, seed: int = 0) -> Split:
        """`limit` images, equally many of every class (to within one), drawn with `seed`.

        Raises ValueError if `limit` is not a whole number between 1 and the number of images.
        """
        order = _balanced(self.labels, limit, seed, f"{self.label} {self.split}")
        return replace(self, pixels=choose(self.pixels, order), labels=self.labels[order], indices=self.indices[order])

    def first(self, count: int) -> Split:
        """The first `count` images; of a split loaded with `limit`, that is a class-balanced subset again."""
        if not 1 <= count <= len(self):
            raise ValueError(f"count is {count}; the split has {len(self)} images")
        return replace(
            self, pixels=choose(self.pixels, slice(count)), labels=self.labels[:count], indices=self.indices[:count]
        )

    def describe(self) -> str:
        """One line for a record: which images these are."""
        return f"{self.label}, {self.split}, {len(self)} images"


def load(
    name: str,
    split: str,
    root: str | Path | None = None,
    limit: int | None = None,
    size: int = 32,
    *,
    seed: int = 0,
    mean: torch.Tensor | None = None,
    download: bool = False,
) -> Split:
    """Load one split of a data set, into memory if it fits (8 GiB of pixels; all of ImageNet at 224 pixels does not).

    `name`: "digits" (1,797 real handwritten digits, built in, one channel), "cifar10" (the original, else the JPEG
    copy if that is the one present), "cifar10-jpeg", "cifar100", "imagenet", or "imagefolder:PATH" for any tree of
    class folders, with or without `train` / `validation` / `test` folders above them, or a folder of images alone,
    whose one class is `sources.UNLABELLED`. `split`: "train", "validation"
    (training images held out for choosing; never trained on) or "test". `root` is the folder of the data sets
    (default: the first `cache/` of `snnkit.paths.data_roots()` that has it). `limit` keeps a class-balanced subset
    drawn with `seed`.
    `size` is the side of the images in pixels. `mean` is the training mean to subtract (from a checkpoint); None
    computes it. Nothing is fetched unless `download` is True (CIFAR only).

    Raises ValueError for an unknown name or split, FileNotFoundError with the way out for missing data.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size is {size!r}; it must be a whole number of pixels, at least 1")
    root = root_of(FOLDERS.get(name, ()), root)
    source = source_of(name, split, root, size, download)
    chosen = source.members(split)
    if limit is not None:
        chosen = chosen[_balanced(source.labels[chosen], limit, seed, f"{source.label} {split}")]
    if mean is None:
        training = source if "train" in source.parts else source_of(name, "train", root, size, download)
        members = training.members("train")
        if len(members) > MEAN_IMAGES:
            members = members[_balanced(training.labels[members], MEAN_IMAGES, 0, "")]
        mean = _mean(training, members)
    pixels = source.pixels(chosen)
    if mean.shape != pixels.shape[1:]:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)}; the images of {name} at size {size} are {tuple(pixels.shape[1:])}"
        )
    return Split(pixels, source.labels[chosen], mean, source.classes, chosen, name, source.label, split)


def count(name: str, split: str, root: str | Path | None = None) -> int:
    """How many images `load` would give without a limit; no image is read."""
    return len(source_of(name, split, root_of(FOLDERS.get(name, ()), root), 32, False).members(split))


def root_of(folders: Sequence[str], root: str | Path | None) -> Path:
    """The folder of the data sets: as given, else the first `cache/` with one of `folders` in it, else the first."""
    roots = [Path(root).expanduser()] if root is not None else [folder / "cache" for folder in data_roots()]
    return next((r for r in roots if any((r / folder).is_dir() for folder in folders)), roots[0])


def _mean(source: Source, members: torch.Tensor) -> torch.Tensor:
    """The mean image in [0, 1] of `members`, read a few at a time."""
    # a float32 sum of 500 bytes is exact
    total = sum(source.read(part).sum(0, dtype=torch.float32).double() for part in members.split(MEAN_BATCH))
    return (total / (255 * len(members))).float()


def _balanced(labels: torch.Tensor, limit: int, seed: int, what: str) -> torch.Tensor:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= len(labels):
        raise ValueError(f"limit is {limit!r}; {what} has {len(labels)} images, ask for 1 to {len(labels)}")
    return class_round_robin(labels, seed)[:limit]
