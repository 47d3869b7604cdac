"""Event streams, gathered into frames, and the recorded data sets that Tonic reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from snnkit.coding import check_timesteps
from snnkit.data import Split
from snnkit.paths import data_roots
from snnkit.sources import SPLITS, Source, Unread, official_parts

COUNT = 8  # what an event adds to a recording's pixels, which end at 255


@dataclass(frozen=True)
class Events:
    """A stream of events, in the order of their times.

    `t` float64 [N] in seconds, `x` and `y` int64 [N] in pixels from the left and the top, `on` bool [N]: whether the
    pixel became brighter. `size` (height, width) of the sensor, `duration` of the recording in seconds.

    Raises ValueError for lists of other types or lengths, and for events outside of sensor, recording or order.
    """

    t: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    on: torch.Tensor
    size: tuple[int, int]
    duration: float

    def __post_init__(self):
        types = {"t": torch.float64, "x": torch.int64, "y": torch.int64, "on": torch.bool}
        given = {name: f"{getattr(self, name).dtype} {tuple(getattr(self, name).shape)}" for name in types}
        if given != {name: f"{dtype} ({len(self)},)" for name, dtype in types.items()}:
            wanted = ", ".join(f"{name} {dtype}" for name, dtype in types.items())
            raise ValueError(f"events are {given}; give lists of one length, {wanted}")
        if not self.duration > 0:
            raise ValueError(f"duration is {self.duration}; it must be above 0")
        for values, last in ((self.x, self.size[1] - 1), (self.y, self.size[0] - 1)):
            if len(self) and (values.min() < 0 or values.max() > last):
                raise ValueError(f"events lie outside of the sensor of {self.size[0]} x {self.size[1]} pixels")
        if len(self) and not (self.t.min() >= 0 and self.t.max() <= self.duration and (self.t.diff() >= 0).all()):
            raise ValueError(f"the times of events do not rise from 0 to {self.duration:g} s")

    @classmethod
    def from_array(cls, events: np.ndarray, size: tuple[int, int]) -> Events:
        """Events in an array with the fields t (microseconds), x, y and p, as Tonic reads them, sorted by time.

        Time begins with the first event and ends with the last. Raises ValueError for an array without events.
        """
        if not len(events):
            raise ValueError("the recording holds no event")
        order = np.argsort(events["t"], kind="stable")
        t, x, y, on = (torch.from_numpy(events[field][order].astype(np.int64)) for field in ("t", "x", "y", "p"))
        seconds = (t - t[0]).double() / 1e6
        return cls(seconds, x, y, on.bool(), size, max(seconds[-1].item(), 1e-6))

    def __len__(self) -> int:
        return len(self.t)

    def frames(self, timesteps: int, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Counts [T, 2, H, W] in `timesteps` bins of equal length: channel 0 the events "off", 1 those "on".

        `size` (H, W) gathers the sensor's pixels into fewer (default: as they are).
        """
        check_timesteps(timesteps)
        height, width = size or self.size
        y, x = self.y * height // self.size[0], self.x * width // self.size[1]
        bins = (self.t / self.duration * timesteps).long().clamp(max=timesteps - 1)
        place = ((bins * 2 + self.on.long()) * height + y) * width + x
        counts = torch.bincount(place, minlength=timesteps * 2 * height * width)
        return counts.view(timesteps, 2, height, width).float()


class Recorded(NamedTuple):
    """A data set of recordings: its name in Tonic, its title, the side of its sensor, whether it has a test set."""

    tonic: str
    title: str
    side: int
    has_test: bool


DATASETS = {
    "cifar10-dvs": Recorded("CIFAR10DVS", "CIFAR10-DVS", 128, False),
    "nmnist": Recorded("NMNIST", "N-MNIST", 34, True),
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
    (Orchard et al. 2015). Pixels are uint8 [N, T * 2, side, side], 8 an event and 255 at most. `root`: the folder that
    holds Tonic's (default: the first `cache/` of `snnkit.paths.data_roots()` that has it). `split`, `limit` and `seed`
    as for `snnkit.data.load`; `size` gathers the sensor's pixels into fewer. Nothing is fetched unless `download` is
    True.

    Raises ValueError for an unknown name, split or size, FileNotFoundError for missing recordings, ImportError without
    Tonic.
    """
    for what, value, known in (("event data set", name, DATASETS), ("split", split, SPLITS)):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; use one of {', '.join(known)}")
    check_timesteps(timesteps)
    recorded = DATASETS[name]
    side = recorded.side if size is None else size
    if not isinstance(side, int) or not 1 <= side <= recorded.side:
        raise ValueError(f"size is {size!r}; the sensor of {recorded.title} has {recorded.side} pixels a side")
    roots = [Path(root).expanduser()] if root is not None else [folder / "cache" for folder in data_roots()]
    folder = next((found for found in roots if (found / recorded.tonic).is_dir()), roots[0])
    raw = _recordings(recorded, split, folder, download)
    labels = torch.tensor(raw.targets, dtype=torch.int64)
    parts = {"train": 0.8, "validation": 0.1, "test": 0.1}
    if recorded.has_test:
        parts = official_parts(split, len(labels))
    source = Source(labels, tuple(raw.classes), recorded.title, partial(_read, raw, recorded, timesteps, side), parts)
    members = source.members(split)
    unread = Unread(source.read, members, torch.Size((len(members), 2 * timesteps, side, side)))
    mean = torch.zeros(unread.shape[1:])
    found = Split(unread, labels[members], mean, source.classes, members, name, source.label, split)
    return replace(found, pixels=source.pixels(members)) if limit is None else found.subset(limit, seed)


def as_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Counts [..., T, 2, H, W] as the pixels uint8 [..., T * 2, H, W] of a recording."""
    return (frames * COUNT).clamp(max=255).to(torch.uint8).flatten(-4, -3)


def _recordings(recorded: Recorded, split: str, folder: Path, download: bool):
    """Tonic's data set, which fetches what is missing only if `download`."""
    try:
        from tonic import datasets
    except ImportError as error:
        raise ImportError("recordings are read by the packages tonic and aedat: pip install tonic aedat") from error

    def refuse(self) -> None:
        raise FileNotFoundError(
            f"{recorded.title} is not in {folder / recorded.tonic}; put its archive there, or give download=True"
        )

    kind = getattr(datasets, recorded.tonic)
    # Tonic names the folder after the class
    kind = kind if download else type(recorded.tonic, (kind,), {"download": refuse})
    return kind(str(folder), train=split != "test") if recorded.has_test else kind(str(folder))


def _read(raw, recorded: Recorded, timesteps: int, side: int, positions: torch.Tensor) -> torch.Tensor:
    """The recordings at `positions` as pixels [n, T * 2, side, side]."""
    found = []
    for position in positions.tolist():
        try:
            events = Events.from_array(raw[position][0], (recorded.side, recorded.side))
        except ValueError as error:
            raise ValueError(f"cannot read {raw.data[position]}: {error}; replace or remove the file") from error
        found.append(as_pixels(events.frames(timesteps, (side, side))))
    return torch.stack(found)
