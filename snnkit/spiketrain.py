"""Driving a net layer by layer with spikes, each layer's whole train kept one bit a spike (for SN Algorithm 1)."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Container, Iterator

import numpy as np
import torch
from torch import fx

from snnkit import coding
from snnkit.graph import Site, SiteGraph
from snnkit.neurons import Presentation, presenting
from snnkit.simulation import CHUNK_BYTES
from snnkit.spikes import as_spikes, forget_layouts

Blocks = Iterator[tuple[int, torch.Tensor]]  # (group of images, spikes or currents [t, b, ...]), time by time


class PackedTrain:
    """The spikes [T, B, ...] of a layer, written once in blocks and read any number of times.

    Images come in `groups`. Up to `memory` bytes stay in memory, more go to a temporary file that vanishes with the
    object. Every step of a group begins on a byte of its own.
    """

    def __init__(self, groups: int, memory: int):
        self._file = tempfile.SpooledTemporaryFile(max_size=memory)  # noqa: SIM115 - lives as long as the train
        self._steps: list[list[int]] = [[] for _ in range(groups)]  # where each step stands in the file
        self._like: list[torch.Tensor | None] = [None] * groups  # an empty tensor of each group's shape and dtype

    def append(self, group: int, spikes: torch.Tensor) -> None:
        """Add the next steps [t, b, ...] of a group of images."""
        spikes = _channels_to_the_end(spikes)
        rows = np.packbits(spikes.bool().flatten(1).cpu().numpy(), axis=1)
        self._like[group] = spikes[:0]
        self._steps[group] += [self._file.tell() + step * rows.shape[1] for step in range(len(rows))]
        self._file.write(rows.tobytes())

    def read(self, steps: int) -> Blocks:
        """Blocks of `steps` steps, the last one shorter."""
        for start in range(0, len(self._steps[0]), steps):
            for group, places in enumerate(self._steps):
                block = self._unpack(places[start : start + steps], self._like[group])
                yield group, block.movedim(-1, 2) if block.dim() == 5 else block

    def _unpack(self, places: list[int], like: torch.Tensor) -> torch.Tensor:
        number = math.prod(like.shape[1:])
        size, parts = -(-number // 8), []
        for _, run in itertools.groupby(enumerate(places), lambda step: step[1] - step[0] * size):  # written together
            run = list(run)
            self._file.seek(run[0][1])
            parts.append(self._file.read(len(run) * size))
        packed = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(len(places), size)
        spikes = torch.from_numpy(np.unpackbits(packed, axis=1, count=number).view(np.int8))
        return spikes.view(-1, *like.shape[1:]).to(like.device, like.dtype)


class InputTrain:
    """The input train; if "poisson", drawn again from the same generator state each time it is read."""

    def __init__(self, images: torch.Tensor, timesteps: int, groups: int, generator: torch.Generator | None, coding):
        self._coding = coding
        self._images, self._timesteps, self._groups = images, timesteps, groups
        self._generator = generator if generator is not None else torch.default_generator
        self._state = self._generator.get_state()

    def read(self, steps: int) -> Blocks:
        """Blocks of `steps` steps, the last one shorter."""
        self._generator.set_state(self._state)
        for start in range(0, self._timesteps, steps):
            length = min(steps, self._timesteps - start)
            if self._coding == "poisson":
                train = coding.poisson(self._images, length, self._generator)
            else:
                train = coding.constant(self._images, length)
            for group, block in enumerate(train.tensor_split(self._groups, dim=1)):
                yield group, _channels_to_the_end(block).contiguous().movedim(-1, 2) if block.dim() == 5 else block


class Calibration:
    """Spike-Norm of a graph: its sites in turn, each driven by the spikes of those before it.

    A site's largest input needs no membrane, so each site is computed twice: for the maximum, then, with the threshold,
    for the spikes. What reads only these spikes finds its own maximum while they are fired.
    """

    def __init__(self, graph: SiteGraph, images: torch.Tensor, equalise: bool, memory: int):
        self.graph, self.equalise, self.memory = graph, equalise, memory
        widths = _widths(graph, images[:1])
        self.groups = max(1, min(len(images), -(-len(images) * max(widths.values()) // CHUNK_BYTES)))
        self.steps = {key: max(1, CHUNK_BYTES * self.groups // (len(images) * width)) for key, width in widths.items()}

    @torch.no_grad()
    def run(self, train, threshold_of: Callable[[Site, float | None], float], fixed: Container[str], neuron) -> None:
        """Call `threshold_of` for every site, with its largest input, or None if its key is in `fixed`.

        `train` holds the spikes of the images; `neuron(site, threshold)` makes the neurons of a site.
        """
        sites, needed = self.graph.sites, self._needed(fixed)
        self.trains, self.scales, self.largest = {self.graph.image: train}, {self.graph.image: 1.0}, {}
        forget_layouts()
        for place, site in enumerate(sites):
            if site.key not in fixed and site.key not in self.largest:
                part = self._part(site)
                inputs = (part(*spikes) for _, spikes in self._blocks(site))
                self.largest[site.key] = max(float(currents.max()) for currents in inputs)
            threshold = threshold_of(site, self.largest.get(site.key))
            self.scales[site.relu] = threshold * self.graph.scale(site.input, self.scales)
            if site.relu in needed:
                self._spike(site, neuron(site, threshold), [s for s in sites if s.key not in fixed])
            later = {source for s in sites[place + 1 :] for source in s.sources}
            self.trains = {source: kept for source, kept in self.trains.items() if source in later}

    def _spike(self, site: Site, neuron, measured: list[Site]) -> None:
        """Keep the spikes of `site`; of the sites that read nothing else, find the largest input on the way."""
        part, fired = self._part(site), PackedTrain(self.groups, self.memory)
        following = {s.key: self._part(s) for s in measured if s.sources == (site.relu,)}
        currents = ((group, part(*spikes)) for group, spikes in self._blocks(site))
        for group, spikes in _fire(neuron, currents):
            fired.append(group, spikes)
            for key, next_part in following.items():
                self.largest[key] = max(self.largest.get(key, -math.inf), float(next_part(spikes).max()))
        self.trains[site.relu] = fired

    def _part(self, site: Site) -> Callable[..., torch.Tensor]:
        """Spikes [t, b, ...] of the sources of `site` -> the input [t, b, ...] of its neurons."""
        part = self.graph.part(site, self.scales, self.equalise)

        def run(*spikes: torch.Tensor) -> torch.Tensor:
            return part(*(as_spikes(x.flatten(0, 1)) for x in spikes)).unflatten(0, spikes[0].shape[:2])

        return run

    def _blocks(self, site: Site) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """The spikes of all sources of `site`, side by side."""
        for blocks in zip(*(self.trains[source].read(self.steps[site.key]) for source in site.sources), strict=True):
            yield blocks[0][0], [spikes for _, spikes in blocks]

    def _needed(self, fixed: Container[str]) -> set[fx.Node]:
        """The sources whose spikes something that is measured depends on."""
        needed = set()
        for site in reversed(self.graph.sites):
            if site.key not in fixed or site.relu in needed:
                needed.update(site.sources)
        return needed


def _fire(neuron: torch.nn.Module, blocks: Blocks) -> Blocks:
    """Drive `neuron` with currents; each group of images is a presentation of its own."""
    presentations: dict[int, Presentation] = {}
    for group, currents in blocks:
        presentation = presentations.setdefault(group, Presentation())
        presentation.open_chunk(len(currents))
        with presenting([neuron.to(currents.device)], presentation):
            yield group, neuron(currents.flatten(0, 1)).unflatten(0, currents.shape[:2])


@torch.no_grad()
def _widths(graph: SiteGraph, image: torch.Tensor) -> dict[str, int]:
    """{key of a site: bytes of the input of its neurons for one image and step}."""
    values, widths = {graph.image: image}, {}
    for site in graph.sites:
        value = graph.part(site)(*(values[source] for source in site.sources))
        widths[site.key], values[site.relu] = value.numel() * value.element_size(), value.relu()
    return widths


def _channels_to_the_end(block: torch.Tensor) -> torch.Tensor:
    """[t, b, C, H, W] -> [t, b, H, W, C], the order in which convolutions are fast; other shapes as they are."""
    return block.movedim(2, -1) if block.dim() == 5 else block
