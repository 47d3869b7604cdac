"""The loss surface: directions as they are defined, a paraboloid that is known, and runs that are cut."""

import math

import pytest
import torch
from torch import nn

from snnkit.landscape import directions, landscape
from snnkit.neurons import LIF
from snnkit.surrogate import triangle

ALPHAS, BETAS = [-1.0, 0.0, 0.5], [-0.5, 0.0, 1.0, 2.0]


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()


def half_squares(net):
    return lambda: sum(p.square().sum() for p in net.parameters() if p.dim() > 1).item() / 2


def test_directions_have_the_norm_of_each_filter_and_are_orthogonal():
    net = small_net()
    first, second = directions(net)
    assert list(first) == list(second) == ["0.weight", "3.weight"]
    for name in first:
        weight = dict(net.named_parameters())[name].detach().flatten(1)
        one, other = first[name].flatten(1), second[name].flatten(1)
        torch.testing.assert_close(one.norm(dim=1), weight.norm(dim=1))
        torch.testing.assert_close(other.norm(dim=1), weight.norm(dim=1))
        assert (one * other).sum(1).abs().max() < 1e-6 * weight.norm() ** 2
    assert not torch.equal(first["3.weight"], directions(net, seed=1)[0]["3.weight"])
    assert torch.equal(first["3.weight"], directions(net)[0]["3.weight"])


def test_a_filter_of_a_single_weight_has_one_direction_only():
    first, second = directions(nn.Linear(1, 3))
    assert first["weight"].abs().min() > 0
    assert second["weight"].abs().max() == 0


def test_half_the_squares_of_the_weights_are_a_paraboloid():
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = landscape(net, half_squares(net), ALPHAS, BETAS)
    weights = torch.cat([p.detach().flatten() for p in net.parameters() if p.dim() > 1])
    one, other = (torch.cat([step.flatten() for step in direction.values()]) for direction in directions(net))
    for row, alpha in enumerate(ALPHAS):
        for column, beta in enumerate(BETAS):
            exact = (weights.dot(weights) * (1 + alpha**2 + beta**2)) / 2
            exact += alpha * weights.dot(one) + beta * weights.dot(other)
            assert found[row, column].item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_run_that_was_cut_goes_on_where_it_stopped(tmp_path):
    net, calls = small_net(), []
    whole = landscape(net, half_squares(net), ALPHAS, BETAS)

    def cut():
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return half_squares(net)()

    with pytest.raises(KeyboardInterrupt):
        landscape(net, cut, ALPHAS, BETAS, folder=tmp_path)
    assert landscape(net, half_squares(net), [0.0], [0.0]).item() == pytest.approx(half_squares(net)())  # as it was
    assert torch.equal(landscape(net, cut, ALPHAS, BETAS, folder=tmp_path), whole)
    assert len(calls) == 6 + (12 - 5)
    assert torch.equal(landscape(net, cut, ALPHAS, BETAS, folder=tmp_path), whole)
    assert len(calls) == 13


def test_another_net_loss_grid_or_seed_has_a_file_of_its_own(tmp_path):
    net = small_net()

    def files(alphas=(0.0,), betas=(0.0,), **options):
        landscape(net, half_squares(net), alphas, betas, folder=tmp_path, **options)
        return len([*tmp_path.iterdir()])

    assert files() == 1 == files()
    assert files(seed=1) == 2
    assert files(what="other images") == 3
    assert files(alphas=torch.tensor([0.10001]).double()) == 4
    assert files(alphas=torch.tensor([0.10003]).double()) == 5, "steps that differ a little are other steps"
    assert files(betas=(0.0, 1.0)) == 6
    for n, change in enumerate((net[0].weight, net[1].weight, net[1].running_mean), 7):
        with torch.no_grad():
            change += 1
        assert files() == n


@pytest.mark.parametrize("content", [b"no landscape", torch.zeros(2, 1), {"values": 1}])
def test_a_file_that_holds_no_such_values_is_refused(tmp_path, content):
    net = small_net()
    landscape(net, half_squares(net), [0.0], [0.0], folder=tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(ValueError, match=r"holds no such landscape \(.*\); delete it"):
        landscape(net, half_squares(net), [0.0], [0.0], folder=tmp_path)


def test_a_net_in_training_mode_is_given_back_with_its_statistics():
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = landscape(net, lambda: net(torch.ones(2, 2, 4, 4).double()).square().sum().item(), [0.0, 0.0], [0.0])
    assert found[0] == found[1]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_thresholds_that_learn_stay_where_they_are():
    net = nn.Sequential(nn.Linear(4, 3), LIF(0.9, torch.full((3, 1), 0.5), "zero", triangle(), ["threshold"]))
    assert list(directions(net)[0]) == ["0.weight"]


def test_half_precision_weights_are_marked_too(tmp_path):
    net = nn.Linear(4, 3).bfloat16()
    assert landscape(net, lambda: 1.0, [0.0], [0.0], folder=tmp_path).item() == 1


def test_a_loss_that_is_no_number_is_infinite():
    assert landscape(small_net(), lambda: math.nan, [0.0], [0.0]).item() == math.inf
