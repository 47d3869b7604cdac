"""Image data sets as tensors, mean-subtracted and ready for rate coding (SN section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from torch.nn import functional as F

from snnkit.paths import data_roots

NAMES = ("digits", "cifar10", "cifar10-jpeg", "cifar100", "imagenet", "imagefolder:PATH")
FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar10-jpeg"),
    "cifar10-jpeg": ("cifar10-jpeg",),
    "cifar100": ("cifar-100-python",),
    "imagenet": ("imagenet",),
}
UNLABELLED = "unlabelled"  # the one class of a folder that holds images and no class folders
SPLITS = ("train", "validation", "test")
HELD_OUT = 5000  # training images kept aside for choosing, at most a tenth of the training set
SPLIT_SEED = 2019  # fixes which images are held out, for everybody and for ever
MEAN_IMAGES = 50_000  # the training mean is taken over at most this many images, class-balanced
MEAN_BATCH = 500  # of them, this many at a time
MEMORY_LIMIT = 8 * 2**30  # bytes of pixels a split may take


@dataclass(frozen=True)
class Split:
    """Images of one split, held in memory.

    `pixels` uint8 [N, C, H, W]; `labels` int64 [N]; `mean` float32 [C, H, W], the training set's mean per pixel in
    [0, 1]; `indices` the images' positions in the full split; `label` the name to quote beside a number.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor
    classes: tuple[str, ...]
    indices: torch.Tensor
    name: str
    label: str
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index) -> torch.Tensor:
        """The images at `index` (slice, list or tensor): float32 [n, C, H, W] in [-1, 1], mean subtracted."""
        return self.pixels[index].float() / 255 - self.mean

    @property
    def images(self) -> torch.Tensor:
        """All images, as `batch` gives them."""
        return self.batch(slice(None))

    def subset(self, limit: int, seed: int = 0) -> Split:
        """`limit` images, equally many of every class (to within one), drawn with `seed`.

        Raises ValueError if `limit` is not a whole number between 1 and the number of images.
        """
        order = _balanced(self.labels, limit, seed, f"{self.label} {self.split}")
        return replace(self, pixels=self.pixels[order], labels=self.labels[order], indices=self.indices[order])

    def first(self, count: int) -> Split:
        """The first `count` images; of a split loaded with `limit`, that is a class-balanced subset again."""
        if not 1 <= count <= len(self):
            raise ValueError(f"count is {count}; the split has {len(self)} images")
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count], indices=self.indices[:count])

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
    """Load one split of a data set into memory.

    `name`: "digits" (1,797 real handwritten digits, built in, one channel), "cifar10" (the original, else the JPEG
    copy if that is the one present), "cifar10-jpeg", "cifar100", "imagenet", or "imagefolder:PATH" for any tree of
    class folders, with or without `train` / `validation` / `test` folders above them, or a folder of images alone,
    whose one class is `UNLABELLED`. `split`: "train", "validation"
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
    root = _root(name, root)
    source = _source(name, split, root, size, download)
    chosen = source.members(split)
    if limit is not None:
        chosen = chosen[_balanced(source.labels[chosen], limit, seed, f"{source.label} {split}")]
    if mean is None:
        training = source if "train" in source.parts else _source(name, "train", root, size, download)
        members = training.members("train")
        if len(members) > MEAN_IMAGES:
            members = members[_balanced(training.labels[members], MEAN_IMAGES, 0, "")]
        mean = _mean(training, members)
    pixels = source.read(chosen)
    if mean.shape != pixels.shape[1:]:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)}; the images of {name} at size {size} are {tuple(pixels.shape[1:])}"
        )
    return Split(pixels, source.labels[chosen], mean, source.classes, chosen, name, source.label, split)


def count(name: str, split: str, root: str | Path | None = None) -> int:
    """How many images `load` would give without a limit; no image is read."""
    return len(_source(name, split, _root(name, root), 32, False).members(split))


def _root(name: str, root: str | Path | None) -> Path:
    """The folder of the data sets: as given, else the first that has this one, else the first."""
    roots = [Path(root).expanduser()] if root is not None else [folder / "cache" for folder in data_roots()]
    return next((r for r in roots if any((r / folder).is_dir() for folder in FOLDERS.get(name, ()))), roots[0])


def _mean(source: _Source, members: torch.Tensor) -> torch.Tensor:
    """The mean image in [0, 1] of `members`, read a few at a time."""
    # a float32 sum of 500 bytes is exact
    total = sum(source.read(part).sum(0, dtype=torch.float32).double() for part in members.split(MEAN_BATCH))
    return (total / (255 * len(members))).float()


@dataclass(frozen=True)
class _Source:
    """A labelled list of images that are read only when asked for."""

    labels: torch.Tensor  # int64 [N]
    classes: tuple[str, ...]
    label: str
    read: Callable[[torch.Tensor], torch.Tensor]  # positions [n] -> uint8 [n, C, H, W]
    parts: dict[str, float]  # split -> its share of the images, in this order

    def members(self, split: str) -> torch.Tensor:
        """Positions of the images of `split`, sorted: fixed, every class in proportion, disjoint between the splits."""
        shares = list(self.parts.values())
        counts = [round(len(self.labels) * share) for share in shares[:-1]]
        counts.append(len(self.labels) - sum(counts))
        order = _class_round_robin(self.labels, SPLIT_SEED, in_proportion=True)
        pieces = dict(zip(self.parts, order.split(counts), strict=True))
        if not len(pieces[split]):
            raise ValueError(f"{self.label} has only {len(self.labels)} images, none is left for {split}; add images")
        return pieces[split].sort().values


def _source(name: str, split: str, root: Path, size: int, download: bool) -> _Source:
    if name == "digits":
        return _digits(size)
    if name in ("cifar10", "cifar100", "cifar10-jpeg"):
        return _cifar(name, root, split, size, download)
    if name == "imagenet":
        return _imagenet(root, split, size)
    if name.startswith("imagefolder:"):
        path = Path(name.removeprefix("imagefolder:")).expanduser()
        return _image_tree(path, split, size, path.name)
    raise ValueError(f"unknown data set {name!r}; the data sets are {', '.join(NAMES)}")


def _digits(size: int) -> _Source:
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16  # [N, 1, 8, 8]
    pixels = small if size == 8 else F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    pixels = (pixels * 255).round().to(torch.uint8)
    names = tuple(str(digit) for digit in raw.target_names)
    labels = torch.tensor(raw.target, dtype=torch.int64)
    parts = {"train": 0.7, "validation": 0.1, "test": 0.2}
    return _Source(labels, names, "handwritten digits (scikit-learn)", lambda i: pixels[i], parts)


def _cifar(name: str, root: Path, split: str, size: int, download: bool) -> _Source:
    jpeg = root / "cifar10-jpeg"
    original = root / ("cifar-100-python" if name == "cifar100" else "cifar-10-batches-py")
    if name == "cifar10-jpeg" or (name == "cifar10" and not original.is_dir() and not download and jpeg.is_dir()):
        return _image_tree(jpeg, split, size, "CIFAR-10 (JPEG)")
    dataset = torchvision.datasets.CIFAR100 if name == "cifar100" else torchvision.datasets.CIFAR10
    title = "CIFAR-100" if name == "cifar100" else "CIFAR-10"
    try:
        raw = dataset(str(root), train=split != "test", download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{title} is not in {root}; fetch it (170 MB) with: python -m snnkit fetch {name}"
        ) from error
    pixels = torch.from_numpy(raw.data).permute(0, 3, 1, 2)
    labels = torch.tensor(raw.targets, dtype=torch.int64)

    def read(positions):
        chosen = pixels[positions]
        if size == chosen.shape[-1]:
            return chosen.contiguous()
        return torchvision.transforms.v2.functional.resize(chosen, [size, size], antialias=True)

    return _Source(labels, tuple(raw.classes), title, read, _parts(split, len(labels)))


def _imagenet(root: Path, split: str, size: int) -> _Source:
    try:
        raw = torchvision.datasets.ImageNet(str(root / "imagenet"), split="val" if split == "test" else "train")
    except (RuntimeError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"ImageNet is not in {root / 'imagenet'}; it cannot be fetched freely: request the ILSVRC2012 archives at "
            "image-net.org and put them there, torchvision unpacks them"
        ) from error
    names = tuple(words[0] for words in raw.classes)
    return _files(raw.samples, names, "ImageNet (ILSVRC2012)", size, _parts(split, len(raw.samples)))


def _image_tree(path: Path, split: str, size: int, label: str) -> _Source:
    """Class folders of images, below `train`, `validation` and `test` folders if there are such; or images alone."""
    if not path.is_dir():
        raise FileNotFoundError(f"no image folder at {path}; give the path of a folder that holds one folder per class")
    found = _split_folders(path)
    flat = sorted(file for file in path.iterdir() if file.suffix.lower() in torchvision.datasets.folder.IMG_EXTENSIONS)
    if flat and not any(folder.is_dir() for folder in path.iterdir()):
        parts = {"train": 0.8, "validation": 0.1, "test": 0.1}
        return _files([(str(file), 0) for file in flat], (UNLABELLED,), label, size, parts)
    if found and "train" not in found:
        raise FileNotFoundError(f"{path} has a {next(iter(found.values())).name} folder but no train folder; add one")
    if found and split == "test" and "test" not in found:
        raise FileNotFoundError(f"{path} has a train folder but no test or val folder; add one")
    top = found.get(split, found["train"]) if found else path
    try:
        raw = torchvision.datasets.ImageFolder(str(top))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no images to load below {top}; every class needs a folder of its own with at least one image "
            f"({' '.join(sorted(torchvision.datasets.folder.IMG_EXTENSIONS))}): {str(error).splitlines()[0]}"
        ) from error
    if found and raw.classes != (wanted := sorted(f.name for f in found["train"].iterdir() if f.is_dir())):
        raise ValueError(
            f"the class folders of {top} differ from those of {found['train']} "
            f"({', '.join(sorted(set(raw.classes) ^ set(wanted)))}); both need the same"
        )
    if not found:
        parts = {"train": 0.8, "validation": 0.1, "test": 0.1}
    else:
        parts = {split: 1.0} if "validation" in found else _parts(split, len(raw.samples))
    return _files(raw.samples, tuple(raw.classes), label, size, parts)


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders that hold a split of their own. `val` is the test set of a tree that has no `test` (as ImageNet)."""
    here = {folder.name for folder in path.iterdir() if folder.is_dir()}
    test = "test" if "test" in here else "val"
    validation = [name for name in ("val", "valid", "validation") if name != test]
    names = {"train": ["train"], "validation": validation, "test": [test]}
    return {part: path / name for part, options in names.items() for name in options if name in here}


