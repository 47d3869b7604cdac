"""The rule against a loop over every spike, and what thresholds and competition do."""

import itertools
import math

import pytest
import torch
from torch import nn

from snnkit.stdp import Rule, adapt, learners, weight_change


def layer_of(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False).double()
    layer.weight.data.uniform_(-0.9, 0.9)
    return layer


def spikes(*shape: int, share: float = 0.3, signed: bool = False, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    fired = (torch.rand(shape, generator=generator) < share).double()
    return fired * torch.randint(0, 2, shape, generator=generator).mul(2).sub(1) if signed else fired


def slow_change(layer: nn.Conv2d, pre: torch.Tensor, post: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Every spike of every neuron, every synapse of it, every spike that the synapse has seen."""
    change, asked_by = torch.zeros_like(layer.weight), torch.zeros_like(layer.weight)
    height, width = pre.shape[-2:]
    (down, right), (above, beside), (wide, broad) = layer.stride, layer.padding, layer.dilation
    for t, b, o, y, x in post.nonzero().tolist():
        for i, ky, kx in itertools.product(*map(range, layer.weight.shape[1:])):
            row, column = y * down + ky * wide - above, x * right + kx * broad - beside
            if not (0 <= row < height and 0 <= column < width):
                continue
            asked = -slow_mean(pre[: t + 1, :, i], rule.tau) if rule.offset == "mean" else -rule.offset
            for before in range(t, -1, -1):
                if pre[before, b, i, row, column]:
                    asked += pre[before, b, i, row, column].item() * math.exp((before - t) / rule.tau)
                    break
            weight = layer.weight[o, i, ky, kx].item()
            change[o, i, ky, kx] += asked * (rule.high - weight if asked > 0 else weight - rule.low)
            asked_by[o, i, ky, kx] += 1
    return rule.learning_rate * change / asked_by.clamp(min=1)


def slow_mean(channel: torch.Tensor, tau: float) -> float:
    """The mean, over all places of a `channel` [t + 1, B, H, W], of what its latest spike has left there at step t."""
    left = []
    for train in channel.flatten(1).T.tolist():
        ages = [age for age, fired in enumerate(reversed(train)) if fired]
        left.append(train[-1 - ages[0]] * math.exp(-ages[0] / tau) if ages else 0.0)
    return sum(left) / len(left)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("offset", [0.4, "mean"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_change_is_that_of_a_loop_over_every_spike(stride, signed, offset, batch):
    layer, rule = layer_of(2, 3, stride=stride), Rule(tau=3.0, offset=offset, learning_rate=0.3)
    pre = spikes(6, batch, 2, 5, 5, signed=signed)
    post = spikes(6, batch, 3, -(-5 // stride), -(-5 // stride), share=0.2, seed=2)
    change = weight_change(layer, pre, post, rule)
    assert change.abs().max() > 0.01
    torch.testing.assert_close(change, slow_change(layer, pre, post, rule).detach(), rtol=1e-12, atol=1e-12)


def test_with_the_mean_as_offset_what_comes_by_chance_leaves_a_weight_at_0_at_any_rate():
    """The neuron is silent at first, as one that starts from rest: it fires when traces are already large."""
    layer, rule = layer_of(2, 1, size=1), Rule(tau=3.0, offset="mean", learning_rate=0.5)
    layer.weight.data.zero_()
    pre = torch.cat([spikes(12, 150, 1, 4, 4, share=0.05), spikes(12, 150, 1, 4, 4, share=0.5, seed=3)], 2)
    late = spikes(12, 150, 1, 4, 4, share=0.1, seed=2) * (torch.arange(12) >= 6).view(-1, 1, 1, 1, 1)
    assert weight_change(layer, pre, late, rule).abs().max() < 0.01
    follows_the_rare = weight_change(layer, pre, pre[:, :, :1], rule).flatten()
    assert follows_the_rare[0] > 0.2
    assert abs(follows_the_rare[1]) < 0.01


def test_height_and_width_may_differ_in_all():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 2, (3, 2), (1, 2), padding=(2, 1), dilation=(2, 1), bias=False).double()
    pre = spikes(4, 1, 2, 6, 5)
    post, rule = spikes(4, 1, 2, *layer(pre[0]).shape[-2:], seed=2), Rule(tau=3.0, offset=0.4)
    torch.testing.assert_close(weight_change(layer, pre, post, rule), slow_change(layer, pre, post, rule).detach())


@pytest.mark.parametrize(("late_by", "sign"), [(0, 1), (1, 1), (2, 1), (3, -1), (6, -1)])
def test_a_spike_that_helped_is_rewarded_and_one_long_ago_is_not(late_by, sign):
    layer, rule = layer_of(1, 1, size=1), Rule(tau=3.0, offset=0.5)  # exp(-2/3) > 0.5 > exp(-3/3)
    pre, post = torch.zeros(7, 1, 1, 1, 1).double(), torch.zeros(7, 1, 1, 1, 1).double()
    pre[0], post[late_by] = 1, 1
    assert weight_change(layer, pre, post, rule).sign().item() == sign


def test_a_spike_that_comes_too_late_or_never_weakens_its_synapse():
    layer, rule = layer_of(1, 1, size=1), Rule(tau=3.0, offset=0.5, learning_rate=0.1)
    pre, post = torch.zeros(4, 1, 1, 1, 1).double(), torch.zeros(4, 1, 1, 1, 1).double()
    post[1] = 1
    fall = -0.1 * 0.5 * (layer.weight + 1)
    torch.testing.assert_close(weight_change(layer, pre, post, rule), fall.detach())
    pre[2] = 1
    torch.testing.assert_close(weight_change(layer, pre, post, rule), fall.detach())


def test_without_a_spike_of_its_neurons_a_kernel_stays():
    layer, rule = layer_of(2, 3), Rule()
    post = spikes(4, 2, 3, 5, 5)
    post[:, :, 1] = 0
    change = weight_change(layer, torch.zeros(4, 2, 2, 5, 5).double(), post, rule)
    assert not change[1].any()
    assert (change[[0, 2]] < 0).all()


@pytest.mark.parametrize(("offset", "learning_rate"), [(0.0, 1.0), ("mean", 0.5)])
def test_weights_stay_within_their_bounds_at_the_largest_rate(offset, learning_rate):
    layer, rule = layer_of(1, 2), Rule(offset=offset, learning_rate=learning_rate, low=-0.5, high=0.7)
    layer.weight.data.clamp_(-0.5, 0.7)
    for seed in range(20):
        pre = spikes(5, 2, 1, 4, 4, share=0.9, signed=True, seed=seed)
        post = torch.cat([pre > 0, pre < 0], 2).double()  # one kernel is always rewarded, the other never
        layer.weight.data += weight_change(layer, pre, post, rule)
        assert layer.weight.min() >= -0.5
        assert layer.weight.max() <= 0.7
    assert layer.weight.max() - layer.weight.min() > 0.1


def test_a_batch_is_the_mean_over_its_spikes():
    layer, rule = layer_of(1, 1), Rule()
    pre, post = spikes(5, 2, 1, 4, 4), torch.zeros(5, 2, 1, 4, 4).double()
    post[2, 0, 0, 1:3, 1:3], post[4, 1, 0, 1:3, 1:3] = 1, 1  # four spikes an image, all synapses within the map
    alone = [weight_change(layer, pre[:, [b]], post[:, [b]], rule) for b in (0, 1)]
    torch.testing.assert_close(weight_change(layer, pre, post, rule), sum(alone) / 2)


def test_of_a_place_only_the_neuron_that_is_driven_most_learns():
    drive = torch.tensor([[[[3.0, -1.0]], [[2.0, -2.0]], [[1.0, -3.0]]]])  # [1, 3, 1, 2]
    learn = learners(drive, Rule(dropout=0.0))
    assert learn[0, :, 0].tolist() == [[True, True], [False, False], [False, False]]
    assert learners(drive, Rule(dropout=0.0, competition="none")).all()


@pytest.mark.parametrize("competition", ["winner", "none"])
def test_dropped_maps_neither_learn_nor_compete(competition):
    drive = torch.randn(200, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    learn = learners(drive, Rule(dropout=0.6, competition=competition), torch.Generator().manual_seed(0))
    kept = learn.flatten(2).any(2)
    at_a_place = learn.sum(1)
    if competition == "none":
        assert abs(kept.double().mean() - 0.4) < 0.05
        assert (learn.flatten(2).all(2) == kept).all(), "a whole map, or none of it"
    else:
        assert set(at_a_place.unique().tolist()) <= {0, 1}
        assert (at_a_place == 1).double().mean() > 0.95, "someone wins unless all are dropped"


def test_each_image_drops_maps_of_its_own():
    drawn = torch.Generator().manual_seed(0)
    kept = learners(torch.ones(50, 8, 1, 1), Rule(dropout=0.5, competition="none"), drawn).flatten(1)
    assert len(kept.unique(dim=0)) > 10


@pytest.mark.parametrize(("rate", "factor"), [(0.0, -1), (0.05, -0.5), (0.1, 0), (0.15, 0.5), (0.2, 1), (0.9, 1)])
def test_thresholds_move_against_the_rate(rate, factor):
    threshold = torch.full((2, 1, 1), 3.0)
    adapt(threshold, torch.tensor([rate, 0.1]), Rule(target=0.1, adaptation=0.2))
    torch.testing.assert_close(threshold.flatten(), torch.tensor([3 * math.exp(0.2 * factor), 3.0]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tau": 0}, "tau is 0; it must be above 0 time steps"),
        ({"offset": 1.5}, r"offset is 1.5; it must lie in \[0, 1\], or be 'mean'"),
        ({"offset": "median"}, "offset is 'median'; it must be a finite number, or 'mean'"),
        ({"tau": "mean"}, "tau is 'mean'; it must be a finite number$"),
        ({"learning_rate": 0.6, "offset": "mean"}, r"learning_rate is 0.6; it must lie in \(0, 0.5\]"),
        ({"learning_rate": 0.9, "offset": 0.5}, r"learning_rate is 0.9; it must lie in \(0, 0.667\]"),
        ({"low": 1.0}, "low is 1.0 and high 1.0"),
        ({"competition": "wta"}, "competition is 'wta'; use one of 'winner', 'none'"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must lie in \[0, 1\)"),
        ({"target": 0.0}, r"target is 0.0; it must lie in \(0, 1\)"),
        ({"adaptation": -0.1}, r"adaptation is -0.1; it must lie in \[0, 1\]"),
        ({"adaptation": 1.1}, r"adaptation is 1.1; it must lie in \[0, 1\]"),
        ({"offset": -0.1}, r"offset is -0.1; it must lie in \[0, 1\]"),
        ({"learning_rate": 0.0}, r"learning_rate is 0.0; it must lie in \(0, 0.909\]"),
        ({"dropout": -0.1}, r"dropout is -0.1; it must lie in \[0, 1\)"),
        ({"target": 1.0}, r"target is 1.0; it must lie in \(0, 1\)"),
        ({"low": -math.inf}, "low is -inf; it must be a finite number"),
        ({"tau": math.nan}, "tau is nan; it must be a finite number"),
        ({"target": "0.1"}, "target is '0.1'; it must be a finite number"),
    ],
)
def test_values_out_of_range_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Rule(**values)


@pytest.mark.parametrize(
    ("pre", "post", "words"),
    [
        ((4, 2, 3, 5, 5), (4, 2, 3, 5, 5), r"pre has shape \(4, 2, 3, 5, 5\); it must be \[T, B, 2, H, W\]"),
        ((4, 2, 5, 5), (4, 3, 5, 5), r"pre has shape \(4, 2, 5, 5\)"),
        ((4, 2, 2, 5, 5), (4, 1, 3, 5, 5), r"post has shape .*; behind pre the layer's neurons send \(4, 2, 3, 5, 5\)"),
        ((4, 2, 2, 5, 5), (3, 2, 3, 5, 5), r"send \(4, 2, 3, 5, 5\)"),
        ((4, 2, 2, 5, 5), (4, 2, 1, 5, 5), r"send \(4, 2, 3, 5, 5\)"),
        ((4, 2, 2, 5, 6), (4, 2, 3, 5, 1), r"send \(4, 2, 3, 5, 6\)"),
    ],
)
def test_trains_that_do_not_fit_the_layer_are_refused(pre, post, words):
    with pytest.raises(ValueError, match=words):
        weight_change(layer_of(2, 3), torch.zeros(pre).double(), torch.zeros(post).double(), Rule())


@pytest.mark.parametrize("options", [{"groups": 2}, {"padding_mode": "reflect"}, {"padding": "same"}])
def test_a_layer_that_the_rule_does_not_know_is_refused(options):
    layer = nn.Conv2d(2, 2, 3, **{"padding": 1} | options)
    with pytest.raises(ValueError, match="cannot learn by this rule; give one without groups"):
        weight_change(layer, torch.zeros(1, 1, 2, 4, 4), torch.zeros(1, 1, 2, 4, 4), Rule())
