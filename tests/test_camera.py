"""The simulated camera: a moving edge against the closed form, path, refractory time, noise, recordings of a split."""

import math
from dataclasses import replace

import pytest
import torch

from snnkit import coding, data, trials
from snnkit.camera import Camera, recorded
from snnkit.recipe import ADAM
from snnkit.train import fit

DARK, BRIGHT, FLOOR = 0.1, 0.8, 0.02
CONTRAST = math.log((BRIGHT + FLOOR) / (DARK + FLOOR))  # 1.92


def edge(bright="left", height=6, width=20, at=8):
    """A vertical edge between columns `at` - 1 and `at`."""
    image = torch.full((1, height, width), DARK)
    side = slice(None, at) if bright == "left" else slice(at, None)
    image[..., side] = BRIGHT
    return image


def first_leg(events, camera):
    return events.t <= camera.period / 4


@pytest.mark.parametrize("threshold", [0.15, 0.5, 0.9])
@pytest.mark.parametrize(("bright", "polarity"), [("left", True), ("right", False)])
def test_a_moving_edge_sends_its_contrast_over_the_threshold_from_every_pixel_that_it_crosses(
    threshold, bright, polarity
):
    # the image moves to the right by 3 pixels in the first leg: the pixels of columns 8 to 10 go through the contrast
    camera = Camera(threshold=threshold, reach=3.0, looks=64)
    events = camera.record(edge(bright))
    early = first_leg(events, camera)
    each = math.floor(CONTRAST / threshold)
    assert int(early.sum()) == each * 3 * 6
    assert events.on[early].unique().tolist() == [polarity]
    assert events.x[early].unique().tolist() == [8, 9, 10]
    assert torch.bincount(events.y[early]).tolist() == [3 * each] * 6


def test_the_way_back_sends_what_the_way_out_sent_with_the_other_sign():
    camera = Camera(threshold=0.25, reach=3.0, looks=64)
    events = camera.record(edge())
    # out by 2 x 3 columns and back; each change of direction leaves less than a threshold behind
    assert abs(int(events.on.sum()) - int((~events.on).sum())) <= 6 * 6
    each = math.floor(CONTRAST / 0.25)
    assert int(events.on.sum()) == each * 6 * 6


def test_a_contrast_below_the_threshold_sends_nothing():
    assert len(Camera(threshold=CONTRAST + 0.01, reach=3.0).record(edge())) == 0
    assert len(Camera(threshold=CONTRAST - 0.01, reach=3.0).record(edge())) > 0


def test_the_path_is_a_rhombus_that_closes_after_every_loop():
    path = Camera(reach=2.0, loops=2, looks=8).path()
    first = [[0, 0], [1, 1], [2, 2], [3, 1], [4, 0], [3, -1], [2, -2], [1, -1]]
    assert path.tolist() == [*first, *first, [0, 0]]


def test_an_image_that_does_not_move_sends_nothing_and_noise_comes_at_its_rate():
    image = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert len(Camera(reach=0.0).record(image)) == 0
    noisy = Camera(reach=0.0, noise=5.0, loops=50)  # 10 s
    events = noisy.record(image, torch.Generator().manual_seed(0))
    expected = 5.0 * 400 * noisy.duration
    assert abs(len(events) - expected) < 4 * math.sqrt(expected)
    assert abs(int(events.on.sum()) - expected / 2) < 4 * math.sqrt(expected / 2)
    again = noisy.record(image, torch.Generator().manual_seed(0))
    assert torch.equal(again.t, events.t)


def test_no_pixel_sends_twice_within_the_refractory_time():
    image = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    camera = Camera(threshold=0.1, refractory=0.02, loops=2)
    events = camera.record(image)
    assert len(events) > 100
    free = len(Camera(threshold=0.1, loops=2).record(image))
    assert len(events) < free
    place = events.y * 12 + events.x
    for pixel in place.unique():
        times = events.t[place == pixel]
        assert (times.diff() > 0.02 - 1e-9).all()


