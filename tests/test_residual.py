"""Spiking residual nets: sizes of the papers' tables, every block against its equation step by step, recomputation."""

import copy
import re

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet34

from snnkit import energy, models, simulate
from snnkit.neurons import LIF
from snnkit.residual import KINDS, MSLIF, Block, set_gains


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def norms_of(net):
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_size_of_depth_20_is_the_papers():
    net = models.build("ms-resnet20")
    assert parameters(net) == pytest.approx(0.27e6, rel=0.03)  # MS Table IV
    weighted = [
        m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d) and getattr(m, "kernel_size", 3) != (1, 1)
    ]
    assert len(weighted) == 20
    lifs = [m for m in net.modules() if isinstance(m, LIF)]
    assert len(lifs) == 2 * 9 + 1
    assert {(lif.leak, float(lif.threshold), lif.reset) for lif in lifs} == {(0.25, 0.5, "zero")}
    assert sorted({float(norm.weight[0].detach()) for norm in norms_of(net)}) == [0.0, 0.5]
    assert sum(float(norm.weight[0].detach()) == 0 for norm in norms_of(net)) == 9


@pytest.mark.parametrize(
    ("kind", "neurons", "at_zero"),
    [
        ("plain", 19, 0),
        ("vanilla", 19, 9),
        ("no-interblock-lif", 11, 9),
        ("ms", 19, 9),
        ("sr-b", 19, 0),
        ("sr-c", 20, 0),
    ],
)
def test_kinds_differ_in_their_neurons_and_gains_only(kind, neurons, at_zero):
    net = models.build(f"{kind}-resnet20")
    assert sum(isinstance(module, LIF) for module in net.modules()) == neurons
    assert sum(float(norm.weight[0].detach()) == 0 for norm in norms_of(net)) == at_zero
    without_norms = parameters(net) - sum(map(parameters, norms_of(net)))
    shortcuts = 0 if kind == "plain" else 16 * 32 + 32 * 64
    assert without_norms == 27 * 16 + 9 * (16**2 * 6 + 16 * 32 + 32**2 * 5 + 32 * 64 + 64**2 * 5) + 650 + shortcuts
    with torch.no_grad():
        assert simulate(net.eval(), torch.rand(2, 3, 32, 32), 2, coding="constant").output.shape == (2, 2, 10)


@pytest.mark.parametrize(("depth", "blocks"), [(8, 3), (14, 6), (32, 15), (44, 21), (56, 27), (110, 54), (482, 240)])
def test_depth_counts_layers_of_weights(depth, blocks):
    assert len(models.build(f"ms-resnet{depth}", width=0.1).blocks) == blocks


@pytest.mark.parametrize(("depth", "plain", "gigas"), [(18, resnet18, None), (34, resnet34, 3.53), (104, None, 11.62)])
def test_imagenet_nets_are_the_known_ones_without_the_max_pool(depth, plain, gigas):
    net = models.build(f"ms-resnet{depth}", num_classes=1000).eval()
    if plain:  # torchvision's, and a 1x1 shortcut in the first stage instead of the pool
        assert parameters(net) == parameters(plain()) + 64 * 64 + 2 * 64
    rows = energy.account(net, torch.zeros(1, 3, 224, 224), 1).rows
    paths = sum(row.macs for row in rows if ".path." in row.layer) / 1e9
    if gigas:  # MS Table V prints 3.53 G; for 104 layers it prints 11.79 G, and does not say what that takes in
        assert round(paths, 2) == gigas
    sizes = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert simulate(net, torch.rand(1, 3, 224, 224), 1, coding="constant").output.shape == (1, 1, 1000)
    assert list(dict.fromkeys(sizes)) == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert sum(isinstance(module, nn.AvgPool2d) for module in net.modules()) == (4 if depth == 104 else 0)
    assert [m.kernel_size for m in net.stem if isinstance(m, nn.Conv2d)] == ([(3, 3)] * 3 if depth == 104 else [(7, 7)])


# --- blocks, step by step ---


