"""What blocks change: the closed form of MS eqs. 7-8, blocks that change nothing, half or a known share, SSIM."""

import math

import pytest
import torch

from snnkit import models, simulate
from snnkit.firing import change_probability, changed, rates_by_stage, similarity, spike_trains
from snnkit.residual import set_gains


def deep_net(kind, second, depth=20, **options):
    torch.manual_seed(0)
    return set_gains(models.build(f"{kind}-resnet{depth}", num_classes=3, in_channels=1, **options), 0.5, second)


def pictures(count=8):
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_a_sigma_of_the_threshold_changes_16_percent_at_any_rate(rate):
    assert change_probability(0.5, 0.5, rate) == pytest.approx(0.1587, abs=1e-4)


@pytest.mark.parametrize(("sigma", "threshold", "rate"), [(0.3, 0.5, 0.2), (1.0, 0.7, 0.4), (0.5, 1.5, 0.1)])
def test_the_closed_form_is_the_share_in_a_simulation(sigma, threshold, rate):
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(400_000, generator=generator) < rate).double()
    after = (spikes + sigma * torch.randn(400_000, generator=generator).double() > threshold).double()
    share = (after != spikes).double().mean().item()
    assert change_probability(sigma, threshold, rate) == pytest.approx(share, abs=0.003)


@pytest.mark.parametrize("values", [(0.0, 0.5, 0.2), (0.5, -1.0, 0.2), (0.5, 0.5, 1.2)])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=r"must (be above 0|lie in \[0, 1\])"):
        change_probability(*values)


def test_blocks_at_gain_zero_change_no_state_and_no_map():
    trains = spike_trains(deep_net("vanilla", 0.0), pictures(), 1)
    assert list(trains) == [str(place) for place in range(10)]
    assert {tuple(train.shape) for train in trains.values()} == {
        (1, 8, c, s, s) for c, s in ((16, 32), (32, 16), (64, 8))
    }
    assert list(changed(trains)) == ["1", "2", "3", "5", "6", "8", "9"]  # those in between halve the map
    assert set(changed(trains).values()) == {0.0}
    assert set(similarity(trains).values()) == {1.0}


def test_blocks_at_the_papers_gain_change_the_papers_share():
    shares = changed(spike_trains(deep_net("vanilla", 0.5), pictures(), 1))
    assert all(abs(share - 0.16) < 0.03 for share in shares.values())


@pytest.mark.parametrize("kind", ["plain", "vanilla", "ms"])
def test_trains_are_what_stands_between_the_blocks(kind):
    net, images = deep_net(kind, 0.5, depth=8, width=0.25).eval(), pictures(2)
    trains = spike_trains(net, images, 3)
    assert list(trains) == ["0", "1", "2", "3"]
    before = net.blocks[0].path.lif1 if kind == "ms" else net.stem[-1]
    after = net.lif if kind == "ms" else net.blocks[-1].lif
    for site, train in ((before, trains["0"]), (after, trains["3"])):
        seen = []
        handle = site.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        with torch.no_grad():
            simulate(net, images, 3, coding="constant", chunk=3)
        handle.remove()
        assert torch.equal(seen[0].unflatten(0, (3, 2)), train)
    assert not any(module._forward_hooks for module in net.modules())


def test_similarity_is_one_for_equal_maps_low_for_others_and_nan_for_small_ones():
    generator = torch.Generator().manual_seed(0)
    maps = (torch.rand(4, 2, 3, 8, 8, generator=generator) < 0.3).float()
    other = (torch.rand(4, 2, 3, 8, 8, generator=generator) < 0.3).float()
    found = similarity({"0": maps, "1": maps, "2": other})
    assert found["1"] == pytest.approx(1.0)
    assert found["2"] < 0.3
    assert math.isnan(similarity({"0": maps[..., :4, :4], "1": maps[..., :4, :4]})["1"])


def test_rates_are_gathered_by_stage_and_position():
    net = deep_net("ms", 0.5, depth=14, width=1 / 64)  # one channel in every stage
    rates = {f"blocks.{place}.path.lif{n}": 0.1 * place + 0.01 * n for place in range(6) for n in (1, 2)}
    found = rates_by_stage(net, rates)
    assert found["lif1"] == pytest.approx({1: 0.06, 2: 0.26, 3: 0.46})
    assert found["lif2"] == pytest.approx({1: 0.07, 2: 0.27, 3: 0.47})
    with torch.no_grad():
        assert set(rates_by_stage(net, simulate(net, pictures(2), 2, coding="constant").rates)) == {"lif1", "lif2"}


def test_a_net_whose_blocks_pass_on_no_spikes_is_refused():
    with pytest.raises(ValueError, match=r"blocks of sr-b-resnet8 pass on no spikes; give a plain, vanilla or ms net"):
        spike_trains(deep_net("sr-b", 0.5, depth=8), pictures(2), 2)
