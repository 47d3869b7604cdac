"""`simulate`: the same answer however time is cut, no memory of the image before, bounded memory over time."""

import copy
import gc
import math
import os
import subprocess
import sys
import weakref
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snnkit import models, simulate, simulation
from snnkit.dropout import HeldDropout
from snnkit.neurons import IF, LIF
from snnkit.surrogate import rectangle, spike_time, triangle


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dyadic(net: nn.Module) -> nn.Module:
    """Round every weight to a multiple of 1/64: all sums are then exact in float32, in whatever order."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    return net


def small_net(neuron=IF, dropout=0.0, seed=0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = models.build("vgg3", neuron, width=1 / 16, size=8, dropout=dropout)
    return net


def small_images(count=3, seed=0) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=seeded(seed)) * 2 - 1


def slow_two_layer_net(train, first, second, leak, threshold, reset):
    """Linear, LIF, linear, one neuron, connection and step at a time; output currents [T][K] of one image."""
    membranes, outputs = [0.0] * len(first), []
    for inputs in train:
        spikes = []
        for j, weights in enumerate(first):
            membranes[j] = leak * membranes[j] + sum(w * s for w, s in zip(weights, inputs, strict=True))
            spikes.append(1.0 if membranes[j] >= threshold else 0.0)
            if spikes[-1]:
                membranes[j] = 0.0 if reset == "zero" else membranes[j] - threshold
        outputs.append([sum(w * s for w, s in zip(weights, spikes, strict=True)) for weights in second])
    return outputs, spikes


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("leak", [1.0, 0.5])
def test_a_net_answers_as_the_plain_loops_do(leak, reset):
    net = nn.Sequential(nn.Linear(5, 7, bias=False), LIF(leak, 0.75, reset), nn.Linear(7, 3, bias=False)).double()
    with torch.no_grad():
        for weights in net.parameters():
            weights.copy_((torch.rand(weights.shape, generator=seeded(1)) * 16 - 6).round() / 8)
    train = (torch.rand(30, 2, 5, generator=seeded(2)) < 0.4).double()
    with torch.no_grad():
        result = simulate(net, train, 30, coding=None)
    for image in range(2):
        outputs, _ = slow_two_layer_net(
            train[:, image].tolist(), net[0].weight.tolist(), net[2].weight.tolist(), leak, 0.75, reset
        )
        assert result.output[:, image].tolist() == outputs
    assert 0 < result.rates["1"] < 1


def test_output_counts_prediction_and_rates_by_hand():
    # one input neuron at 0.5: the IF fires at steps 2 and 4; classes get -1, 2 and 1 per spike
    net = nn.Sequential(IF(), nn.Linear(1, 3, bias=False))
    net[1].weight.data = torch.tensor([[-1.0], [2.0], [1.0]])
    result = simulate(net, torch.tensor([[0.5]]), 4, coding="constant")
    assert result.output[:, 0].tolist() == [[0, 0, 0], [-1, 2, 1], [0, 0, 0], [-1, 2, 1]]
    assert result.counts()[:, 0].tolist() == [[0, 0, 0], [-1, 2, 1], [-1, 2, 1], [-2, 4, 2]]
    assert result.predict().tolist() == [1]
    assert result.predict(at=3).tolist() == [1]  # all steps count, not the last one, which is silent
    assert result.predict(at=1).tolist() == [0]  # no evidence yet: a tie goes to the lower class
    assert result.rates == {"0": 0.5}


@pytest.mark.parametrize("at", [0, 5, -1])
def test_predicting_at_a_step_that_was_not_simulated_is_refused(at):
    result = simulate(IF(), torch.ones(1, 2), 4, coding="constant")
    with pytest.raises(ValueError, match=f"at is {at}; the simulation has steps 1 to 4"):
        result.predict(at=at)


def test_rates_are_keyed_by_layer_and_pass():
    net = models.build("vgg3x2", IF, width=1 / 16, size=8)
    with torch.no_grad():
        rates = simulate(net, small_images(), 5, generator=seeded()).rates
    assert list(rates) == ["conv1", "conv2", "conv3#1", "conv3#2", "fc1"]


def test_rates_are_spikes_per_neuron_image_and_step():
    net = nn.Sequential(IF(2.0), nn.Flatten())
    images = torch.tensor([[0.5, 1.0], [2.0, 0.0]])  # spikes in 8 steps: 2, 4, 8, 0
    for chunk in (None, 3):
        assert simulate(net, images, 8, coding="constant", chunk=chunk).rates == {"0": pytest.approx(14 / 32)}


# --- time may be cut anywhere ---


@given(chunk=st.integers(1, 14), timesteps=st.integers(1, 12), reset=st.sampled_from(["zero", "subtract"]))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_the_chunk_length_changes_no_bit_on_dyadic_weights(chunk, timesteps, reset):
    net, images = dyadic(small_net(partial(LIF, 0.5, 0.25, reset))), small_images()
    with torch.no_grad():
        whole = simulate(net, images, timesteps, generator=seeded(3), chunk=timesteps)
        pieces = simulate(net, images, timesteps, generator=seeded(3), chunk=chunk)
        own_choice = simulate(net, images, timesteps, generator=seeded(3))
    for other in (pieces, own_choice):
        assert torch.equal(whole.output, other.output)
        assert other.rates == pytest.approx(whole.rates, rel=1e-12)


@pytest.mark.parametrize("coding", ["constant", None])
def test_the_chunk_length_changes_no_bit_with_other_codings(coding):
    net, images = dyadic(small_net(IF)), (small_images() * 64).round() / 64
    given_images = images if coding else torch.stack([images * (t % 3) / 2 for t in range(9)])
    with torch.no_grad():
        outputs = [simulate(net, given_images, 9, coding=coding, chunk=chunk).output for chunk in (1, 2, 4, 9, None)]
    assert all(torch.equal(outputs[0], output) for output in outputs)


def test_the_chunk_length_changes_only_rounding_on_other_weights():
    net, images = small_net(partial(IF, 0.3, "subtract")).double(), small_images().double()
    with torch.no_grad():
        outputs = [simulate(net, images, 40, generator=seeded(), chunk=chunk).output for chunk in (1, 7, 40)]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("surrogate", [triangle(), spike_time()])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_gradients_do_not_depend_on_the_chunk(surrogate, reset):
    net, images = small_net(partial(LIF, 0.5, 0.25, reset, surrogate)).double(), small_images().double()
    dyadic(net)
    gradients = []
    for chunk in (None, 1, 3, 8):
        net.zero_grad()
        out = simulate(net, images, 8, generator=seeded(), chunk=chunk)
        (out.counts()[-1] ** 2).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    assert all(g.abs().max() > 0 for g in gradients[0])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("surrogate", [rectangle(0.5), triangle(), spike_time()])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("chunk", [None, 1, 3, 8])
def test_recomputed_gradients_are_those_of_a_run_that_remembers(surrogate, reset, chunk):
    learning = partial(LIF, 0.5, 0.25, reset, surrogate, ["leak", "threshold"])
    net, images = dyadic(small_net(learning, dropout=0.25).double()).train(), small_images().double()
    found = []
    for recompute in (False, True):
        net.zero_grad()
        torch.manual_seed(1)  # dropout
        out = simulate(net, images, 8, generator=seeded(), chunk=chunk, recompute=recompute)
        (out.counts()[-1] ** 2).sum().backward()
        found.append(([parameter.grad.clone() for parameter in net.parameters()], out.output.detach(), out.rates))
    (remembered, output, rates), (recomputed, same_output, same_rates) = found
    assert all(gradient.abs().max() > 0 for gradient in remembered)
    torch.testing.assert_close(recomputed, remembered, rtol=1e-9, atol=1e-12)
    assert torch.equal(same_output, output)
    assert same_rates == rates


def test_a_recomputed_run_that_is_dropped_takes_its_memory_with_it():
    net = small_net(partial(LIF, 0.5, 0.25, surrogate=rectangle()))
    out = simulate(net, small_images(), 8, generator=seeded(), chunk=2, recompute=True)
    held_by_the_graph = weakref.ref(net)
    gc.collect()
    gc.disable()
    try:
        del out, net
        assert held_by_the_graph() is None
    finally:
        gc.enable()


def test_recomputing_refuses_a_batch_norm_that_needs_all_of_time():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), LIF(surrogate=triangle()))
    with pytest.raises(ValueError, match=r"batch-norm 1 in training mode needs all .*leave recompute out"):
        simulate(net, small_images(), 4, recompute=True)


def test_gradients_flow_back_through_all_time_even_in_chunks_of_one():
    neuron, currents = IF(surrogate=triangle()), torch.full((5, 1, 1), 0.1, requires_grad=True)
    simulate(neuron, currents, 5, coding=None, chunk=1).output[-1].sum().backward()
    slope = 0.3 * (1 - 0.5)  # the membrane is 0.5 at the last step, one threshold is 1
    assert currents.grad.flatten().tolist() == pytest.approx([slope] * 5)


def test_simulate_follows_torchs_grad_mode():
    net = small_net(partial(IF, 0.3, surrogate=triangle()))
    assert simulate(net, small_images(), 3, generator=seeded()).output.requires_grad
    with torch.no_grad():
        assert not simulate(net, small_images(), 3, generator=seeded()).output.requires_grad
    with torch.inference_mode():
        assert simulate(net, small_images(), 3, generator=seeded()).output.is_inference()


# --- batch-norm ---


def normalised_net(**options):
    torch_layers = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, **options)
    return nn.Sequential(*torch_layers, IF(0.5, surrogate=triangle()), nn.Linear(6, 2, bias=False))


@pytest.mark.parametrize("options", [{}, {"track_running_stats": False}])
def test_a_batch_norm_that_computes_statistics_refuses_a_chunk_and_sees_all_of_time(options):
    net, images = normalised_net(**options), torch.rand(3, 4, generator=seeded())
    if options:
        net.eval()  # without running statistics it takes those of its input in eval mode, too
    with pytest.raises(ValueError, match=r"batch-norm .*needs all time steps at once; leave chunk out"):
        simulate(net, images, 6, chunk=2)
    rows = []
    net[1].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    with torch.no_grad():
        simulate(net, images, 6, generator=seeded())
    assert rows == [6 * 3]


def test_a_batch_norm_in_eval_mode_takes_any_chunk():
    net, images = normalised_net().eval(), torch.rand(3, 4, generator=seeded())
    with torch.no_grad():
        outputs = [simulate(net, images, 6, generator=seeded(), chunk=chunk).output for chunk in (1, 4, 6)]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])


# --- nothing survives ---


def test_no_state_survives_from_one_image_to_the_next():
    net, first, second = small_net(partial(IF, 0.3)), small_images(seed=1), small_images(seed=2)
    with torch.no_grad():
        fresh = simulate(net, second, 10, generator=seeded()).output
        simulate(net, first, 7, generator=seeded(9))
        after = simulate(net, second, 10, generator=seeded()).output
        smaller = simulate(net, second[:1], 10, coding="constant").output  # another batch size is no obstacle either
    assert torch.equal(fresh, after)
    assert smaller.shape == (10, 1, 10)


class Broken(nn.Module):
    """Passes its input on, and raises at call number `at`."""

    def __init__(self, at: int):
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return x


def test_no_state_survives_an_exception_inside_the_net():
    net = nn.Sequential(IF(), Broken(at=3), IF(0.5))
    train = torch.full((5, 1, 1), 0.4)
    with pytest.raises(KeyboardInterrupt):
        simulate(net, train, 5, coding=None, chunk=1)
    with pytest.raises(RuntimeError, match="outside of a simulation"):
        net(torch.ones(1, 1))
    assert simulate(net, train, 5, coding=None, chunk=1).output.flatten().tolist() == [0, 0, 1, 0, 0]


def test_no_state_survives_bad_input_either():
    net = nn.Sequential(IF())
    for bad in (torch.full((2, 3), math.nan), torch.full((2, 3), 2.0)):
        with pytest.raises(ValueError, match="images"):
            simulate(net, bad, 3)
    assert simulate(net, torch.full((1, 1), 0.5), 2, coding="constant").output.flatten().tolist() == [0, 1]


def test_a_simulation_inside_a_simulation_of_the_same_net_is_refused():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = IF()

        def forward(self, x):
            return simulate(self, x, 2, coding="constant").output[0]

    with pytest.raises(RuntimeError, match="already being simulated"):
        simulate(Nested(), torch.ones(1, 1), 2, coding="constant")


def test_a_copy_made_before_or_after_a_simulation_answers_alike():
    net = small_net(partial(IF, 0.3))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        answers = [simulate(n, small_images(), 6, generator=seeded()).output for n in (net, twin, copy.deepcopy(net))]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_same_seed_same_spikes_and_another_seed_others():
    net = small_net(partial(IF, 0.3))
    with torch.no_grad():
        first, same, other = (simulate(net, small_images(), 20, generator=seeded(s)).output for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_dropout_masks_do_not_depend_on_the_chunk_and_neither_do_poisson_draws(chunk):
    net, images = dyadic(small_net(partial(IF, 0.25), dropout=0.5)).train(), small_images()
    assert any(isinstance(module, HeldDropout) for module in net.modules())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        whole = simulate(net, images, 9, generator=seeded(), chunk=9).output
        torch.manual_seed(4)
        assert torch.equal(simulate(net, images, 9, generator=seeded(), chunk=chunk).output, whole)


# --- precision and device ---


def test_bfloat16_keeps_rates_close_and_hands_out_float32():
    net, images = small_net(partial(IF, 0.2, "subtract")), small_images(8)
    with torch.no_grad():
        full = simulate(net, images, 100, generator=seeded(), precision="fp32")
        half = simulate(net, images, 100, generator=seeded(), precision="bf16")
    assert half.output.dtype == torch.float32
    assert half.rates == pytest.approx(full.rates, rel=0.02)
    assert not torch.equal(half.output, full.output)  # it was bfloat16 indeed
    assert torch.equal(simulate(net, images, 5, generator=seeded()).output, full.output[:5])


def test_auto_precision_is_bfloat16_where_the_processor_computes_it(monkeypatch):
    net, images = small_net(partial(IF, 0.2)), small_images()
    with torch.no_grad():
        outputs = {p: simulate(net, images, 5, generator=seeded(), precision=p).output for p in ("fp32", "bf16")}
        for fast, expected in ((True, "bf16"), (False, "fp32")):
            monkeypatch.setattr(simulation, "has_fast_bfloat16", lambda device, fast=fast: fast)
            auto = simulate(net, images, 5, generator=seeded(), precision="auto").output
            assert torch.equal(auto, outputs[expected])


def test_device_moves_net_and_images():
    net = small_net(IF)
    with torch.no_grad():
        assert simulate(net, small_images(), 2, generator=seeded(), device="cpu").output.device.type == "cpu"
        meta = simulate(nn.Linear(2, 3, bias=False), torch.zeros(1, 2), 2, coding="constant", device="cpu")
    assert meta.output.shape == (2, 1, 3)


def test_recordings_run_as_the_trains_that_they_hold():
    train = (torch.rand(6, 3, 2, 4, 4, generator=seeded()) * 3).floor()
    net = nn.Sequential(nn.Conv2d(2, 3, 3), IF(2.0))
    recordings = train.transpose(0, 1).flatten(1, 2)
    with torch.no_grad():
        wanted = simulate(net, train, 6, coding=None)
        found = simulate(net, recordings, 6, coding="frames", chunk=4)
    assert torch.equal(found.output, wanted.output)
    assert found.rates == wanted.rates


# --- bad input ---


@pytest.mark.parametrize("name", ["timesteps", "chunk"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_lengths_that_make_no_sense_are_refused(name, value):
    lengths = {"timesteps": 3, name: value}
    with pytest.raises(ValueError, match=f"{value}.*must be a whole number of at least 1"):
        simulate(IF(), torch.zeros(1, 2), **lengths)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (torch.tensor([[0.0, 1.5]]), {}, r"images reach \|x\| = 1\.5; Poisson coding needs values in \[-1, 1\]"),
        (torch.tensor([[0.0, math.nan]]), {}, "1 NaN or infinite"),
        (torch.tensor([[0.0, math.nan]]), {"coding": "constant"}, "1 NaN or infinite"),
        (torch.tensor([[[math.inf]]] * 3), {"coding": None}, "3 NaN or infinite"),
        (torch.zeros(0, 2), {}, "empty batch"),
        (torch.zeros(4, 1, 2), {"coding": None}, "it has 4 steps, timesteps is 3"),
        (torch.zeros(3), {"coding": None}, r"images has shape \(3,\).*\[T, B, ...\]"),
        (torch.tensor(0.5), {}, r"images has shape \(\).*\[B, ...\]"),
        (torch.zeros(1, 2), {"coding": "latency"}, r"unknown coding 'latency'; use 'poisson', 'constant'"),
        (
            torch.zeros(1, 2),
            {"precision": "fp16"},
            r"unknown precision 'fp16'; use one of .*'bf16'",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(images, options, words):
    with pytest.raises(ValueError, match=words) as refusal:
        simulate(IF(), images, 3, **options)
    assert "\n" not in str(refusal.value)


def test_integer_pixels_are_refused():
    with pytest.raises(TypeError, match=r"uint8.*divide by 255"):
        simulate(IF(), torch.zeros(1, 2, dtype=torch.uint8), 3)


# --- memory ---


def tensor_bytes_seen(net, images, timesteps):
    """Bytes of the largest layer input or output of each pass, and the steps of each pass."""
    sizes, steps = [], []

    def start_pass(module, inputs):
        sizes.append([])
        steps.append(len(inputs[0]) // len(images))

    def measure(module, inputs, output):
        sizes[-1].extend(x.numel() * x.element_size() for x in (inputs[0], output))

    net.register_forward_pre_hook(start_pass)
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(measure)
    with torch.no_grad():
        simulate(net, images, timesteps, generator=seeded())
    return [max(pass_sizes) for pass_sizes in sizes], steps


def test_the_chunk_chosen_by_itself_keeps_tensors_small_and_passes_few(monkeypatch):
    monkeypatch.setattr(simulation, "CHUNK_BYTES", 2**17)
    largest, steps = tensor_bytes_seen(models.build("vgg5", IF, width=1 / 16, size=16), torch.zeros(4, 3, 16, 16), 100)
    assert max(largest) <= 2**17
    assert sum(steps) == 100
    assert max(steps) == 8  # a step's largest tensor holds 4 images x 4 channels x 16 x 16 pixels x 4 bytes = 2^14
    assert len(steps) < 16


def test_the_chunk_also_fits_where_the_input_is_the_largest_tensor(monkeypatch):
    monkeypatch.setattr(simulation, "CHUNK_BYTES", 2**17)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2, bias=False), IF())
    largest, steps = tensor_bytes_seen(net, torch.zeros(2, 3, 32, 32), 50)
    assert max(largest) <= 2**17
    assert max(steps) == 5


PEAK = """
import torch
from snnkit import memory, simulate
from snnkit.neurons import IF
from torch import nn
torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), IF(), nn.AvgPool2d(2), nn.Conv2d(64, 8, 3), IF(), nn.Flatten())
images, peak = torch.rand(8, 3, 32, 32), lambda: memory.peak() / 2**20
with torch.no_grad():
    simulate(net, images, 32)
    before = peak()
    simulate(net, images, 256)
    print(peak() - before)