def test_after_its_rest_a_pixel_goes_on_from_what_it_sees():
    # the last pixel sees columns 3, 2, 1, 2, 3 at 0, 0.1 ... 0.4 s: "off" at 0.1 s, at rest at 0.2 s, where its memory
    # takes -2.9, from which -1.5 at 0.3 s is more than a threshold up; at rest again at 0.4 s
    camera = Camera(threshold=1.0, reach=1.0, looks=4, period=0.4, refractory=0.15)
    logs = torch.tensor([-3.5, -2.9, -1.5, 0.0])
    events = camera.record((logs.exp() - camera.floor).view(1, 1, 4))
    last = events.x == 3
    assert events.t[last].tolist() == pytest.approx([0.05, 0.25])  # in the middle between two looks
    assert events.on[last].tolist() == [False, True]


def test_frames_of_a_batch_are_the_events_of_its_images_gathered():
    images = data.load("digits", "test", size=16, limit=3)
    light = images.pixels.float() / 255
    camera = Camera(threshold=0.3, loops=2)
    frames = camera.frames(light, 5)
    assert frames.shape == (5, 3, 2, 16, 16)
    for place, image in enumerate(light):
        assert torch.equal(camera.record(image).frames(5), frames[:, place])
    assert frames.sum((0, 1, 3, 4)).min() > 100  # of both polarities


def test_colours_are_seen_by_their_luma():
    grey = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    camera, red = Camera(threshold=0.21), torch.cat([grey, torch.zeros(1, 2, 8, 8)], 1)
    for coloured, plain in ((grey.expand(-1, 3, -1, -1), grey), (red, 0.2989 * grey)):
        expected = camera.frames(plain, 4)
        assert (camera.frames(coloured, 4) - expected).abs().sum() < 0.01 * expected.sum()
    assert (camera.frames(red, 4) - camera.frames(grey, 4)).abs().sum() > 0.1 * expected.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_closed_path_leaves_no_difference_at_any_pixel(dtype):
    images = data.load("digits", "test", size=16, limit=5).pixels.to(dtype) / 255
    frames = Camera(loops=3).frames(images, 3)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])  # as many "off" as "on", in every loop
    assert torch.equal(frames[0], frames[2])


def test_steps_of_time_are_equal():
    frames = Camera(reach=0.0, noise=100.0).frames(torch.rand(1, 1, 40, 40), 8, torch.Generator().manual_seed(0))
    expected = 100.0 * 1600 * 0.2 / 8
    assert (frames.sum((1, 2, 3, 4)) - expected).abs().max() < 4 * math.sqrt(expected)
    moving = Camera(looks=8).frames(torch.rand(1, 1, 16, 16), 8).sum((1, 2, 3, 4))
    assert moving.min() > moving.max() / 3


@pytest.mark.parametrize("period", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("loops", [1, 3, 7])
def test_every_event_lies_within_the_recording(period, loops):
    for looks in (4, 12, 28):
        camera = Camera(period=period, loops=loops, looks=looks, noise=100.0)
        events = camera.record(torch.rand(1, 4, 4), torch.Generator().manual_seed(0))
        assert 0 < events.t.min() < events.t.max() < camera.duration


def test_a_short_rest_bounds_the_events_between_two_looks():
    image = edge()
    free, at_most = (Camera(threshold=0.1, reach=3.0, looks=8, refractory=rest) for rest in (0.0, 0.2 / 8 / 3))
    counts = [camera.frames(image[None], 8).amax() for camera in (free, at_most)]
    assert counts[0] > 3
    assert counts[1] == 3


def test_noise_respects_the_rest():
    camera = Camera(reach=0.0, noise=200.0, refractory=0.05, loops=20)
    events = camera.record(torch.rand(1, 6, 6), torch.Generator().manual_seed(0))
    place = events.y * 6 + events.x
    assert len(events) > 100
    for pixel in place.unique():
        assert (events.t[place == pixel].diff() > 0.05 - 1e-9).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Camera(threshold=0.0), "threshold is 0.0; it must be above 0"),
        (lambda: Camera(noise=-1.0), "noise is -1.0; it must be 0 or above"),
        (lambda: Camera(looks=6), "looks is 6; it must be a multiple of 4"),
        (lambda: Camera().frames(torch.rand(2, 3, 8, 8) - 0.5, 4), r"intensities in \[0, 1\]; divide bytes by 255"),
        (lambda: Camera().frames(torch.rand(2, 2, 8, 8), 4), r"shape \(2, 2, 8, 8\); give \[B, 1 or 3, H, W\]"),
        (lambda: Camera(loops=1.5), "loops is 1.5; it must be a whole number"),
        (lambda: Camera().frames(torch.rand(0, 1, 8, 8), 4), r"shape \(0, 1, 8, 8\)"),
        (lambda: Camera().frames(torch.rand(2, 1, 8, 8), 33), "timesteps is 33; the camera looks 32 times"),
        (lambda: Camera().frames(torch.rand(2, 1, 8, 8), 0), "timesteps is 0"),
        (lambda: Camera().record(torch.rand(1, 8, 8)).frames(0), "timesteps is 0"),
    ],
)
def test_bad_values_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_recorded_split_holds_what_the_camera_sees():
    split = data.load("digits", "test", size=16, limit=30)
    camera = Camera(noise=3.0)
    found = recorded(split, camera, 4, seed=5)
    generator = torch.Generator().manual_seed(3 * 5 + 2)
    counts = camera.frames(split.pixels.float() / 255, 4, generator)
    assert 0 < counts.mean() < counts.max() <= 31
    train = coding.frames(found.images, 4)
    assert torch.allclose(train, counts * 8 / 255)
    assert torch.equal(found.labels, split.labels)
    assert found.frames == 4
    told = f"handwritten digits (scikit-learn), simulated events ({camera}, 4 frames, seed 5), test, 30 images"
    assert found.describe() == told


