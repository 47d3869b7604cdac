"""Spike-timing-dependent plasticity of a convolution's kernels, in mini-batches (BR section III-B3).

Nothing tells a kernel what to look for: it comes to look like what made its neurons fire. All neurons of a map share
their kernel, so what their spikes ask of it is averaged, over the positions of the map and the images of the batch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

COMPETITIONS = ("winner", "none")


@dataclass(frozen=True)
class Rule:
    """How kernels learn. At every spike of a neuron each of its synapses asks for the change

        exp((t_pre - t_post) / tau) - offset                                                  (BR eq. 5)

    with t_pre the time of the latest spike at the synapse up to then, `tau` in steps; 1 - offset for a spike at the
    same step, -offset if there was none yet. (A negative spike, which only images send, counts as -exp(...).) The
    offset "mean" is, for each step and channel that is read, the mean of exp(...) over images and places: what a spike
    finds by chance. At weight 0 a synapse then moves with the covariance of its trace and its neuron's spikes
    (Sejnowski 1977), whatever the channel's rate.

    Weights have soft bounds: rises are scaled with high - weight, falls with weight - low. A kernel moves by
    `learning_rate` times the mean of what its spikes ask for, once an iteration.

    `competition` "winner": of the neurons at one place of an image only that which is driven most, relative to its
    threshold, learns; "none": all do. `dropout` is the probability that a map is left out of an image's learning.
    `target` is the rate, in spikes a neuron and step, to which the threshold that all neurons of a map share is
    steered, by a factor of at most exp(adaptation) an iteration; with 0 thresholds stay as they are.

    Raises ValueError for a value that is no number or out of range.
    """

    learning_rate: float = 0.05
    tau: float = 5.0
    offset: float | str = 0.1
    low: float = -1.0
    high: float = 1.0
    competition: str = "winner"
    dropout: float = 0.0
    target: float = 0.1
    adaptation: float = 0.3

    def __post_init__(self):
        for name, value in asdict(self).items():
            free = name == "competition" or (name, value) == ("offset", "mean")
            if not free and not (isinstance(value, Real) and math.isfinite(value)):
                raise ValueError(
                    f"{name} is {value!r}; it must be a finite number" + ", or 'mean'" * (name == "offset")
                )
        if not self.tau > 0:
            raise ValueError(f"tau is {self.tau}; it must be above 0 time steps")
        largest = 1.0 if self.offset == "mean" else self.offset
        if not 0 <= largest <= 1:
            raise ValueError(f"offset is {self.offset}; it must lie in [0, 1], or be 'mean'")
        if not 0 < self.learning_rate <= 1 / (1 + largest):
            most = f"{1 / (1 + largest):.3g}"  # more could carry a weight beyond its bounds
            raise ValueError(f"learning_rate is {self.learning_rate}; it must lie in (0, {most}] with this offset")
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must be the smaller bound of the weights")
        if self.competition not in COMPETITIONS:
            names = ", ".join(map(repr, COMPETITIONS))
            raise ValueError(f"competition is {self.competition!r}; use one of {names}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must lie in [0, 1)")
        if not 0 < self.target < 1:
            raise ValueError(f"target is {self.target}; it must lie in (0, 1), in spikes a neuron and step")
        if not 0 <= self.adaptation <= 1:
            raise ValueError(f"adaptation is {self.adaptation}; it must lie in [0, 1]")


def weight_change(layer: nn.Conv2d, pre: torch.Tensor, post: torch.Tensor, rule: Rule) -> torch.Tensor:
    """What the spikes of one batch do to the kernels of `layer`: a change shaped like its weight.

    `pre` [T, B, I, H, W] are the spikes that the layer reads, `post` [T, B, O, H', W'] those of its neurons that learn.
    The changes that single spikes ask for are averaged over those at which the synapse had a neuron in front of it, not
    the padding; a kernel without a spike stays. Work goes with the number of places where a neuron fires.

    Raises ValueError for trains that `layer` would not read or send, and for a layer with groups or a padding of
    anything but zeros.
    """
    _check_fit(layer, pre, post)
    (rows, columns), (down, right), (wide, broad) = layer.padding, layer.stride, layer.dilation
    kernel = [*itertools.product(*map(range, layer.kernel_size))]
    trace = torch.zeros_like(pre[0])  # sign * exp(-age / tau) of the latest spike
    sums = rises = 0.0
    for before, after in zip(pre, post, strict=True):
        trace = torch.where(before != 0, before, math.exp(-1 / rule.tau) * trace)
        offset = trace.mean((0, 2, 3), keepdim=True) if rule.offset == "mean" else rule.offset
        asked = torch.cat([trace - offset, torch.ones_like(trace[:, :1])], 1)  # the ones mark neurons
        asked = F.pad(asked.movedim(1, -1), (0, 0, columns, columns, rows, rows))  # [B, C, H, W] -> [B, H, W, C]
        b, y, x = after.any(1).nonzero().unbind(1)
        fired = after.movedim(1, -1)[b, y, x].T  # [O, places]
        seen = [asked[b, y * down + dy * wide, x * right + dx * broad] for dy, dx in kernel]
        seen = torch.cat(seen, 1)  # [places, kernel * (I + 1)]
        sums, rises = sums + fired @ seen, rises + fired @ seen.clamp(min=0)
    shape = layer.out_channels, *layer.kernel_size, -1
    sums, rises = (x.view(shape).movedim(-1, 1) for x in (sums, rises))  # [O, kernel * (I + 1)] -> [O, I + 1, ...]
    spikes, rises = sums[:, -1:].clamp(min=1), rises[:, :-1]
    falls, weight = rises - sums[:, :-1], layer.weight.detach()
    return rule.learning_rate * ((rule.high - weight) * rises - (weight - rule.low) * falls) / spikes


def _check_fit(layer: nn.Conv2d, pre: torch.Tensor, post: torch.Tensor) -> None:
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(
            f"{layer} cannot learn by this rule; give one without groups and with zeros as padding, in pixels"
        )
    if pre.ndim != 5 or pre.shape[2] != layer.in_channels:
        raise ValueError(f"pre has shape {tuple(pre.shape)}; it must be [T, B, {layer.in_channels}, H, W]")
    reach = [span * (size - 1) + 1 for span, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    geometry = zip(pre.shape[3:], layer.padding, reach, layer.stride, strict=True)
    sides = [(side + 2 * padding - wide) // stride + 1 for side, padding, wide, stride in geometry]
    if (sent := (*pre.shape[:2], layer.out_channels, *sides)) != post.shape:
        raise ValueError(f"post has shape {tuple(post.shape)}; behind pre the layer's neurons send {sent}")


def learners(drive: torch.Tensor, rule: Rule, generator: torch.Generator | None = None) -> torch.Tensor:
    """Which neurons learn from an image, bool [B, C, H, W], under the rule's dropout and competition.

    `drive` [B, C, H, W]: the current that each neuron received over all steps, as a multiple of its threshold.
    """
    drawn = torch.rand(drive.shape[:2], generator=generator).to(drive.device)
    kept = (drawn >= rule.dropout)[..., None, None].expand_as(drive)
    if rule.competition == "none":
        return kept
    ahead = drive.masked_fill(~kept, -math.inf)
    return kept & torch.zeros_like(kept).scatter(1, ahead.argmax(1, keepdim=True), True)


def adapt(threshold: torch.Tensor, rates: torch.Tensor, rule: Rule) -> None:
    """Steer the `threshold` [C, 1, 1] of maps that fired with `rates` [C] towards the rule's target rate, in place."""
    excess = (rates / rule.target - 1).clamp(-1, 1)
    threshold.mul_(torch.exp(rule.adaptation * excess).view_as(threshold))
