"""How good a spiking net is, step by step, and how sure one can be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from torch import nn

from snnkit.coding import check_timesteps
from snnkit.data import Split
from snnkit.simulation import Simulation, inference_precision, simulate


@dataclass(frozen=True)
class Outcome:
    """`correct` bool [images, len(at)]: was the answer right after `at[i]` steps; `rates` {layer: spikes per step}.

    `correct_by_spikes` is the same run read out by firing output neurons, None if there were none; `seconds` it took;
    `precision` as it was chosen (see `snnkit.simulation.choose_precision`).
    """

    at: tuple[int, ...]
    correct: torch.Tensor
    rates: dict[str, float]
    correct_by_spikes: torch.Tensor | None = None
    seconds: float = 0.0
    precision: str | None = None

    @property
    def accuracy(self) -> torch.Tensor:
        """Share of images answered correctly after each of the `at` steps, [len(at)]."""
        return self.correct.double().mean(0)


def over_time(
    net: nn.Module,
    split: Split,
    at: Sequence[int],
    *,
    seed: int = 0,
    batch: int = 100,
    coding: str = "poisson",
    precision: str | None = "auto",
    device: torch.device | str | None = None,
    output_neurons: nn.Module | None = None,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Present every image of `split` once for max(`at`) steps and note the answer after each of the steps in `at`.

    Spikes are drawn from one generator seeded with `seed`, batch after batch of `batch` images. `output_neurons`, a
    neuron layer for a net with readout "membrane", reads the same run out by spikes too (`correct_by_spikes`). `say`
    receives a line of progress a batch. Raises ValueError if `at` is empty or not increasing.
    """
    at = check_steps(at)
    generator = torch.Generator().manual_seed(seed)
    correct, by_spikes, rates, start = [], [], {}, time.perf_counter()
    for index in torch.arange(len(split)).split(batch):
        labels = split.labels[index]
        with torch.no_grad():
            result = simulate(
                net, split.batch(index), at[-1], coding=coding, generator=generator, precision=precision, device=device
            )
            correct.append(_right(result, at, labels))
            if output_neurons is not None:
                spikes = simulate(output_neurons, result.output, at[-1], coding=None, device=device)
                by_spikes.append(_right(spikes, at, labels))
        for layer, rate in result.rates.items():
            rates[layer] = rates.get(layer, 0.0) + rate * len(index) / len(split)
        if say:
            done = torch.cat(correct)
            say(f"{len(done)}/{len(split)} images, {done[:, -1].double().mean():.1%} correct after {at[-1]} steps")
    fired = torch.cat(by_spikes) if by_spikes else None
    return Outcome(at, torch.cat(correct), rates, fired, time.perf_counter() - start, result.precision)


def check_steps(at: Sequence[int]) -> tuple[int, ...]:
    """`at` as a tuple; ValueError unless it is an increasing sequence of numbers of time steps."""
    at = tuple(at)
    if not at or list(at) != sorted(set(at)):
        raise ValueError(f"at is {at}; give increasing numbers of time steps, for example (50, 100, 200)")
    for steps in at:
        check_timesteps(steps)
    return at


def _right(result: Simulation, at: tuple[int, ...], labels: torch.Tensor) -> torch.Tensor:
    """[images, len(at)]: does the class with the most evidence after each of the steps equal the label."""
    evidence = result.counts()[torch.tensor(at) - 1]  # [len(at), B, K]
    return (evidence.argmax(-1).cpu() == labels).T


