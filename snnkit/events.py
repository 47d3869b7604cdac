"""Event streams, gathered into frames, and the recorded data sets that Tonic reads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from snnkit.coding import check_timesteps
from snnkit.data import Split, root_of
from snnkit.sources import SPLITS, Source, Unread, check_memory, official_parts

COUNT = 8  # what an event adds to a recording's pixels, which end at 255
LOST = 0.05  # the share of events above that at which a warning is due


@dataclass(frozen=True)
class Events:
    """A stream of events, in the order of their times.

    Tensors `t` float64 [N] in seconds, `x` and `y` int64 [N] in pixels from the left and the top, `on` bool [N]:
    whether the pixel became brighter. `size` (height, width) of the sensor, `duration` of the recording in seconds.

    Raises ValueError for tensors of other types or lengths, and for events outside of sensor, recording or order.
    """

    t: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    on: torch.Tensor
    size: tuple[int, int]
    duration: float

    def __post_init__(self):
        types = {"t": torch.float64, "x": torch.int64, "y": torch.int64, "on": torch.bool}
        given = {name: _kind(getattr(self, name)) for name in types}
        if given != {name: f"{dtype} ({len(self)},)" for name, dtype in types.items()}:
            wanted = ", ".join(f"{name} {dtype}" for name, dtype in types.items())
            raise ValueError(f"events are {given}; give tensors of one length, {wanted}")
        _check_size(self.size)
        if not self.duration > 0:
            raise ValueError(f"duration is {self.duration}; it must be above 0")
        for values, last in ((self.x, self.size[1] - 1), (self.y, self.size[0] - 1)):
            if len(self) and (values.min() < 0 or values.max() > last):
                raise ValueError(f"events lie outside of the sensor of {self.size[0]} x {self.size[1]} pixels")
        if len(self) and not (self.t.min() >= 0 and self.t.max() <= self.duration and (self.t.diff() >= 0).all()):
            raise ValueError(f"the times of events do not rise from 0 to {self.duration:g} s")

    @classmethod
    def from_array(cls, events: np.ndarray, size: tuple[int, int]) -> Events:
        """Events in an array with the fields t (microseconds), x, y and p (above 0: brighter), as Tonic reads them.

        They are sorted by time, which begins with the first and ends with the last. Raises ValueError for an array
        without events.
        """
        if not len(events):
            raise ValueError("the recording holds no event")
        order = np.argsort(events["t"], kind="stable")
        t, x, y, p = (torch.from_numpy(events[field][order].astype(np.int64)) for field in ("t", "x", "y", "p"))
        seconds = (t - t[0]).double() / 1e6
        return cls(seconds, x, y, p > 0, size, max(seconds[-1].item(), 1e-6))

    def __len__(self) -> int:
        return len(self.t)

    def frames(self, timesteps: int, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Counts [T, 2, H, W] in `timesteps` bins of equal length: channel 0 the events "off", 1 those "on".

        `size` (H, W) gathers the sensor's pixels into fewer (default: as they are). An event on the border of two bins
        belongs to the later, one at the end to the last. Raises ValueError for a size that the sensor does not have.
        """
        check_timesteps(timesteps)
        size = self.size if size is None else size
        _check_size(size, self.size)
        height, width = size
        y, x = self.y * height // self.size[0], self.x * width // self.size[1]
        borders = torch.arange(1, timesteps, dtype=torch.float64) * self.duration / timesteps
        bins = torch.bucketize(self.t, borders.to(self.t.device), right=True)
        place = ((bins * 2 + self.on.long()) * height + y) * width + x
        counts = torch.bincount(place, minlength=timesteps * 2 * height * width)
        return counts.view(timesteps, 2, height, width).float()


class Recorded(NamedTuple):
    """A data set of recordings: its name in Tonic, its title, the side of its sensor, how many recordings it has to
    train on and to test on (0: it has no test set)."""

    tonic: str
    title: str
    side: int
    training: int
    testing: int


DATASETS = {
    "cifar10-dvs": Recorded("CIFAR10DVS", "CIFAR10-DVS", 128, 10_000, 0),
    "nmnist": Recorded("NMNIST", "N-MNIST", 34, 60_000, 10_000),
}


