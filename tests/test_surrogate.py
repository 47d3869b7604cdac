"""Surrogate gradients against values and backpropagation through time worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snnkit import simulate
from snnkit.neurons import IF, LIF
from snnkit.surrogate import Fire, rectangle, spike_time, triangle


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def input_gradient(net, currents, weights):
    """Gradient of sum_t weights[t] * output[t] with respect to the input currents of one image, [T]."""
    currents = currents.clone().requires_grad_()
    out = simulate(net, currents.view(-1, 1, 1), len(currents), coding=None).output
    (out.flatten() * weights).sum().backward()
    return out.detach().flatten(), currents.grad


def test_rectangle_is_one_over_its_width_up_to_half_a_width_from_the_threshold():
    membrane, threshold = tensor(-0.01, 0.0, 0.5, 1.0, 1.01), tensor(0.5)
    assert rectangle(1.0)(membrane, threshold, None).tolist() == [0, 1, 1, 1, 0]
    assert rectangle(0.5)(tensor(0.24, 0.25, 0.75, 0.76), threshold, None).tolist() == [0, 2, 2, 0]


def test_triangle_falls_from_gamma_at_the_threshold_to_zero_one_threshold_away():
    membrane, threshold = tensor(-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0), tensor(2.0)
    expected = [0, 0, 0.15, 0.3, 0.15, 0, 0]
    assert triangle(0.3)(membrane, threshold, None).tolist() == pytest.approx(expected)


def test_spike_time_decays_with_the_steps_since_the_spike_and_is_zero_before_the_first():
    since = tensor(1, 10, math.inf)
    values = spike_time(0.3, 0.01)(tensor(0.0), tensor(1.0), since)
    assert values.tolist() == pytest.approx([0.3 * math.exp(-0.01), 0.3 * math.exp(-0.1), 0.0])
    assert values[2] == 0


@pytest.mark.parametrize("make", [rectangle, triangle, spike_time])
def test_the_defaults_are_the_papers(make):
    default = {rectangle: (1.0,), triangle: (0.3,), spike_time: (0.3, 0.01)}[make]
    membrane, since = torch.linspace(-1, 3, 41), torch.linspace(1, 50, 41)
    assert torch.equal(make()(membrane, tensor(1.0), since), make(*default)(membrane, tensor(1.0), since))


@pytest.mark.parametrize(
    ("make", "arguments", "name"),
    [(rectangle, (0,), "width"), (triangle, (-0.3,), "gamma"), (spike_time, (0.0, 1.0), "alpha"),
     (spike_time, (0.3, math.nan), "beta")],
)  # fmt: skip
def test_a_parameter_that_is_not_above_zero_is_refused_by_name(make, arguments, name):
    with pytest.raises(ValueError, match=f"{name} is .*needs {name} > 0"):
        make(*arguments)


def test_fire_is_a_step_forward_and_the_given_derivative_backward():
    membrane = tensor(0.9, 1.0, 1.1).requires_grad_()
    spikes = Fire.apply(membrane, tensor(1.0), tensor(0.1, 0.2, 0.4))
    assert spikes.tolist() == [0, 1, 1]
    spikes.backward(tensor(1.0, 10.0, 100.0))
    assert membrane.grad.tolist() == pytest.approx([0.1, 2.0, 40.0])


# One LIF, leak 1/2, threshold 1, triangle 0.3, currents 0.8, 0.9, 0.7, loss s1 + 2 s2 + 4 s3.
# u1 = 0.8 (silent), u2 = 0.4 + 0.9 = 1.3 (fires); slopes 0.24 and 0.21.
#   reset to zero:  u3 = 0.7,                  slope 0.21, g3 = 0.84, g2 = 0.42 (path cut), g1 = 0.24 + g2/2
#   subtraction:    u3 = 0.3 / 2 + 0.7 = 0.85, slope 0.255, g3 = 1.02, g2 = 0.42 + g3/2, g1 = 0.24 + g2/2
@pytest.mark.parametrize(("reset", "expected"), [("zero", [0.45, 0.42, 0.84]), ("subtract", [0.705, 0.93, 1.02])])
def test_bptt_over_three_steps_by_hand_with_the_reset_detached(reset, expected):
    neuron = LIF(leak=0.5, threshold=1.0, reset=reset, surrogate=triangle(0.3))
    spikes, gradient = input_gradient(neuron, tensor(0.8, 0.9, 0.7), tensor(1, 2, 4))
    assert spikes.tolist() == [0, 1, 0]
    assert gradient.tolist() == pytest.approx(expected)


def test_spike_time_counts_from_the_spike_before_this_step():
    # spikes at steps 2 and 4; dt is taken before the update: infinite, infinite, 1, 2, 1
    neuron = IF(surrogate=spike_time(0.3, 0.5))
    slopes = [0, 0, 0.3 * math.exp(-0.5), 0.3 * math.exp(-1), 0.3 * math.exp(-0.5)]
    spikes, gradient = input_gradient(neuron, tensor(0.5, 0.5, 0.5, 0.5, 0.5), tensor(1, 1, 1, 1, 1))
    assert spikes.tolist() == [0, 1, 0, 1, 0]
    # a reset to zero cuts the path: step 1 reaches the spike of step 2 only, step 3 that of step 4
    expected = [slopes[0] + slopes[1], slopes[1], slopes[2] + slopes[3], slopes[3], slopes[4]]
    assert gradient.tolist() == pytest.approx(expected)


def test_a_neuron_that_never_fired_gets_no_gradient_from_spike_time():
    spikes, gradient = input_gradient(IF(surrogate=spike_time()), tensor(0.2, 0.2, 0.2), tensor(1, 1, 1))
    assert spikes.tolist() == [0, 0, 0]
    assert gradient.tolist() == [0, 0, 0]
    _, reached = input_gradient(IF(surrogate=triangle()), tensor(0.2, 0.2, 0.2), tensor(1, 1, 1))
    assert (reached > 0).all()  # the triangle does reach it


def test_without_a_surrogate_no_gradient_passes():
    currents = tensor(1.0, 1.0).view(2, 1, 1).requires_grad_()
    assert not simulate(IF(), currents, 2, coding=None).output.requires_grad


def chain_by_hand(currents, weight, leaks, reset, gamma, loss_weights):
    """Two neurons in a row in plain Python: spikes of the second, gradient with respect to the currents."""
    steps, traces, inputs = range(len(currents)), [], list(currents)
    for leak in leaks:
        membrane, slopes, keeps, spikes = 0.0, [], [], []
        for current in inputs:
            membrane = leak * membrane + current
            fired = membrane >= 1
            slopes.append(gamma * max(0.0, 1 - abs(membrane - 1)))
            keeps.append(0.0 if fired and reset == "zero" else 1.0)
            spikes.append(float(fired))
            if fired:
                membrane = 0.0 if reset == "zero" else membrane - 1
        traces.append((leak, slopes, keeps))
        inputs = [weight * spike for spike in spikes]
    gradient = list(loss_weights)
    for depth, (leak, slopes, keeps) in enumerate(reversed(traces)):
        later, reached = 0.0, [0.0 for _ in steps]
        for t in reversed(steps):
            later = gradient[t] * slopes[t] + leak * keeps[t] * later
            reached[t] = later
        gradient = reached if depth == len(leaks) - 1 else [weight * g for g in reached]
    return spikes, gradient


@given(
    currents=st.lists(st.integers(-8, 16).map(lambda n: n / 8), min_size=1, max_size=8),
    reset=st.sampled_from(["zero", "subtract"]),
    leaks=st.tuples(st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([0.25, 0.5, 1.0])),
)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_bptt_through_a_chain_of_two_neurons_equals_plain_python(currents, reset, leaks):
    first, second = (LIF(leak, 1.0, reset, triangle(0.3)) for leak in leaks)
    link = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(link.weight, 0.75)
    weights = tensor(*range(1, len(currents) + 1))
    spikes, gradient = input_gradient(nn.Sequential(first, link, second), tensor(*currents), weights)
    slow_spikes, slow_gradient = chain_by_hand(currents, 0.75, leaks, reset, 0.3, weights.tolist())
    assert spikes.tolist() == slow_spikes
    assert gradient.tolist() == pytest.approx(slow_gradient, abs=1e-12)