@torch.no_grad()
def ann_correct(
    net: nn.Module, split: Split, batch: int = 500, precision: str | None = None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Whether the ANN `net` classifies each image of `split` correctly, bool [images]; leaves it in eval mode."""
    net.eval().to(device)
    answers = []
    for index in torch.arange(len(split)).split(batch):
        images = split.batch(index).to(device)
        if images.dim() == 4:
            images = images.to(memory_format=torch.channels_last)
        with inference_precision(precision, device):
            answers.append(net(images).argmax(-1).cpu())
    return torch.cat(answers) == split.labels


@torch.no_grad()
def confusion(
    net: nn.Module,
    split: Split,
    timesteps: int,
    *,
    seed: int = 0,
    batch: int = 100,
    coding: str = "poisson",
    precision: str | None = "auto",
) -> torch.Tensor:
    """Share of the images of each class that the spiking `net` takes for each class after `timesteps`: [K, K].

    Rows are what the images show and sum to 1 (nan for a class without images); spikes are drawn as in `over_time`.
    """
    classes, generator = len(split.classes), torch.Generator().manual_seed(seed)
    counts = torch.zeros(classes, classes)
    for index in torch.arange(len(split)).split(batch):
        options = {"coding": coding, "generator": generator, "precision": precision}
        answers = simulate(net, split.batch(index), timesteps, **options).predict()
        counts += torch.bincount(split.labels[index] * classes + answers, minlength=classes**2).view(classes, classes)
    return counts / counts.sum(1, keepdim=True)


def interval(correct: torch.Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval for the accuracy behind `correct` bool [images]."""
    ci = binomtest(int(correct.sum()), len(correct)).proportion_ci(confidence, method="wilson")
    return float(ci.low), float(ci.high)


def paired_difference(a: torch.Tensor, b: torch.Tensor, confidence: float = 0.95) -> Mean:
    """Accuracy of `a` minus that of `b`, bool [images] each on the same images, with its interval.

    Normal approximation on the per-image difference (-1, 0 or 1), which is what pairing makes narrow.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired answers must be about the same images; got {tuple(a.shape)} and {tuple(b.shape)}")
    return _normal_interval(a.double() - b.double(), confidence)


def paired_over_seeds(a: torch.Tensor, b: torch.Tensor, confidence: float = 0.95) -> Mean:
    """Accuracy of the nets `a` minus that of `b`, bool [seeds, images] each, trained in pairs from the same seeds.

    From three seeds on each pair's difference is one observation: the interval (Student's t) says what another seed
    would have given. Fewer seeds cannot say that; then each image's difference, the mean over the pairs, is one
    observation. Raises ValueError for other shapes.
    """
    if a.shape != b.shape or a.dim() != 2 or not a.numel():
        raise ValueError(f"give answers [seeds, images] to the same images; got {tuple(a.shape)}, {tuple(b.shape)}")
    apart = a.double() - b.double()
    return student_interval(apart.mean(1), confidence) if len(a) > 2 else _normal_interval(apart.mean(0), confidence)


def student_interval(values: torch.Tensor, confidence: float = 0.95) -> Mean:
    """The mean of a few `values` [seeds], at least two, with Student's interval."""
    mean = values.mean()
    half = student.ppf((1 + confidence) / 2, len(values) - 1) * values.std() / math.sqrt(len(values))
    return Mean(mean, mean - half, mean + half)


class Mean(NamedTuple):
    """A mean over images with its 95 % interval; each a number, or a tensor [len(at)]."""

    mean: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    @property
    def percent(self) -> list[float]:
        """Mean, low and high of a single share, in percent."""
        return [100 * float(value) for value in self]


def mean_over_seeds(runs: Sequence[torch.Tensor], confidence: float = 0.95) -> Mean:
    """Accuracy [len(at)] over several runs, bool [images, len(at)] each, on the same images, with its interval.

    Each image's accuracy over the runs is one observation, so that repeating a run does not pass for more images.
    """
    return _normal_interval(torch.stack([run.double() for run in runs]).mean(0), confidence)


def _normal_interval(values: torch.Tensor, confidence: float) -> Mean:
    """Mean over the first dimension with its normal interval."""
    mean = values.mean(0)
    half = norm.ppf((1 + confidence) / 2) * values.std(0) / math.sqrt(len(values))
    return Mean(mean, mean - half, mean + half)