def load(
    name: str,
    split: str,
    timesteps: int,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> Split:
    """Load recordings of an event camera through Tonic, `timesteps` frames each, for `coding="frames"`.

    `name`: "cifar10-dvs" (Li et al. 2017; 80, 10 and 10 % of its recordings are train, validation and test) or "nmnist"
    (Orchard et al. 2015). Pixels are uint8 [N, T * 2, side, side], see `as_pixels`. `root`: the folder that holds
    Tonic's (default: the first `cache/` of `snnkit.paths.data_roots()` that has it). `split`, `limit` and `seed` as for
    `snnkit.data.load`; `size` gathers the sensor's pixels into fewer. Nothing is fetched unless `download` is True.

    Raises ValueError for an unknown name, split or size and for recordings that cannot be read, FileNotFoundError for
    missing ones, ImportError without Tonic and aedat.
    """
    for what, value, known in (("event data set", name, DATASETS), ("split", split, SPLITS)):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; use one of {', '.join(known)}")
    check_timesteps(timesteps)
    recorded = DATASETS[name]
    side = recorded.side if size is None else size
    if not isinstance(side, int) or not 1 <= side <= recorded.side:
        raise ValueError(f"size is {size!r}; the sensor of {recorded.title} has {recorded.side} pixels a side")
    raw = _recordings(name, split, root_of([recorded.tonic], root), download)
    labels = torch.tensor(raw.targets, dtype=torch.int64)
    parts = {"train": 0.8, "validation": 0.1, "test": 0.1}
    if recorded.testing:
        parts = official_parts(split, len(labels))
    label = f"{recorded.title} ({timesteps} frames of {side} x {side})"
    source = Source(labels, tuple(raw.classes), label, partial(_read, raw, recorded, timesteps, side), parts)
    members = source.members(split)
    unread = Unread(source.read, members, torch.Size((len(members), 2 * timesteps, side, side)))
    mean = torch.zeros(unread.shape[1:])
    found = Split(unread, labels[members], mean, source.classes, members, name, label, split, timesteps)
    return replace(found, pixels=source.pixels(members)) if limit is None else found.subset(limit, seed)


def as_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Counts [..., T, 2, H, W] as the pixels uint8 [..., T * 2, H, W] of a recording: 8 an event.

    More than 31 events of one polarity in a pixel and frame count as so many; a warning says so if that cuts off more
    than a twentieth of all.
    """
    most = 255 // COUNT
    if (frames - most).clamp(min=0).sum() > LOST * frames.sum():
        warnings.warn(
            f"pixels with more than {most} events a frame are cut; take more frames, or more pixels", stacklevel=2
        )
    return (frames.clamp(max=most) * COUNT).to(torch.uint8).flatten(-4, -3)


def _kind(value) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if torch.is_tensor(value) else type(value).__name__


def _check_size(size, largest: tuple[int, int] | None = None) -> None:
    whole = (
        isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    )
    if not whole or (largest and (size[0] > largest[0] or size[1] > largest[1])):
        allowed = f"at most {largest[0]} and {largest[1]}" if largest else "above 0"
        raise ValueError(f"size is {size!r}; give height and width, two whole numbers {allowed}")


def _recordings(name: str, split: str, folder: Path, download: bool):
    """Tonic's data set, complete and sorted by file name; it fetches what is missing only if `download`."""
    try:
        import aedat  # noqa: F401  (Tonic would miss it at the first recording)
        from tonic import datasets
    except ImportError as error:
        raise ImportError("recordings are read by the packages tonic and aedat: pip install tonic aedat") from error
    recorded = DATASETS[name]
    place = folder / recorded.tonic
    wanted = recorded.testing if recorded.testing and split == "test" else recorded.training
    way_out = f"fetch or unpack it with: python -m snnkit fetch {name}"

    def refuse(self) -> None:
        raise FileNotFoundError(f"{recorded.title} is not in {place}, or not unpacked; {way_out}")

    kind = getattr(datasets, recorded.tonic)
    # Tonic names the folder after the class
    kind = kind if download else type(recorded.tonic, (kind,), {"download": refuse})
    try:
        raw = kind(str(folder), train=split != "test") if recorded.testing else kind(str(folder))
    except (KeyError, RuntimeError) as error:  # a folder that is no class, an archive that is not whole
        raise FileNotFoundError(f"{place} is not as Tonic left it ({error}); delete it and {way_out}") from error
    if len(raw.data) != wanted:
        raise FileNotFoundError(f"{place} holds {len(raw.data)} of {wanted} recordings; delete it and {way_out}")
    pairs = sorted(zip(raw.data, raw.targets, strict=True))
    raw.data, raw.targets = [file for file, _ in pairs], [target for _, target in pairs]
    return raw


def _read(raw, recorded: Recorded, timesteps: int, side: int, positions: torch.Tensor) -> torch.Tensor:
    """The recordings at `positions` as pixels [n, T * 2, side, side]."""
    check_memory(len(positions), 2 * timesteps, side)
    pixels = torch.empty(len(positions), 2 * timesteps, side, side, dtype=torch.uint8)
    for place, position in enumerate(positions.tolist()):
        try:
            events = Events.from_array(raw[position][0], (recorded.side, recorded.side))
        except Exception as error:  # whatever Tonic and aedat find wrong with the file
            raise ValueError(f"cannot read {raw.data[position]}: {error}; replace or remove the file") from error
        pixels[place] = as_pixels(events.frames(timesteps, (side, side)))
    return pixels
