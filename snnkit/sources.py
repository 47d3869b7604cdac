"""Where images come from: lists of labelled images that are read only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from torch.nn import functional as F

NAMES = ("digits", "cifar10", "cifar10-jpeg", "cifar100", "imagenet", "imagefolder:PATH")
UNLABELLED = "unlabelled"  # the one class of a folder that holds images and no class folders
SPLITS = ("train", "validation", "test")
HELD_OUT = 5000  # training images kept aside for choosing, at most a tenth of the training set
SPLIT_SEED = 2019  # fixes which images are held out, for everybody and for ever
MEMORY_LIMIT = 8 * 2**30  # bytes of pixels that are read at once


@dataclass(frozen=True)
class Source:
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
        order = class_round_robin(self.labels, SPLIT_SEED, in_proportion=True)
        pieces = dict(zip(self.parts, order.split(counts), strict=True))
        if not len(pieces[split]):
            raise ValueError(f"{self.label} has only {len(self.labels)} images, none is left for {split}; add images")
        return pieces[split].sort().values

    def pixels(self, positions: torch.Tensor) -> torch.Tensor | Unread:
        """The images at `positions`: in memory if they fit, else left in their files."""
        return _held(self.read, positions)


@dataclass(frozen=True)
class Unread:
    """Images [N, C, H, W] that do not fit into memory: indexing reads those asked for from their files."""

    read: Callable[[torch.Tensor], torch.Tensor]
    positions: torch.Tensor
    shape: torch.Size

    def __getitem__(self, index) -> torch.Tensor:
        return self.read(self.positions[index])


def choose(pixels: torch.Tensor | Unread, index) -> torch.Tensor | Unread:
    """The images of `pixels` at `index`, in memory if they fit."""
    return pixels[index] if isinstance(pixels, torch.Tensor) else _held(pixels.read, pixels.positions[index])


def check_memory(count: int, channels: int, size: int) -> None:
    """Raise ValueError if so many images [channels, size, size] are too many to be read at once."""
    if (wanted := count * channels * size * size) > MEMORY_LIMIT:
        raise ValueError(
            f"{count} images of size {size} take {wanted / 2**30:.0f} GiB at once; take at most "
            f"{MEMORY_LIMIT // (channels * size * size)} (limit=)"
        )


def _held(read, positions: torch.Tensor) -> torch.Tensor | Unread:
    one = read(positions[:1])
    if one.numel() * len(positions) <= MEMORY_LIMIT:
        return read(positions)
    return Unread(read, positions, torch.Size((len(positions), *one.shape[1:])))


def source_of(name: str, split: str, root: Path, size: int, download: bool) -> Source:
    """The source that holds `split` of the data set `name`; see `snnkit.data.load`."""
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


def _digits(size: int) -> Source:
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16  # [N, 1, 8, 8]
    pixels = small if size == 8 else F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    pixels = (pixels * 255).round().to(torch.uint8)
    names = tuple(str(digit) for digit in raw.target_names)
    labels = torch.tensor(raw.target, dtype=torch.int64)
    parts = {"train": 0.7, "validation": 0.1, "test": 0.2}
    return Source(labels, names, "handwritten digits (scikit-learn)", lambda i: pixels[i], parts)


def _cifar(name: str, root: Path, split: str, size: int, download: bool) -> Source:
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

    return Source(labels, tuple(raw.classes), title, read, official_parts(split, len(labels)))


def _imagenet(root: Path, split: str, size: int) -> Source:
    try:
        raw = torchvision.datasets.ImageNet(str(root / "imagenet"), split="val" if split == "test" else "train")
    except (RuntimeError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"ImageNet is not in {root / 'imagenet'}; it cannot be fetched freely: request the ILSVRC2012 archives at "
            "image-net.org and put them there, torchvision unpacks them"
        ) from error
    names = tuple(words[0] for words in raw.classes)
    return _files(raw.samples, names, "ImageNet (ILSVRC2012)", size, official_parts(split, len(raw.samples)))


def _image_tree(path: Path, split: str, size: int, label: str) -> Source:
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
        parts = {split: 1.0} if "validation" in found else official_parts(split, len(raw.samples))
    return _files(raw.samples, tuple(raw.classes), label, size, parts)


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders that hold a split of their own. `val` is the test set of a tree that has no `test` (as ImageNet)."""
    here = {folder.name for folder in path.iterdir() if folder.is_dir()}
    test = "test" if "test" in here else "val"
    validation = [name for name in ("val", "valid", "validation") if name != test]
    names = {"train": ["train"], "validation": validation, "test": [test]}
    return {part: path / name for part, options in names.items() for name in options if name in here}


def official_parts(split: str, count: int) -> dict[str, float]:
    """The official test set is whole; the official training set gives the validation images away."""
    if split == "test":
        return {"test": 1.0}
    held_out = min(HELD_OUT, count // 10) / count
    return {"train": 1 - held_out, "validation": held_out}


def _files(samples: Sequence[tuple[str, int]], classes, label: str, size: int, parts) -> Source:
    def decode(path: str) -> torch.Tensor:
        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        except OSError as error:
            raise ValueError(f"cannot read the image {path}: {error}; replace or remove the file") from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)

    def read(positions: torch.Tensor) -> torch.Tensor:
        check_memory(len(positions), 3, size)
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(decode, (samples[i][0] for i in positions.tolist()))))

    labels = torch.tensor([target for _, target in samples], dtype=torch.int64)
    return Source(labels, tuple(classes), label, read, parts)


def class_round_robin(labels: torch.Tensor, seed: int, in_proportion: bool = False) -> torch.Tensor:
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
