"""Rate coding against its definition. Statistical tests use a fixed seed and name the chance of a false alarm."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from snnkit import coding

FALSE_ALARM = 1e-6  # chance that one statistical test of this file fails on correct code with a fresh seed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_binomial(counts, trials, probabilities):
    """Every count is plausible for Binomial(trials, p): exact two-sided tails, Bonferroni over all counts."""
    counts, trials, probabilities = np.broadcast_arrays(counts, trials, probabilities)
    tails = np.minimum(binom.cdf(counts, trials, probabilities), binom.sf(counts - 1, trials, probabilities))
    assert tails.min() > FALSE_ALARM / (2 * counts.size)


def test_a_spike_is_the_sign_of_the_pixel_wherever_the_draw_is_below_its_size():
    images = torch.tensor([0.5, -0.5, 0.0, 1.0, -1.0, 0.25])
    uniforms = torch.tensor([[0.4, 0.4, 0.0, 0.999, 0.999, 0.25], [0.5, 0.5, 0.0, 0.0, 0.0, 0.2]])
    expected = torch.tensor([[1.0, -1.0, 0.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0, 1.0]])
    assert torch.equal(coding.spikes_from_uniforms(images, uniforms), expected)


def test_poisson_uses_one_draw_for_each_pixel_and_step_in_time_major_order():
    images = torch.linspace(-1, 1, 24).view(2, 3, 4)
    generator = seeded(5)
    draws = [torch.rand(2, 3, 4, generator=generator) for _ in range(6)]
    slow = torch.zeros(6, 2, 3, 4)
    for t in range(6):
        for place in np.ndindex(2, 3, 4):
            if draws[t][place] < abs(images[place]):
                slow[t][place] = math.copysign(1, images[place])
    assert torch.equal(coding.poisson(images, 6, seeded(5)), slow)


def test_poisson_rate_is_the_size_of_the_pixel_and_its_sign_the_pixels_sign():
    images, timesteps = torch.linspace(-1, 1, 201), 4000
    train = coding.poisson(images, timesteps, seeded())
    assert train.shape == (timesteps, 201)
    silent = train == 0
    assert (silent | (train == images.sign())).all()
    assert_binomial((~silent).sum(0).numpy(), timesteps, images.abs().double().numpy())


def test_poisson_spikes_are_independent_in_time():
    # at probability 1/2, "same as k steps before" is itself a fair coin, thrown afresh at every step
    timesteps, lags = 20_000, range(1, 9)
    train = coding.poisson(torch.full((4,), 0.5), timesteps, seeded(1))
    agree = np.array([(train[k:] == train[:-k]).sum(0).numpy() for k in lags])
    trials = np.array([[timesteps - k] for k in lags])
    assert_binomial(agree, trials, 0.5)


def test_poisson_spikes_are_independent_across_pixels_channels_and_images():
    timesteps = 10_000
    train = coding.poisson(torch.full((3, 2, 2, 2), 0.5), timesteps, seeded(2)).flatten(1)
    pairs = torch.combinations(torch.arange(train.shape[1]))
    agree = (train[:, pairs[:, 0]] == train[:, pairs[:, 1]]).sum(0).numpy()
    assert_binomial(agree, timesteps, 0.5)


def test_error_of_the_poisson_rate_falls_as_one_over_the_root_of_time():
    # RMS over 10,000 pixels has a relative standard error of 0.7 %; both within 5 % fails by chance below 1e-6
    images = torch.full((10_000,), 0.5)
    for timesteps in (100, 1600):
        rate = coding.poisson(images, timesteps, seeded(3)).mean(0)
        rms = float((rate - images).square().mean().sqrt())
        assert rms == pytest.approx(0.5 / math.sqrt(timesteps), rel=0.05)


def test_same_seed_same_spikes_and_another_seed_others():
    images = torch.rand(50, generator=seeded()) * 2 - 1
    first = coding.poisson(images, 40, seeded(7))
    assert torch.equal(first, coding.poisson(images, 40, seeded(7)))
    assert not torch.equal(first, coding.poisson(images, 40, seeded(8)))


def test_without_a_generator_poisson_draws_from_the_global_one():
    images = torch.full((30,), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        first = coding.poisson(images, 10)
        torch.manual_seed(11)
        assert torch.equal(first, coding.poisson(images, 10))
        assert not torch.equal(first, coding.poisson(images, 10))


@pytest.mark.parametrize("pieces", [(1,) * 7, (3, 4), (6, 1)])
def test_coding_in_several_calls_gives_the_same_spikes(pieces):
    images = torch.linspace(-1, 1, 60).view(3, 20)
    whole = coding.poisson(images, 7, seeded(4))
    generator = seeded(4)
    assert torch.equal(whole, torch.cat([coding.poisson(images, length, generator) for length in pieces]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_spikes_have_the_dtype_of_the_images(dtype):
    images = torch.linspace(-1, 1, 9, dtype=dtype)
    assert coding.poisson(images, 3, seeded()).dtype == dtype
    assert coding.constant(images, 3).dtype == dtype


def test_constant_coding_is_the_image_at_every_step():
    images = torch.tensor([[0.25, -3.0]])
    train = coding.constant(images, 4)
    assert train.shape == (4, 1, 2)
    assert all(torch.equal(step, images) for step in train)


@pytest.mark.parametrize("encode", [coding.poisson, coding.constant])
@pytest.mark.parametrize("timesteps", [0, -3, 2.5, True, "10", None])
def test_a_number_of_steps_that_is_no_whole_number_from_one_is_refused(encode, timesteps):
    with pytest.raises(ValueError, match="must be a whole number of at least 1") as refusal:
        encode(torch.zeros(1, 2), timesteps)
    assert repr(timesteps) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_whole_number_of_numpys_is_one_too():
    assert coding.constant(torch.zeros(1, 2), np.int64(3)).shape == (3, 1, 2)


@pytest.mark.parametrize("value", [1.001, -1.5])
def test_poisson_refuses_values_beyond_one_and_says_what_to_do(value):
    with pytest.raises(ValueError, match=f"{abs(value):.4g}.*\\[-1, 1\\].*subtract the mean"):
        coding.poisson(torch.tensor([[0.0, value]]), 5)


@pytest.mark.parametrize("encode", [coding.poisson, coding.constant])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused_and_counted(encode, value):
    with pytest.raises(ValueError, match="2 NaN or infinite values"):
        encode(torch.tensor([[0.0, value, value]]), 5)


@pytest.mark.parametrize("encode", [coding.poisson, coding.constant])
def test_pixels_that_are_no_floats_are_refused(encode):
    with pytest.raises(TypeError, match=r"uint8 tensor.*divide by 255"):
        encode(torch.zeros(1, 2, dtype=torch.uint8), 5)
    with pytest.raises(TypeError, match="ndarray"):
        encode(np.zeros((1, 2)), 5)


def test_frames_unstack_a_recording_from_its_channels():
    train = torch.rand(3, 4, 2, 5, 5)  # [T, B, C, H, W]
    recordings = torch.stack([torch.cat([*train[:, image]]) for image in range(4)])
    assert recordings.shape == (4, 6, 5, 5)
    assert torch.equal(coding.frames(recordings, 3), train)
    with pytest.raises(ValueError, match="the recordings have 6 channels; give a multiple of timesteps, which is 4"):
        coding.frames(recordings, 4)
