"""IF and LIF against traces by hand and against a plain double loop over steps and neurons."""

import copy
import io
import math
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snnkit import simulate
from snnkit.neurons import IF, LIF, TRAINABLE, Presentation, presenting, step
from snnkit.scan import Dynamics, State, scan
from snnkit.surrogate import rectangle, spike_time, triangle


def run(neuron, currents):
    """Spikes [T, N] of one image for input currents [T, N], through `simulate`."""
    train = torch.as_tensor(currents, dtype=torch.float64).unsqueeze(1)
    return simulate(neuron, train, len(train), coding=None).output.squeeze(1)


def trace(currents, leak, threshold, reset):
    """One neuron, one `step` at a time: the list of (spike, membrane after the reset)."""
    state, seen = State(torch.zeros(1, dtype=torch.float64)), []
    for current in currents:
        spike, state = step(torch.tensor([current], dtype=torch.float64), state, leak, threshold, reset)
        seen.append((spike.item(), state.membrane.item()))
    return seen


def slow(currents, leak, threshold, reset):
    """The definition, neuron by neuron and step by step: spikes, membranes and steps since the latest spike."""
    spikes, membranes, since_spike = [], [], []
    for neuron in zip(*currents, strict=True):
        membrane, since, fired, after, waited = 0.0, math.inf, [], [], []
        for current in neuron:
            membrane = leak * membrane + current
            spike = membrane >= threshold
            if spike:
                membrane = 0.0 if reset == "zero" else membrane - threshold
            since = 1.0 if spike else since + 1
            fired.append(float(spike))
            after.append(membrane)
            waited.append(since)
        spikes.append(fired)
        membranes.append(after)
        since_spike.append(waited)
    return [[list(row) for row in zip(*columns, strict=True)] for columns in (spikes, membranes, since_spike)]


# by hand: currents 0.5 0.5 1.75 0.25 -0.5 1.25, threshold 1; a membrane of exactly 1 fires
@pytest.mark.parametrize(
    ("leak", "reset", "spikes", "membranes"),
    [
        (1.0, "zero", [0, 1, 1, 0, 0, 1], [0.5, 0, 0, 0.25, -0.25, 0]),
        (1.0, "subtract", [0, 1, 1, 1, 0, 0], [0.5, 0, 0.75, 0, -0.5, 0.75]),
        (0.5, "zero", [0, 0, 1, 0, 0, 1], [0.5, 0.75, 0, 0.25, -0.375, 0]),
        (0.5, "subtract", [0, 0, 1, 0, 0, 1], [0.5, 0.75, 1.125, 0.8125, -0.09375, 0.203125]),
    ],
)
def test_trace_by_hand(leak, reset, spikes, membranes):
    currents = [0.5, 0.5, 1.75, 0.25, -0.5, 1.25]
    assert trace(currents, leak, 1.0, reset) == list(zip(spikes, membranes, strict=True))
    neuron = LIF(leak, 1.0, reset)
    assert run(neuron, [[c] for c in currents]).flatten().tolist() == spikes


def test_the_lif_of_ms_resnet_by_hand():
    # leak 0.25, threshold 0.5, hard reset: u = 0.4, 0.1 + 0.4 = 0.5 (fires), 0.4, 0.1 + 0.3 = 0.4, 0.1 + 0.4 = 0.5
    neuron = LIF(leak=0.25, threshold=0.5, reset="zero")
    assert run(neuron, [[0.4], [0.4], [0.4], [0.3], [0.4]]).flatten().tolist() == [0, 1, 0, 0, 1]


def test_reset_to_zero_loses_the_excess_that_subtraction_keeps():
    currents = [[1.5]] * 8
    assert run(IF(reset="zero"), currents).sum() == 8  # one spike a step, half a threshold lost at each
    assert run(IF(threshold=2.0, reset="zero"), currents).sum() == 4
    assert run(IF(threshold=2.0, reset="subtract"), currents).sum() == 6  # 8 * 1.5 / 2


def test_a_neuron_that_is_driven_beyond_its_threshold_fires_once_a_step():
    assert run(IF(reset="subtract"), [[3.0], [0.0], [0.0], [0.0]]).flatten().tolist() == [1, 1, 1, 0]


eighths = st.integers(-12, 20).map(lambda n: n / 8)
layers = dict(
    currents=st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(eighths, min_size=n, max_size=n), min_size=1, max_size=12)
    ),
    leak=st.sampled_from([0.25, 0.5, 0.875, 0.99, 1.0]),
    threshold=st.sampled_from([0.5, 0.7, 1.0, 1.5]),
    reset=st.sampled_from(["zero", "subtract"]),
)


