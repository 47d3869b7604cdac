"""The fast scan against `neurons.step`, one call a step: spikes, states, gradients, whatever the tiles and layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnkit import scan as scans
from snnkit.neurons import step
from snnkit.scan import Dynamics, State, scan
from snnkit.surrogate import rectangle, spike_time, triangle

SURROGATES = {"none": None, "rectangle": rectangle(0.75), "triangle": triangle(0.3), "spike time": spike_time(0.3, 0.5)}


def steps(currents, state, dynamics):
    """The definition: a `step` at a time, gradients by autograd."""
    train = []
    for current in currents:
        spikes, state = step(current, state, *dynamics)
        train.append(spikes)
    return torch.stack(train), state, float(torch.stack(train).detach().sum()), None


def drive(shape, steps=7, dtype=torch.float64, seed=0, channels_last=False):
    """Currents [T, B, ...] around the threshold 1, and a state that has been through something."""
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, *shape, generator=generator, dtype=dtype) * 0.6 + 0.3
    membrane = torch.randn(*shape, generator=generator, dtype=dtype) * 0.3
    since = torch.randint(1, 4, shape, generator=generator).to(dtype)
    if channels_last:
        currents = currents.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (steps, -1))
    return currents, State(membrane, since)


def gradients(run, currents, state, dynamics):
    """What `run` returns, and the gradients of a weighted sum of its spikes and membranes: of currents, membrane, leak
    and threshold.
    """
    currents, membrane = currents.clone().requires_grad_(), state.membrane.clone().requires_grad_()
    threshold = dynamics.threshold.clone().requires_grad_()
    leak = torch.tensor(dynamics.leak, dtype=membrane.dtype, requires_grad=True)
    dynamics = dynamics._replace(leak=leak, threshold=threshold)
    train, after, count, _ = run(currents, State(membrane, state.since_spike), dynamics)
    weights = torch.arange(train.numel(), dtype=train.dtype).view(train.shape).sin()
    ((train * weights).sum() + (after.membrane * weights[0]).sum()).backward()
    return train.detach(), after, float(count), currents.grad, membrane.grad, leak.grad, threshold.grad


@given(
    shape=st.sampled_from([(1, 1), (2, 5), (2, 3, 4, 2), (1, 4, 1, 3), (3, 2, 5)]),
    channels_last=st.booleans(),
    tile=st.sampled_from([1, 3, 7, 2**18]),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    leak=st.sampled_from([0.25, 0.9, 1.0]),
    reset=st.sampled_from(["zero", "subtract"]),
    own_thresholds=st.booleans(),
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_the_scan_is_the_definition_bit_for_bit_and_so_is_its_gradient(
    shape, channels_last, tile, surrogate, leak, reset, own_thresholds
):
    currents, state = drive(shape, channels_last=channels_last and len(shape) == 4)
    threshold = torch.rand(shape[1:], dtype=torch.float64) + 0.5 if own_thresholds else torch.tensor(1.0).double()
    dynamics = Dynamics(leak, threshold, reset, SURROGATES[surrogate])
    before, size = state.membrane.clone(), scans.TILE
    try:
        scans.TILE = tile
        with torch.no_grad():
            plain, after, count, _ = scan(currents, state, dynamics)
        expected, expected_after, expected_count, _ = steps(currents, state, dynamics._replace(surrogate=None))
        assert torch.equal(plain, expected)
        assert torch.equal(after.membrane, expected_after.membrane)
        assert count == expected_count
        assert torch.equal(state.membrane, before)  # what came in is left alone
        if dynamics.surrogate:
            found, wanted = (gradients(run, currents, state, dynamics) for run in (scan, steps))
            assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1].membrane, wanted[1].membrane)
            assert torch.equal(found[1].since_spike, wanted[1].since_spike)
            assert found[2] == wanted[2]
            for gradient, reference in zip(found[3:], wanted[3:], strict=True):
                assert torch.allclose(gradient, reference, rtol=1e-12, atol=1e-14)
    finally:
        scans.TILE = size


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_spikes_come_in_the_dtype_that_was_asked_for(dtype):
    currents, state = drive((2, 3, 4, 4), dtype=torch.float32, channels_last=True)
    dynamics = Dynamics(1.0, torch.tensor(1.0), "subtract")
    narrow, after, count, _ = scan(currents, state, dynamics, dtype)
    wide, expected, expected_count, _ = steps(currents, state, dynamics)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.float(), wide)
    assert torch.equal(after.membrane, expected.membrane)
    assert count == expected_count


def test_bfloat16_currents_meet_float32_membranes_forward_and_backward():
    currents, state = drive((2, 6), dtype=torch.float32)
    currents, dynamics = currents.bfloat16(), Dynamics(0.5, torch.tensor(1.0), "zero", rectangle())
    found = gradients(scan, currents, state, dynamics)
    wanted = gradients(steps, currents.float(), state, dynamics)
    assert found[0].dtype == found[3].dtype == torch.bfloat16
    assert torch.equal(found[0].float(), wanted[0])
    weights = torch.arange(found[0].numel()).view(found[0].shape).sin()
    assert (found[3].float() - wanted[3]).abs().max() < 0.02 * weights.abs().max() * 3  # weights are rounded too


def test_neurons_are_scanned_where_they_lie():
    """Spikes of a channels-last layer are channels-last: the next convolution needs no copy."""
    currents, state = drive((2, 3, 4, 4), dtype=torch.float32, channels_last=True)
    train, *_ = scan(currents, state, Dynamics(1.0, torch.tensor(1.0), "zero"))
    assert train.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    train, *_ = scan(currents.contiguous(), state, Dynamics(1.0, torch.tensor(1.0), "zero"))
    assert train.is_contiguous()


@pytest.mark.parametrize(("surrogate", "bytes_a_step"), [(rectangle(), 1), (triangle(), 4 + 4)])
def test_what_is_kept_for_the_backward_pass(surrogate, bytes_a_step):
    """A window costs a byte a neuron and step, in which the spikes are; another surrogate its slope, and the spikes."""
    currents, state = drive((2, 50), dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        dynamics = Dynamics(1.0, torch.tensor(1.0), "zero", surrogate)
        scan(currents.requires_grad_(), State(state.membrane), dynamics)
    assert sum(kept) == bytes_a_step * currents.numel()