def fire(currents):
    """Spikes [T, ...] of MS eqs. 1 and 2 for currents [T, ...], in the plainest words."""
    membrane = spikes = torch.zeros_like(currents[0])
    train = []
    for current in currents:
        membrane = 0.25 * membrane * (1 - spikes) + current
        spikes = (membrane >= 0.5).to(current.dtype)
        train.append(spikes)
    return torch.stack(train)


def by_hand(kind, path, shortcut, x):
    def each(layer):
        return lambda train: torch.stack([layer(step) for step in train])

    layers = ("conv1", "bn1", "conv2", "bn2")
    c1, b1, c2, b2 = (each(getattr(path, name)) for name in layers)
    way = each(shortcut or nn.Identity())
    return {
        "plain": lambda: fire(b2(c2(fire(b1(c1(x)))))),
        "vanilla": lambda: fire(b2(c2(fire(b1(c1(x))))) + way(x)),
        "no-interblock-lif": lambda: b2(c2(fire(b1(c1(x))))) + way(x),
        "ms": lambda: b2(c2(fire(b1(c1(fire(x)))))) + way(x),
        "sr-b": lambda: c2(fire(b2(c1(fire(b1(x)))))) + way(x),
        "sr-c": lambda: fire(b2(c2(fire(b1(c1(x)))))) + way(x),
    }[kind]()