def _parts(split: str, count: int) -> dict[str, float]:
    """The official test set is whole; the official training set gives the validation images away."""
    if split == "test":
        return {"test": 1.0}
    held_out = min(HELD_OUT, count // 10) / count
    return {"train": 1 - held_out, "validation": held_out}


def _files(samples: Sequence[tuple[str, int]], classes, label: str, size: int, parts) -> _Source:
    def decode(path: str) -> torch.Tensor:
        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        except OSError as error:
            raise ValueError(f"cannot read the image {path}: {error}; replace or remove the file") from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)

    def read(positions: torch.Tensor) -> torch.Tensor:
        if (wanted := len(positions) * 3 * size * size) > MEMORY_LIMIT:
            raise ValueError(
                f"{len(positions)} images of size {size} take {wanted / 2**30:.0f} GiB; give limit=, "
                f"at most {MEMORY_LIMIT // (3 * size * size)}"
            )
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(decode, (samples[i][0] for i in positions.tolist()))))

    labels = torch.tensor([target for _, target in samples], dtype=torch.int64)
    return _Source(labels, tuple(classes), label, read, parts)


def _class_round_robin(labels: torch.Tensor, seed: int, in_proportion: bool = False) -> torch.Tensor:
    """A seeded order in which every prefix holds equally many images of every class, to within one.

    With `in_proportion`, every class in proportion to its size instead; for classes of one size that is the same.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    rank = torch.empty(len(labels), dtype=torch.float64)  # place of an image among those of its class
    for value in labels.unique():
        members = shuffled[labels[shuffled] == value]
        places = torch.arange(len(members), dtype=torch.float64)
        rank[members] = (places + 0.5) / len(members) if in_proportion else places
    return shuffled[rank[shuffled].argsort(stable=True)]


def _balanced(labels: torch.Tensor, limit: int, seed: int, what: str) -> torch.Tensor:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= len(labels):
        raise ValueError(f"limit is {limit!r}; {what} has {len(labels)} images, ask for 1 to {len(labels)}")
    return _class_round_robin(labels, seed)[:limit]