def test_every_split_has_noise_of_its_own_however_it_is_cut():
    still = data.load("digits", "test", size=8, limit=5)
    eye = Camera(reach=0.0, noise=20.0)
    test, train = (recorded(replace(still, split=name), eye, 2).pixels for name in ("test", "train"))
    assert not torch.equal(test, train)
    assert torch.equal(test, recorded(still, eye, 2).pixels)


def test_a_net_learns_from_recordings():
    splits = data.load("digits", "train", size=8, limit=600), data.load("digits", "validation", size=8)
    train, validation = (recorded(split, Camera(), 4) for split in splits)
    net = trials.fresh("ms-resnet8", train, seed=0, init="paper", width=0.5)
    recipe = replace(ADAM, epochs=4, batch=30, learning_rate=0.02, timesteps=4, coding="frames", precision="fp32")
    said = []
    history = fit(net, train, validation, replace(recipe, augment=False, flip=False), say=said.append)
    assert max(row["validation"] for row in history.rows) > 0.6  # of ten classes
    assert "M MAC x 28,800 image-steps" in said[0]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"coding": "constant"}, r"holds recordings of 4 frames; the recipe needs coding 'frames' and timesteps 4"),
        ({"coding": "frames", "timesteps": 2}, r"the recipe needs coding 'frames' and timesteps 4"),
    ],
)
def test_recordings_and_a_recipe_that_do_not_fit_are_refused(recipe, words):
    split = recorded(data.load("digits", "train", size=8, limit=20), Camera(), 4)
    net = trials.fresh("ms-resnet8", split, init="paper", width=0.25)
    with pytest.raises(ValueError, match=words):
        fit(net, split, split, replace(ADAM, **{"timesteps": 4} | recipe))


def test_images_and_a_recipe_for_recordings_are_refused():
    split = data.load("digits", "train", size=8, limit=20)
    net = trials.fresh("ms-resnet8", split, init="paper", width=0.25)
    with pytest.raises(ValueError, match="holds still images; the recipe needs another coding than 'frames'"):
        fit(net, split, split, replace(ADAM, timesteps=1, coding="frames"))
    wrong = trials.fresh("ms-resnet8", recorded(split, Camera(), 2), init="paper", width=0.25)
    with pytest.raises(ValueError, match=r"the net reads 2 channels, handwritten digits .* has 1; build it for them"):
        fit(wrong, split, split, replace(ADAM, timesteps=2))


def test_what_is_kept_of_one_camera_or_size_is_not_taken_for_another(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    parts = {size: data.load("digits", "train", size=size, limit=20) for size in (8, 9)}
    recipe = replace(ADAM, epochs=1, timesteps=2, coding="frames", precision="fp32")
    for split in (
        recorded(parts[8], Camera(), 2),
        recorded(parts[8], Camera(threshold=0.9), 2),
        recorded(parts[9], Camera(), 2),
    ):
        net = trials.fresh("ms-resnet8", split, init="paper", width=0.25)
        trials.run(net, split, split, split, recipe, counted_images=1, keep=True)
    kept = [*(tmp_path / "cache" / "trials").iterdir()]
    assert len(kept) == 3
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(net, recorded(parts[8], Camera(), 2), split, recipe, kept[0])
