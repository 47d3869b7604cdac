"""Driving a net layer by layer with spikes, each layer's whole train kept one bit a spike (for SN Algorithm 1)."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from snnkit import coding
from snnkit.graph import Chain, Site
from snnkit.neurons import Presentation, presenting
from snnkit.simulation import CHUNK_BYTES, inference_precision


class PackedTrain:
    """Blocks of 0/1 spikes [t, b, ...], written once and read in the same order any number of times.

    Up to `memory` bytes stay in memory, more go to a temporary file that vanishes with the object.
    """

    def __init__(self, memory: int):
        self._file = tempfile.SpooledTemporaryFile(max_size=memory)  # noqa: SIM115 - lives as long as the train
        self._shapes: list[tuple[torch.Size, torch.dtype, torch.device]] = []

    def append(self, spikes: torch.Tensor) -> None:
        spikes = _channels_to_the_end(spikes)
        self._shapes.append((spikes.shape, spikes.dtype, spikes.device))
        self._file.write(np.packbits(spikes.bool().cpu().numpy()).tobytes())

    def __iter__(self) -> Iterator[torch.Tensor]:
        self._file.seek(0)
        for shape, dtype, device in self._shapes:
            packed = np.frombuffer(self._file.read(-(-shape.numel() // 8)), dtype=np.uint8)
            spikes = torch.from_numpy(np.unpackbits(packed, count=shape.numel())).view(shape).to(device, dtype)
            yield spikes.movedim(-1, 2) if spikes.dim() == 5 else spikes


def _channels_to_the_end(block: torch.Tensor) -> torch.Tensor:
    """[t, b, C, H, W] -> [t, b, H, W, C], the order in which convolutions are fast; other shapes as they are."""
    return block.movedim(2, -1) if block.dim() == 5 else block


class PoissonTrain:
    """The input train, drawn again from the same generator state each time it is read."""

    def __init__(self, images: torch.Tensor, steps: list[int], groups: int, generator: torch.Generator | None):
        self._images, self._steps, self._groups = images, steps, groups
        self._generator = generator if generator is not None else torch.default_generator
        self._state = self._generator.get_state()

    def __iter__(self) -> Iterator[torch.Tensor]:
        self._generator.set_state(self._state)
        for length in self._steps:
            spikes = coding.poisson(self._images, length, self._generator)
            for group in spikes.tensor_split(self._groups, dim=1):
                yield _channels_to_the_end(group).contiguous().movedim(-1, 2) if group.dim() == 5 else group


@torch.no_grad()
def spike_driven_maxima(
    chain: Chain,
    images: torch.Tensor,
    timesteps: int,
    make_neuron: Callable[[Site, float], torch.nn.Module],
    generator: torch.Generator | None,
    memory: int,
    precision: str | None,
) -> list[float]:
    """For each site in turn, its largest input over images and steps when all sites before it spike.

    `make_neuron(site, largest)` gives the neurons of a site once its largest input is known. The largest input needs no
    membrane, so a site's input is computed twice from the stored train before it: for the maximum, then for the spikes.
    """
    widest = _widest(chain, images[:1])
    groups = max(1, min(len(images), -(-len(images) * widest // CHUNK_BYTES)))  # of images
    length = max(1, CHUNK_BYTES * groups // (len(images) * widest))  # of a chunk of steps
    steps = [length] * (timesteps // length) + [timesteps % length] * (timesteps % length > 0)
    with inference_precision(precision, images.device):
        return _balance(chain, PoissonTrain(images, steps, groups, generator), groups, make_neuron, memory)


def _balance(chain: Chain, train, groups: int, make_neuron, memory: int) -> list[float]:
    maxima = []
    for site in chain.sites:
        maxima.append(max(float(currents.max()) for currents in _currents(chain, site, train)))
        if site.relu is not None:
            neuron = make_neuron(site, maxima[-1])
            train = _fire(neuron, _currents(chain, site, train), groups, memory)
    return maxima


def _currents(chain: Chain, site: Site, train) -> Iterator[torch.Tensor]:
    """Blocks of spikes [t, b, ...] -> blocks of the site's input [t, b, ...]."""
    for block in train:
        yield chain.run(site, block.flatten(0, 1)).unflatten(0, block.shape[:2])


def _fire(neuron: torch.nn.Module, blocks: Iterable[torch.Tensor], groups: int, memory: int) -> PackedTrain:
    """Drive `neuron` with blocks that come as chunks of steps, in each chunk the groups of images."""
    presentations, spikes = [Presentation() for _ in range(groups)], PackedTrain(memory)
    for currents, presentation in zip(blocks, itertools.cycle(presentations), strict=False):
        presentation.open_chunk(len(currents))
        with presenting([neuron.to(currents.device)], presentation):
            spikes.append(neuron(currents.flatten(0, 1)).unflatten(0, currents.shape[:2]))
    return spikes


def _widest(chain: Chain, image: torch.Tensor) -> int:
    """Bytes of the largest neuron input of one image at one step."""
    value, widest = image, 0
    for site in chain.sites:
        value = chain.run(site, value).relu()
        widest = max(widest, value.numel() * value.element_size())
    return widest
