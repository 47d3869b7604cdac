"""Fresh residual nets over a grid: rates, changed states and gradient norms by block."""

import pytest
import torch

from snnkit import data
from snnkit.depth import block_norms, fresh_blocks
from snnkit.firing import change_probability
from snnkit.models import build
from snnkit.residual import set_gains


def digits(count=24, size=16):
    split = data.load("digits", "train", size=size, limit=count)
    return split.images, split.labels


def test_every_combination_has_its_net():
    images, labels = digits(8, 8)
    found = fresh_blocks(["vanilla", "ms"], [0.1, 1.0], [0.5], [8, 14], images, labels, timesteps=2)
    assert [net[:4] for net in found] == [
        (kind, sigma, 0.5, depth) for kind in ("vanilla", "ms") for sigma in (0.1, 1.0) for depth in (8, 14)
    ]
    for net in found:
        blocks = (net.depth - 2) // 2
        assert (len(net.rates), len(net.changed), len(net.norms)) == (blocks + 1, blocks, blocks)
        halving = blocks // 3, 2 * blocks // 3
        assert [place for place, share in enumerate(net.changed) if share is None] == [*halving]
        assert net.norms[-1] == 1
        assert all(0 < rate < 1 for rate in net.rates)


def test_a_vanilla_block_changes_what_equations_7_and_8_say():
    images, labels = digits()
    for sigma, threshold in ((0.25, 0.5), (0.5, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.25)):
        (net,) = fresh_blocks(["vanilla"], [sigma], [threshold], [8], images, labels, timesteps=1, width=1.0)
        expected = change_probability(sigma, threshold, net.rates[0])
        assert net.changed[0] == pytest.approx(expected, abs=0.02), "one step: no membrane remembers"


def test_blocks_that_are_identities_pass_gradients_on():
    images, labels = digits(8)
    net = set_gains(build("ms-resnet20", width=0.25, in_channels=1, size=16).train(), 0.5, 0.0)
    norms = block_norms(net, images, labels, 3)
    within = norms[:3], norms[3:6], norms[6:]
    for stage in within:
        # the first block of a later stage has a convolution as its shortcut
        same = stage if stage is within[0] else stage[1:]
        assert same == pytest.approx([same[-1]] * len(same), rel=1e-4)


def test_no_gradient_is_0_and_no_error():
    images, labels = digits(4, 8)
    net = build("ms-resnet8", width=0.25, in_channels=1, size=8).train()
    torch.nn.init.zeros_(net.fc.weight)
    assert block_norms(net, images, labels, 2) == [0.0] * 3


def test_nets_in_eval_mode_have_norms_too():
    images, labels = digits(4, 8)
    net = build("ms-resnet8", width=0.25, in_channels=1, size=8).eval()
    assert len(block_norms(net, images, labels, 4)) == 3


def test_the_seed_of_the_caller_is_left_alone_and_nonsense_refused():
    images, labels = digits(4, 8)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    fresh_blocks(["ms"], [0.5], [0.5], [8], images, labels, timesteps=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="kinds names plain; use 'vanilla' and 'ms'"):
        fresh_blocks(["ms", "plain"], [0.5], [0.5], [8], images, labels)
    with pytest.raises(ValueError, match=r"sigmas is \[-0.5\]; a deviation must be 0 or above"):
        fresh_blocks(["ms"], [-0.5], [0.5], [8], images, labels)


@pytest.mark.parametrize("empty", ["kinds", "sigmas", "thresholds", "depths"])
def test_an_empty_list_is_refused_by_its_name(empty):
    images, labels = digits(4, 8)
    lists = {"kinds": ["ms"], "sigmas": [0.5], "thresholds": [0.5], "depths": [8]} | {empty: []}
    with pytest.raises(ValueError, match=f"{empty} is empty; give at least one"):
        fresh_blocks(**lists, images=images, labels=labels)