"""


PEAK_OF_TRAINING = """
import torch
from snnkit import memory, simulate
from snnkit.neurons import LIF
from snnkit.surrogate import triangle
from torch import nn
torch.set_num_threads(1)
neuron = lambda: LIF(surrogate=triangle())
net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), neuron(), nn.AvgPool2d(2), nn.Conv2d(32, 8, 3), neuron())
images, peak = torch.rand(8, 3, 32, 32), lambda: memory.peak() / 2**20
for recompute in (True, False):  # what torch loads on the first call is not what is measured
    simulate(net, images, 16, chunk=8, recompute=recompute).output.sum().backward()
before = peak()
for recompute in (True, False):
    simulate(net, images, 128, chunk=8, recompute=recompute).output.sum().backward()
    print(peak() - before)
"""


PEAK_OF_VGG5 = """
import torch
from snnkit import memory, models, simulate
from snnkit.neurons import LIF
from snnkit.surrogate import triangle
net = models.build("vgg5", lambda: LIF(surrogate=triangle()))
models.unit_variance_init(net, torch.rand(32, 3, 32, 32))
simulate(net, torch.rand(32, 3, 32, 32), 100, recompute=True).output.square().mean().backward()
print(memory.peak() / 2**30)
"""


def peaks_of(script: str) -> list[float]:
    """What `script` prints. Freed memory goes back at once, so that fragmentation does not blur the measure."""
    env, command = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}, [sys.executable, "-c", script]
    return [*map(float, subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split())]


def test_recomputing_needs_a_fraction_of_the_memory_for_the_same_gradients():
    # a step keeps 1 MiB of slopes and as much of spikes at the first neurons (8 images x 32 channels x 32 x 32 floats)
    forgetful, remembering = peaks_of(PEAK_OF_TRAINING)
    assert remembering > 200
    assert forgetful < remembering / 5


def test_vgg5_trains_over_a_hundred_steps_with_32_images_in_three_gibibytes():
    # of which torch itself takes a few tenths; without recomputation it is more than 5
    (gibibytes,) = peaks_of(PEAK_OF_VGG5)
    assert gibibytes < 3


def test_peak_memory_does_not_grow_with_time():
    # one step's largest tensor is 2 MiB (8 images x 64 channels x 32 x 32 floats): 256 steps at once would add
    # 448 MiB for every tensor alive
    (grown,) = peaks_of(PEAK)
    assert grown < 64