@given(**layers)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_both_scans_equal_the_plain_double_loop_bit_for_bit(currents, leak, threshold, reset):
    spikes, membranes, since_spike = slow(currents, leak, threshold, reset)
    train = torch.tensor(currents, dtype=torch.float64)
    start = State(torch.zeros_like(train[0]), torch.full_like(train[0], math.inf))
    dynamics = Dynamics(leak, torch.tensor(threshold, dtype=torch.float64), reset, spike_time())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            fired, state, count, _ = scan(train.clone().requires_grad_(grad), start, dynamics)
        assert fired.tolist() == spikes
        assert count == fired.sum()
        assert state.membrane.tolist() == membranes[-1]
        if grad:  # only gradients need the times
            assert state.since_spike.tolist() == since_spike[-1]
    assert (start.membrane == 0).all()  # the scan did not write into the state that it was given


@given(**layers)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_spikes_do_not_depend_on_grad_mode(currents, leak, threshold, reset):
    neuron, train = LIF(leak, threshold, reset, triangle()), torch.tensor(currents).unsqueeze(1)
    differentiable = simulate(neuron, train.clone().requires_grad_(), len(train), coding=None).output
    with torch.no_grad():
        plain = simulate(neuron, train, len(train), coding=None).output
    assert differentiable.requires_grad
    assert not plain.requires_grad
    assert torch.equal(differentiable, plain)


def test_an_image_batch_with_channels_is_scanned_neuron_by_neuron():
    generator = torch.Generator().manual_seed(0)
    currents = torch.randn(9, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    out = simulate(LIF(0.9, 1.0, "subtract"), currents, 9, coding=None).output
    spikes, _, _ = slow(currents.flatten(1).tolist(), 0.9, 1.0, "subtract")
    assert out.flatten(1).tolist() == spikes


def test_every_neuron_can_have_its_own_threshold():
    threshold = torch.tensor([0.5, 1.0, 2.0])
    neuron = IF(threshold)
    out = run(neuron, [[1.0, 1.0, 1.0]] * 4)
    assert out.sum(0).tolist() == [4, 4, 2]
    assert neuron.threshold.shape == (3,)


def test_if_is_lif_without_a_leak_and_fires_at_one_with_reset_to_zero_by_default():
    neuron = IF()
    assert (neuron.leak, neuron.threshold.item(), neuron.reset) == (1.0, 1.0, "zero")
    assert run(IF(), [[0.5]] * 4).flatten().tolist() == [0, 1, 0, 1]


def test_membranes_stay_float32_for_bfloat16_input():
    # 256 + 1 is 256 in bfloat16: a bfloat16 membrane would never reach 260
    neuron = IF(threshold=260.0)
    train = torch.tensor([256.0, 1, 1, 1, 1], dtype=torch.bfloat16).view(5, 1, 1)
    presentation = Presentation()
    presentation.open_chunk(5)
    with presenting([neuron], presentation):
        spikes = neuron(train.flatten(0, 1))
    assert spikes.dtype == torch.bfloat16
    assert spikes.flatten().tolist() == [0, 0, 0, 0, 1]
    assert presentation.states[neuron].membrane.dtype == torch.float32


def test_thresholds_do_not_follow_the_tensor_they_were_made_from():
    given_threshold = torch.tensor(1.0)
    first, second = IF(given_threshold), IF(given_threshold)
    first.load_state_dict({"threshold": torch.tensor(3.0)})
    assert second.threshold == 1
    assert given_threshold == 1


@pytest.mark.parametrize("leak", [0, -0.5, 1.01, math.nan])
def test_a_leak_outside_zero_to_one_is_refused(leak):
    with pytest.raises(ValueError, match=r"leak is .*must lie in \(0, 1\]"):
        LIF(leak=leak)


def test_what_is_trainable_is_a_parameter_and_nothing_else():
    fixed, learning = LIF(surrogate=triangle()), LIF(0.9, torch.rand(3) + 0.5, "zero", triangle(), TRAINABLE)
    assert not list(fixed.parameters())
    assert [name for name, _ in learning.named_parameters()] == ["leak", "threshold"]
    known = "LIF(leak=0.9, threshold=(3,), reset='zero', surrogate=triangle(gamma=0.3), trainable="
    assert repr(learning) == f"{known}['leak', 'threshold'])"


@pytest.mark.parametrize(("leak", "threshold"), [(1.5, -1.0), (-0.5, 0.0)])
def test_a_leak_or_threshold_that_learned_too_far_is_taken_as_the_nearest_and_can_come_back(leak, threshold):
    neuron = LIF(0.9, 1.0, "subtract", rectangle(4.0), TRAINABLE)
    with torch.no_grad():
        neuron.leak.fill_(leak)
        neuron.threshold.fill_(threshold)
    nearest = LIF(min(max(leak, 1e-3), 1.0), 1e-3, "subtract", rectangle(4.0))
    currents = torch.tensor([0.4, -0.2, 0.3, 0.3]).view(4, 1, 1)
    found = simulate(neuron, currents, 4, coding=None).output
    assert torch.equal(found, simulate(nearest, currents, 4, coding=None).output)
    found.sum().backward()
    assert neuron.leak.grad != 0
    assert neuron.threshold.grad < 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            partial(LIF, surrogate=triangle(), trainable=["decay"]),
            r"trainable is \['decay'\]; give a list of 'leak', 'thr",
        ),
        (partial(LIF, surrogate=triangle(), trainable="leak"), "trainable is 'leak'; give a list"),
        (partial(LIF, trainable=["leak"]), "without a surrogate lets no gradient through"),
        (partial(IF, surrogate=triangle(), trainable=["leak"]), "an IF neuron has no leak to train"),
    ],
)
def test_a_neuron_that_cannot_learn_what_it_is_told_to_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan, torch.tensor([1.0, 0.0])])
def test_a_threshold_that_is_not_above_zero_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold is .*must be above 0"):
        IF(threshold)


