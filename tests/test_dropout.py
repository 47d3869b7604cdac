"""Dropout with one byte an element, and the mask that a spiking net holds over time."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from snnkit import simulate
from snnkit.dropout import Dropout, HeldDropout, dropout_mask

FALSE_ALARM = 1e-6  # chance that a statistical test fails on correct code with a fresh seed


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_mask_drops_with_probability_p_to_one_in_256_and_keeps_the_mean_exactly(p):
    mask = dropout_mask(torch.empty(100_000), p)
    dropped = round(256 * p) / 256
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - dropped)])
    assert binomtest(int((mask == 0).sum()), mask.numel(), dropped).pvalue > FALSE_ALARM / 4


def test_mask_elements_are_independent():
    # at p = 1/2, "dropped like the k-th next one" is a fair coin, thrown afresh for every element
    dropped = (dropout_mask(torch.empty(50_000), 0.5) == 0).numpy()
    for lag in (1, 2, 4, 7, 8):  # eight elements share one random word
        agree = int((dropped[lag:] == dropped[:-lag]).sum())
        assert binomtest(agree, len(dropped) - lag, 0.5).pvalue > FALSE_ALARM / 5


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 4, 4), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mask_has_shape_and_dtype_of_its_model(shape, dtype):
    mask = dropout_mask(torch.empty(shape, dtype=dtype), 0.3)
    assert mask.shape == shape
    assert mask.dtype == dtype


def test_no_dropout_is_the_identity():
    assert torch.equal(dropout_mask(torch.empty(1000), 0.0), torch.ones(1000))


def test_dropout_acts_in_training_only_and_afresh_at_every_call():
    layer, x = Dropout(0.5), torch.rand(400) + 0.5
    once, again = layer(x), layer(x)
    assert not torch.equal(once, again)
    kept = once != 0
    assert torch.equal(once[kept], 2 * x[kept])
    assert torch.equal(layer.eval()(x), x)


def test_gradient_passes_through_the_kept_elements_only():
    x = torch.ones(400, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("make", [Dropout, HeldDropout])
@pytest.mark.parametrize("p", [-0.1, 1.0, 0.999, float("nan")])
def test_a_probability_that_leaves_nothing_is_refused(make, p):
    with pytest.raises(ValueError, match=r"dropout is .*must lie in \[0, 0\.998\)"):
        make(p)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_held_mask_is_one_mask_for_all_steps_of_a_presentation(chunk):
    layer = HeldDropout(0.5)
    ones = torch.ones(7, 2, 50)
    out = simulate(layer, ones, 7, coding=None, chunk=chunk).output
    assert all(torch.equal(step, out[0]) for step in out)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(out[0, 0], out[0, 1])  # every image has its own


def test_held_mask_is_new_for_the_next_presentation():
    layer, ones = HeldDropout(0.5), torch.ones(2, 1, 64)
    masks = np.stack([simulate(layer, ones, 2, coding=None).output[0, 0].numpy() for _ in range(4)])
    assert len(np.unique(masks, axis=0)) == 4


def test_held_dropout_does_nothing_in_eval_mode():
    x = torch.rand(3, 2, 5)
    assert torch.equal(simulate(HeldDropout(0.5).eval(), x, 3, coding=None).output, x)


def test_held_dropout_outside_of_a_simulation_is_refused_while_training():
    with pytest.raises(RuntimeError, match=r"HeldDropout layer .*outside of a simulation"):
        HeldDropout(0.5)(torch.ones(2, 3))


def test_held_masks_are_not_saved():
    layer = HeldDropout(0.5)
    net = nn.Sequential(layer, nn.Linear(4, 2, bias=False))
    simulate(net, torch.ones(2, 1, 4), 2, coding=None)
    assert set(net.state_dict()) == {"1.weight"}
