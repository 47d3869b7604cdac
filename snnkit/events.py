"""Event streams: a simulated event camera over images, and events gathered into frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # of red, green and blue (ITU-R BT.601)
CORNERS = ((0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (1.0, -1.0), (0.0, 0.0))  # of the path, in units of `reach`: x, y


@dataclass(frozen=True)
class Events:
    """A stream of events, in the order of their times.

    `t` float64 [N] in seconds, `x` and `y` int64 [N] in pixels from the left and the top, `on` bool [N]: whether the
    pixel became brighter. `size` (height, width) of the sensor, `duration` of the recording in seconds.
    """

    t: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    on: torch.Tensor
    size: tuple[int, int]
    duration: float

    def __post_init__(self):
        shapes = {name: tuple(getattr(self, name).shape) for name in ("t", "x", "y", "on")}
        if len(set(shapes.values())) > 1 or self.t.dim() != 1:
            raise ValueError(f"t, x, y and on must be lists of one length; their shapes are {shapes}")
        height, width = self.size
        limits = ((self.x, width - 1), (self.y, height - 1))
        if len(self) and any(places.min() < 0 or places.max() > last for places, last in limits):
            raise ValueError(f"events lie outside of the sensor of {height} x {width} pixels")
        if len(self) and (self.t.min() < 0 or self.t.max() > self.duration):
            raise ValueError(f"events lie outside of the recording of {self.duration:g} s")

    def __len__(self) -> int:
        return len(self.t)

    def frames(self, timesteps: int) -> torch.Tensor:
        """Counts [T, 2, H, W] in `timesteps` bins of equal length: channel 0 the events "off", 1 those "on"."""
        if timesteps < 1:
            raise ValueError(f"timesteps is {timesteps}; it must be at least 1")
        height, width = self.size
        bins = (self.t / self.duration * timesteps).long().clamp(max=timesteps - 1)
        place = ((bins * 2 + self.on.long()) * height + self.y) * width + self.x
        counts = torch.bincount(place, minlength=timesteps * 2 * height * width)
        return counts.view(timesteps, 2, height, width).float()


@dataclass(frozen=True)
class Camera:
    """A simulated event camera in front of still images that move along a closed path.

    The path is that of the CIFAR10-DVS recordings (Li et al. 2017): a rhombus of four diagonal legs, out by `reach`
    pixels a leg in x and in y, and back, `loops` times, each in `period` seconds, looked at `looks` times a loop.
    A pixel compares log(intensity + `floor`), intensities in [0, 1], with what it remembers; for every `threshold` (in
    units of the natural logarithm) of difference it sends an event and moves its memory by that much. For `refractory`
    seconds after an event it sends no other, and its memory follows what it sees. `noise` is the rate of events without
    a cause, per pixel and second, half of them "on". What enters the image at its edges is its nearest pixel.

    Raises ValueError for values out of range.
    """

    threshold: float = 0.2
    reach: float = 2.0
    loops: int = 1
    period: float = 0.2
    looks: int = 32
    refractory: float = 0.0
    noise: float = 0.0
    floor: float = 0.02

    def __post_init__(self):
        for name in ("threshold", "period", "floor", "loops", "looks"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("reach", "refractory", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or above")
        if self.looks % 4:
            raise ValueError(f"looks is {self.looks}; it must be a multiple of 4, for the path has four legs")

    @property
    def duration(self) -> float:
        """Of a recording, in seconds."""
        return self.loops * self.period

    def path(self) -> torch.Tensor:
        """Where the image has moved to at each look, [1 + loops * looks, 2]: x to the right, y down, in pixels."""
        corners, leg = torch.tensor(CORNERS), self.looks // 4
        steps = torch.arange(self.loops * self.looks + 1)
        place = (steps // leg) % 4
        along = (steps % leg / leg)[:, None]
        return self.reach * (corners[place] * (1 - along) + corners[place + 1] * along)

    def record(self, image: torch.Tensor, generator: torch.Generator | None = None) -> Events:
        """The events of one image [C, H, W], values in [0, 1]; C is 1, or 3 for red, green and blue."""
        columns: dict[str, list[torch.Tensor]] = {"t": [], "x": [], "y": [], "on": []}
        for time, counts in self._watch(image.unsqueeze(0), generator):
            on, y, x = counts[0].nonzero().T
            times = counts[0, on, y, x].long()
            for name, values in (("x", x), ("y", y), ("on", on.bool())):
                columns[name].append(values.repeat_interleave(times))
            columns["t"].append(torch.full((int(times.sum()),), time, dtype=torch.float64))
        found = {name: torch.cat(parts) for name, parts in columns.items()}
        return Events(**found, size=tuple(image.shape[-2:]), duration=self.duration)

    def frames(self, images: torch.Tensor, timesteps: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Events of a batch of images [B, C, H, W], values in [0, 1], gathered as `Events.frames`: [T, B, 2, H, W]."""
        if timesteps < 1:
            raise ValueError(f"timesteps is {timesteps}; it must be at least 1")
        frames = images.new_zeros(timesteps, len(images), 2, *images.shape[-2:])
        for time, counts in self._watch(images, generator):
            frames[min(int(time / self.duration * timesteps), timesteps - 1)] += counts
        return frames

    def _watch(self, images: torch.Tensor, generator) -> Iterator[tuple[float, torch.Tensor]]:
        """(time in seconds, events [B, 2, H, W] since the look before) at each look after the first."""
        light = self._light(images)
        memory, rested, pause = None, None, self.period / self.looks
        for look, shift in enumerate(self.path()):
            seen = torch.log(_moved(light, shift) + self.floor)
            if memory is None:
                memory, rested = seen, torch.full_like(seen, math.inf)
                continue
            rested = rested + pause
            ready = rested > self.refractory
            steps = torch.where(ready, ((seen - memory) / self.threshold).trunc(), 0.0)
            if self.refractory:
                steps = steps.clamp(-1, 1)
            memory = torch.where(ready, memory + steps * self.threshold, seen)
            rested = torch.where(steps != 0, 0.0, rested)
            counts = torch.cat([(-steps).clamp(min=0), steps.clamp(min=0)], 1)
            if self.noise:
                expected = torch.full_like(counts, self.noise * pause / 2)
                counts = counts + torch.poisson(expected, generator=generator)
            yield look * pause, counts

    def _light(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images has shape {tuple(images.shape)}; give [B, 1 or 3, H, W]")
        if not (images.is_floating_point() and images.min() >= 0 and images.max() <= 1):
            raise ValueError("images must hold intensities in [0, 1]; add the mean that was subtracted from them")
        if images.shape[1] == 1:
            return images
        return (images * LUMA.to(images).view(3, 1, 1)).sum(1, keepdim=True)


def _moved(light: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """`light` [B, 1, H, W] moved by `shift` (x, y) pixels, bilinear between pixels."""
    height, width = light.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns - shift[0], rows - shift[1]], -1)
    grid = 2 * places / torch.tensor([max(1, width - 1), max(1, height - 1)]) - 1
    grid = grid.to(light).expand(len(light), -1, -1, -1)
    return F.grid_sample(light, grid, mode="bilinear", padding_mode="border", align_corners=True)
