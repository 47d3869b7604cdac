"""A simulated event camera over images: what a sensor of brightness changes would send."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F
from torchvision.transforms.functional import rgb_to_grayscale

from snnkit.coding import check_timesteps
from snnkit.data import Split
from snnkit.events import Events, as_pixels
from snnkit.sources import SPLITS

CORNERS = ((0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (1.0, -1.0), (0.0, 0.0))  # of the path, in units of `reach`: x, y
BATCH = 250  # images that are recorded at once


@dataclass(frozen=True)
class Camera:
    """A simulated event camera in front of still images that move along a closed path.

    Like the recordings of CIFAR10-DVS (Li et al. 2017) the path closes and is repeated. Here it is a rhombus of four
    diagonal legs, each `reach` pixels long in x and in y, run through `loops` times in `period` seconds each, and
    looked at `looks` times a loop. A pixel compares log(intensity + `floor`), intensities in [0, 1] taken as light,
    with what it remembers; for every `threshold` (in units of the natural logarithm) of difference it sends an event
    and moves its memory by that much. For `refractory` seconds after an event it sends no other, and its memory follows
    what it sees. `noise` is the rate of events without a cause, per pixel and second, half of them "on". What enters
    the image at its edges is its nearest pixel. Events bear the time in the middle between two looks.

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
        for name in ("loops", "looks"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a whole number")
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
        place, along = (steps // leg) % 4, (steps % leg / leg)[:, None]
        return self.reach * (corners[place] * (1 - along) + corners[place + 1] * along)

    def record(self, image: torch.Tensor, generator: torch.Generator | None = None) -> Events:
        """The events of one image [C, H, W], values in [0, 1]; C is 1, or 3 for red, green and blue."""
        columns: dict[str, list[torch.Tensor]] = {"t": [], "x": [], "y": [], "on": []}
        for time, counts in self._watch(image.unsqueeze(0), generator):
            on, y, x = counts[0].nonzero().T
            times = counts[0, on, y, x].long()
            for name, values in (("x", x), ("y", y), ("on", on.bool())):
                columns[name].append(values.repeat_interleave(times))
            columns["t"].append(torch.full((len(columns["x"][-1]),), time, dtype=torch.float64, device=x.device))
        found = {name: torch.cat(parts) for name, parts in columns.items()}
        return Events(**found, size=tuple(image.shape[-2:]), duration=self.duration)

    def frames(self, images: torch.Tensor, timesteps: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Events of a batch of images [B, C, H, W], values in [0, 1], gathered as `Events.frames`: [T, B, 2, H, W].

        The bins are equal if the recording's looks, loops * looks, are a multiple of `timesteps`.
        """
        check_timesteps(timesteps)
        if timesteps > self.loops * self.looks:
            looks = self.loops * self.looks
            raise ValueError(f"timesteps is {timesteps}; the camera looks {looks} times, give no more steps than that")
        frames = images.new_zeros(timesteps, len(images), 2, *images.shape[-2:])
        for time, counts in self._watch(images, generator):
            frames[min(int(time / self.duration * timesteps), timesteps - 1)] += counts
        return frames

    def _watch(self, images: torch.Tensor, generator) -> Iterator[tuple[float, torch.Tensor]]:
        """(time in seconds, events [B, 2, H, W] since the look before) at each look after the first."""
        light, pause = _light(images), self.period / self.looks
        # the looks that a pixel misses after an event, and the events that it can send between two
        rest = math.floor(self.refractory / pause + 1e-9)
        most = max(1, math.floor(pause / self.refractory + 1e-9)) if self.refractory else math.inf
        first, *others = self.path()
        base = torch.log(_moved(light, first) + self.floor)
        sent, waits = torch.zeros_like(base), torch.zeros_like(base)  # thresholds above `base`; looks still to miss
        for look, shift in enumerate(others):
            seen = torch.log(_moved(light, shift) + self.floor)
            ready = waits == 0
            steps = torch.where(ready, ((seen - base) / self.threshold - sent).trunc(), 0.0)
            held = ~ready | (steps.abs() > most)  # their memory follows what they see
            steps = steps.clamp(-most, most)
            base, sent = torch.where(held, seen, base), torch.where(held, 0.0, sent + steps)
            counts = torch.cat([(-steps).clamp(min=0), steps.clamp(min=0)], 1)
            if self.noise:
                counts = counts + self._without_cause(counts, ready, pause, generator)
            waits = torch.where(counts.sum(1, keepdim=True) > 0, float(rest), (waits - 1).clamp(min=0))
            yield (look + 0.5) / len(others) * self.duration, counts

    def _without_cause(self, counts, ready, pause: float, generator) -> torch.Tensor:
        device = generator.device if generator is not None else counts.device
        expected = torch.full_like(counts, self.noise * pause / 2, device=device)
        noise = torch.poisson(expected, generator=generator).to(counts.device)
        if self.refractory:
            noise = noise.clamp(max=1) * (ready & (counts.sum(1, keepdim=True) == 0))
            noise[:, 0] *= 1 - noise[:, 1]
        return noise


def recorded(split: Split, camera: Camera, timesteps: int, seed: int = 0) -> Split:
    """The images of `split` as `camera` sees them, `timesteps` frames each, for `coding="frames"`.

    Noise is drawn with `seed`, other noise for another split. The images must be in memory (`Split.images` says how
    many fit), and `snnkit.events.as_pixels` how many events a pixel can send in a frame.
    """
    generator, pixels = torch.Generator().manual_seed(len(SPLITS) * seed + SPLITS.index(split.split)), []
    for index in torch.arange(len(split)).split(BATCH):
        frames = camera.frames(split.pixels[index].float() / 255, timesteps, generator)
        pixels.append(as_pixels(frames.transpose(0, 1)))
    recordings = torch.cat(pixels)
    mean = torch.zeros(recordings.shape[1:])
    label = f"{split.label}, simulated events ({camera}, {timesteps} frames, seed {seed})"
    return replace(split, pixels=recordings, mean=mean, label=label, frames=timesteps)


def _light(images: torch.Tensor) -> torch.Tensor:
    """The intensity [B, 1, H, W] of images [B, C, H, W], in float32 or wider."""
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(f"images has shape {tuple(images.shape)}; give [B, 1 or 3, H, W]")
    if not (images.is_floating_point() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            "images must hold intensities in [0, 1]; divide bytes by 255, add the mean that was subtracted from them"
        )
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    return images if images.shape[1] == 1 else rgb_to_grayscale(images)


def _moved(light: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """`light` [B, 1, H, W] moved by `shift` (x, y) pixels, bilinear between pixels."""
    height, width = light.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns - shift[0], rows - shift[1]], -1).to(light)
    grid = 2 * places / torch.tensor([max(1, width - 1), max(1, height - 1)]).to(light) - 1
    grid = grid.expand(len(light), -1, -1, -1)
    return F.grid_sample(light, grid, mode="bilinear", padding_mode="border", align_corners=True)
