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
from snnkit.spikes import as_spikes, forget_layouts

Blocks = Iterator[tuple[int, torch.Tensor]]  # (group of images, spikes or currents [t, b, ...]), time by time


class PackedTrain:
    """The spikes [T, B, ...] of a layer, written once in blocks and read any number of times.

    Images come in `groups`; `append` takes a block [t, b, ...] of each group in turn. Up to `memory` bytes stay in
    memory, more go to a temporary file that vanishes with the object.
    """

    def __init__(self, groups: int, memory: int):
        self._file = tempfile.SpooledTemporaryFile(max_size=memory)  # noqa: SIM115 - lives as long as the train
        self._groups = groups
        self._written: list[tuple[int, torch.Size, torch.dtype, torch.device]] = []

    def append(self, spikes: torch.Tensor) -> None:
        spikes = _channels_to_the_end(spikes)
        self._written.append((self._file.tell(), spikes.shape, spikes.dtype, spikes.device))
        self._file.write(np.packbits(spikes.bool().cpu().numpy()).tobytes())

    def read(self, steps: int) -> Blocks:
        """Blocks of about `steps` steps, at least those of one block as written."""
        step = self._groups * max(1, steps // self._written[0][1][0])
        for start in range(0, len(self._written), step):
            for group in range(self._groups):
                parts = self._written[start + group : start + step : self._groups]
                block = torch.cat([self._unpack(*part) for part in parts])
                yield group, block.movedim(-1, 2) if block.dim() == 5 else block

    def _unpack(self, place: int, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        self._file.seek(place)
        packed = np.frombuffer(self._file.read(-(-shape.numel() // 8)), dtype=np.uint8)
        spikes = torch.from_numpy(np.unpackbits(packed, count=shape.numel()).view(np.int8)).view(shape)
        return spikes.to(device, dtype)


class PoissonTrain:
    """The input train, drawn again from the same generator state each time it is read."""

    def __init__(self, images: torch.Tensor, timesteps: int, groups: int, generator: torch.Generator | None):
        self._images, self._timesteps, self._groups = images, timesteps, groups
        self._generator = generator if generator is not None else torch.default_generator
        self._state = self._generator.get_state()

    def read(self, steps: int) -> Blocks:
        """Blocks of `steps` steps, the last one shorter."""
        self._generator.set_state(self._state)
        for start in range(0, self._timesteps, steps):
            spikes = coding.poisson(self._images, min(steps, self._timesteps - start), self._generator)
            for group, block in enumerate(spikes.tensor_split(self._groups, dim=1)):
                yield group, _channels_to_the_end(block).contiguous().movedim(-1, 2) if block.dim() == 5 else block


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
    membrane, so a site's input is computed twice: for the maximum, then, with that threshold, for the spikes.
    """
    widths = _widths(chain, images[:1])
    groups = max(1, min(len(images), -(-len(images) * max(widths) // CHUNK_BYTES)))
    steps = [max(1, CHUNK_BYTES * groups // (len(images) * width)) for width in widths]
    forget_layouts()
    with inference_precision(precision, images.device):
        train = PoissonTrain(images, timesteps, groups, generator)
        return _balance(chain, train, steps, make_neuron, lambda: PackedTrain(groups, memory))


def _balance(chain: Chain, train, steps: list[int], make_neuron, make_train) -> list[float]:
    """The layers in turn: each fires with its threshold, and its spikes at once give the next one's largest input."""
    first = chain.sites[0]
    maxima = [max(float(currents.max()) for _, currents in _currents(chain, first, train.read(steps[0])))]
    for i, (site, following) in enumerate(itertools.pairwise(chain.sites)):
        neuron, fired, largest = make_neuron(site, maxima[i]), make_train(), -torch.inf
        for _, spikes in _fire(neuron, _currents(chain, site, train.read(steps[i]))):
            fired.append(spikes)
            largest = max(largest, float(_input(chain, following, spikes).max()))
        maxima.append(largest)
        train = fired
    return maxima


def _input(chain: Chain, site: Site, spikes: torch.Tensor) -> torch.Tensor:
    """Spikes [t, b, ...] -> the input [t, b, ...] of the neurons at `site`."""
    return chain.run(site, as_spikes(spikes.flatten(0, 1))).unflatten(0, spikes.shape[:2])


def _currents(chain: Chain, site: Site, blocks: Blocks) -> Blocks:
    return ((group, _input(chain, site, spikes)) for group, spikes in blocks)


def _fire(neuron: torch.nn.Module, blocks: Iterable[tuple[int, torch.Tensor]]) -> Blocks:
    """Drive `neuron` with currents; each group of images is a presentation of its own."""
    presentations: dict[int, Presentation] = {}
    for group, currents in blocks:
        presentation = presentations.setdefault(group, Presentation())
        presentation.open_chunk(len(currents))
        with presenting([neuron.to(currents.device)], presentation):
            yield group, neuron(currents.flatten(0, 1)).unflatten(0, currents.shape[:2])


def _widths(chain: Chain, image: torch.Tensor) -> list[int]:
    """Bytes of the neuron input of each site for one image and step."""
    value, widths = image, []
    for site in chain.sites:
        value = chain.run(site, value).relu()
        widths.append(value.numel() * value.element_size())
    return widths


def _channels_to_the_end(block: torch.Tensor) -> torch.Tensor:
    """[t, b, C, H, W] -> [t, b, H, W, C], the order in which convolutions are fast; other shapes as they are."""
    return block.movedim(2, -1) if block.dim() == 5 else block