@pytest.mark.parametrize(("outputs", "stride", "pooled"), [(2, 1, False), (4, 2, False), (4, 2, True)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_block_is_its_equation_step_by_step(kind, outputs, stride, pooled):
    torch.manual_seed(0)
    block = Block(KINDS[kind], 2, outputs, stride, MSLIF, pooled).double().eval()
    for norm in norms_of(block):
        for values in (norm.weight, norm.running_var):
            values.uniform_(0.5, 1.5)
        norm.bias.normal_()
    x = 2 * torch.randn(5, 3, 2, 6, 6).double()  # [T, B, C, H, W]
    out = simulate(block, x, 5, coding=None).output
    assert out.shape == (5, 3, outputs, 6 // stride, 6 // stride)
    torch.testing.assert_close(out, by_hand(kind, block.path, block.shortcut, x), rtol=0, atol=1e-12)
    assert (out != out[0]).any()  # membranes remember


def test_a_fresh_ms_block_passes_its_input_on():
    block, x = Block(KINDS["ms"], 3, 3, 1, MSLIF).eval(), torch.randn(2, 1, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(simulate(block, x, 2, coding=None).output, x)


def test_batch_norm_averages_over_batch_time_and_space():
    block = Block(KINDS["plain"], 1, 1, 1, MSLIF)
    x = torch.randn(3, 2, 1, 4, 4)
    simulate(block, x, 3, coding=None)
    currents = torch.cat([block.path.conv1(step) for step in x])
    torch.testing.assert_close(block.path.bn1.running_mean, 0.1 * currents.mean((0, 2, 3)))


def test_gains_are_set_in_every_block():
    net = set_gains(models.build("vanilla-resnet8"), 0.25, 0.75)
    assert [norm.weight[0].item() for norm in norms_of(net.blocks[0])] == [0.25, 0.75]
    assert {block.path.bn2.weight.min().item() for block in net.blocks} == {0.75}


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient_over_all_steps(kind):
    torch.manual_seed(0)
    net = set_gains(models.build(f"{kind}-resnet8", width=0.5, num_classes=3, in_channels=1), 0.5, 0.5)
    output = simulate(net, torch.rand(4, 1, 16, 16), 3, coding="constant").output
    assert output.shape == (3, 4, 3)
    output.mean(0).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_kind_runs_in_every_precision_nearly_alike(kind, precision):
    torch.manual_seed(0)
    net = set_gains(models.build(f"{kind}-resnet8", num_classes=3), 0.5, 0.5)
    images = torch.rand(4, 3, 32, 32)
    for _ in range(20):
        simulate(net.train(), images, 2, coding="constant")  # statistics for the batch-norms
    exact, rough = (simulate(net.eval(), images, 3, coding="constant", precision=p) for p in ("fp32", precision))
    assert rough.rates == pytest.approx(exact.rates, rel=0.1, abs=0.01)


def test_pooled_shortcuts_take_odd_maps():
    block = Block(KINDS["ms"], 2, 4, 2, MSLIF, pooled=True).eval()
    with torch.no_grad():
        assert simulate(block, torch.randn(1, 1, 2, 5, 5), 1, coding=None).output.shape == (1, 1, 4, 3, 3)


def test_dropout_before_the_classifier_is_held_over_time():
    net = models.build("ms-resnet8", width=0.5, dropout=0.5).eval()
    kept, steps = net.dropout.train(), []
    net.fc.register_forward_pre_hook(lambda module, inputs: steps.append(inputs[0]))
    net.lif.register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    with torch.no_grad():
        simulate(net, torch.rand(2, 3, 32, 32), 4, coding="constant", chunk=4)
    seen = steps[0].unflatten(0, (4, 2))
    assert kept.p == 0.5
    assert sorted(seen.unique().tolist()) == [0.0, 2.0]
    assert (seen == seen[0]).all()


# --- recomputation ---


@pytest.mark.parametrize("kind", ["vanilla", "ms"])
def test_blocks_run_twice_for_the_same_gradients_and_statistics(kind):
    torch.manual_seed(0)
    net = set_gains(models.build(f"{kind}-resnet14", width=0.5, num_classes=3, in_channels=1), 0.5, 0.5).double()
    images, found = torch.rand(4, 1, 16, 16).double(), []
    for recompute in (False, True):
        one, calls = copy.deepcopy(net), []
        one.blocks[2].path.conv1.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        out = simulate(one, images, 3, coding="constant", recompute=recompute)
        out.output.mean(0).logsumexp(1).sum().backward()
        assert len(calls) == (2 if recompute else 1)
        found.append(([p.grad for p in one.parameters()], out.output, [*one.buffers()], out.rates))
        assert "forward" not in vars(one.blocks[0])  # nothing stays behind
    remembered, recomputed = found
    assert all(gradient.abs().max() > 0 for gradient in remembered[0])
    torch.testing.assert_close(recomputed[0], remembered[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(recomputed[1], remembered[1])
    assert all(map(torch.equal, recomputed[2], remembered[2]))
    assert recomputed[3] == remembered[3]


class Twice(nn.Module):
    """A block that is called twice in a pass, or lies within another that forgets."""

    def __init__(self, block, times):
        super().__init__()
        self.block, self.times, self.forgettable = block, times, times == 1

    def forward(self, x):
        for _ in range(self.times):
            x = self.block(x)
        return x


def test_a_block_that_is_called_twice_is_refused_when_it_forgets_too():
    net = Twice(Block(KINDS["ms"], 2, 2, 1, MSLIF), 2)
    for recompute in (False, True):
        with pytest.raises(RuntimeError, match="was called twice in one pass"):
            simulate(net, torch.randn(2, 1, 2, 6, 6), 2, coding=None, recompute=recompute)


def test_of_nested_blocks_the_outer_one_forgets():
    net = Twice(Block(KINDS["ms"], 2, 2, 1, MSLIF), 1)
    simulate(net, torch.randn(2, 1, 2, 6, 6), 2, coding=None, recompute=True).output.sum().backward()
    assert net.block.path.conv1.weight.grad is not None


def test_a_failing_second_run_leaves_the_statistics_alone():
    block = Block(KINDS["ms"], 2, 2, 1, MSLIF)
    out = simulate(block, torch.randn(2, 1, 2, 6, 6), 2, coding=None, recompute=True).output

    def fail(module, inputs):
        raise KeyboardInterrupt

    block.path.conv2.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        out.sum().backward()
    assert [int(norm.num_batches_tracked) for norm in norms_of(block)] == [1, 1]
    assert {norm.momentum for norm in norms_of(block)} == {0.1}


@pytest.mark.parametrize("name", ["ms-resnet2", "vanilla-resnet21"])
def test_a_depth_that_is_not_six_n_plus_two_is_refused(name):
    with pytest.raises(ValueError, match=r"a depth must be 6 n \+ 2"):
        models.build(name)


def test_an_unknown_kind_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=re.escape("sr-c-resnet20 (or any depth 6 n + 2)")):
        models.build("sr-d-resnet20")