def test_an_unknown_reset_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match=r"'hard'.*'zero', 'subtract'"):
        IF(reset="hard")


def test_a_neuron_called_outside_of_a_simulation_says_so_in_one_line():
    neuron = IF()
    with pytest.raises(RuntimeError, match=r"IF layer .*outside of a simulation.*snnkit\.simulate") as refusal:
        neuron(torch.ones(3, 2))
    assert "\n" not in str(refusal.value)
    run(neuron, [[1.0]])
    with pytest.raises(RuntimeError, match="outside of a simulation"):  # also after one has ended
        neuron(torch.ones(3, 2))


def test_one_neuron_layer_called_twice_in_a_pass_is_refused():
    neuron = IF()
    neuron.key = "conv2#1"
    with pytest.raises(RuntimeError, match=r"'conv2#1' was called twice.*layer of its own"):
        run(nn.Sequential(neuron, neuron), [[1.0]])
    assert run(neuron, [[1.0]]).item() == 1  # and the refusal leaves nothing behind


class Spy(nn.Module):
    """Calls `look` in the middle of a simulation and passes its input on."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def forward(self, x):
        self.look()
        return x


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda neuron: pickle.loads(pickle.dumps(neuron)),
        lambda neuron: torch.load(io.BytesIO(saved(neuron)), weights_only=False),
    ],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
def test_state_is_never_saved_or_copied_even_in_the_middle_of_a_simulation(copied):
    neuron, copies, keys = IF(surrogate=triangle()), [], []

    def look():
        copies.append(copied(neuron))
        keys.append(set(neuron.state_dict()))

    net = nn.Sequential(neuron, Spy(look))
    train = torch.full((4, 1, 1), 0.75)
    simulate(net, train, 4, coding=None, chunk=1)
    assert keys == [{"threshold"}] * 4
    for twin in copies:
        with pytest.raises(RuntimeError, match="outside of a simulation"):
            twin(torch.ones(1, 1))
        assert simulate(twin, train, 4, coding=None).output.flatten().tolist() == [0, 1, 0, 1]


def saved(module) -> bytes:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    return buffer.getvalue()


def test_buffers_and_parameters_are_the_same_before_and_after_a_simulation():
    neuron = IF()
    before = copy.deepcopy(neuron.state_dict()), set(vars(neuron))
    run(neuron, [[0.75]] * 3)
    assert neuron.state_dict() == before[0]
    assert set(vars(neuron)) - {"_presentation"} == before[1] - {"_presentation"}
    assert neuron._presentation is None


def test_neurons_print_what_they_are():
    assert repr(LIF(0.95, 0.5, "subtract")) == "LIF(leak=0.95, threshold=0.5, reset='subtract')"
    assert "threshold=(3,)" in repr(partial(IF, torch.ones(3))())
