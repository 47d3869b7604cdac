"""Event streams: frames, refusals, and the recorded data sets through Tonic."""

import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tonic import datasets
from tonic.io import read_aedat4, read_mnist_file

from snnkit import checkpoint, coding, events, ledger
from snnkit.__main__ import main
from snnkit.events import Events
from snnkit.paths import data_roots

SAMPLES = next((path for root in data_roots() if (path := root / "cache" / "events").is_dir()), None)
samples = pytest.mark.skipif(SAMPLES is None, reason="no recordings in data/cache/events")


def test_frames_count_by_bin_polarity_and_place():
    t, x, y = torch.tensor([0.0, 0.4, 0.5, 1.0]).double(), torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])
    events = Events(t, x, y, torch.tensor([True, False, True, True]), (2, 3), 1.0)
    frames = events.frames(2)
    assert frames.shape == (2, 2, 2, 3)
    assert frames.nonzero().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 2]]
    assert events.frames(1).sum() == 4


def test_frames_can_gather_pixels():
    t, x, y = torch.zeros(3).double(), torch.tensor([0, 1, 3]), torch.tensor([0, 1, 3])
    counts = Events(t, x, y, torch.tensor([True, True, False]), (4, 4), 1.0).frames(1, (2, 2))
    assert counts[0, 1].tolist() == [[2, 0], [0, 0]]
    assert counts[0, 0].tolist() == [[0, 0], [0, 1]]


def test_events_of_an_array_are_sorted_and_begin_at_zero():
    fields = [("x", int), ("y", int), ("t", np.uint64), ("p", bool)]
    array = np.array([(1, 2, 3_000_000, True), (4, 5, 1_000_000, False)], dtype=fields)
    found = Events.from_array(array, (8, 8))
    assert found.t.tolist() == [0.0, 2.0]
    assert (found.x.tolist(), found.y.tolist(), found.on.tolist()) == ([4, 1], [5, 2], [False, True])
    assert found.duration == 2.0
    signed = np.array([(1, 2, 3, -1), (4, 5, 4, 1)], dtype=[("x", int), ("y", int), ("t", int), ("p", int)])
    assert Events.from_array(signed, (8, 8)).on.tolist() == [False, True]
    with pytest.raises(ValueError, match="the recording holds no event"):
        Events.from_array(array[:0], (8, 8))


def test_an_event_on_a_border_belongs_to_the_later_bin():
    for timesteps in (3, 4, 5, 10):
        t = torch.arange(timesteps + 1).double() * 1e-4 / timesteps
        place = torch.zeros(timesteps + 1, dtype=torch.int64)
        counts = Events(t, place, place, place.bool(), (1, 1), 1e-4).frames(timesteps).flatten(1).sum(1)
        assert counts.tolist() == [1.0] * (timesteps - 1) + [2.0]


@pytest.mark.parametrize("size", [(8, 8), 2, (0, 2), (2.5, 2), (2,)])
def test_a_size_that_the_sensor_does_not_have_is_refused(size):
    place = torch.zeros(1, dtype=torch.int64)
    found = Events(torch.zeros(1).double(), place, place, place.bool(), (4, 4), 1.0)
    with pytest.raises(ValueError, match=r"give height and width, two whole numbers at most 4 and 4"):
        found.frames(2, size)


# --- recorded data sets ---


def nmnist_bytes(rows) -> bytes:
    """Events (x, y, on, microseconds) as N-MNIST stores them: 8 bits x, 8 bits y, 1 bit polarity, 23 bits time."""
    return b"".join(bytes([x, y, on << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, on, t in rows)


@pytest.fixture
def nmnist(tmp_path, monkeypatch):
    """Ten recordings of each digit d to test on, with d events in the first half and one in the second; twelve to train
    on, with one more."""
    monkeypatch.setattr(datasets.NMNIST, "_check_exists", lambda self: True)
    monkeypatch.setitem(events.DATASETS, "nmnist", events.DATASETS["nmnist"]._replace(training=120, testing=100))
    for part, count in (("Train", 12), ("Test", 10)):
        for digit in range(10):
            folder = tmp_path / "NMNIST" / part / str(digit)
            folder.mkdir(parents=True)
            for number in range(count):
                rows = [(digit, number, 1, 10 * step) for step in range(digit + (part == "Train"))]
                rows = [(0, 33, 0, 0), *rows, (33, 0, 0, 1000)]
                (folder / f"{number:05}.bin").write_bytes(nmnist_bytes(rows))
    return tmp_path


def test_recordings_become_frames_by_polarity(nmnist):
    split = events.load("nmnist", "test", 2, root=nmnist)
    assert split.pixels.shape == (100, 4, 34, 34)
    assert split.describe() == "N-MNIST (2 frames of 34 x 34), test, 100 images"
    assert split.frames == 2
    frames = coding.frames(split.images * 255 / events.COUNT, 2)  # [T, B, polarity, H, W]
    assert torch.allclose(frames[0, :, 1].sum((1, 2)), split.labels.float())
    assert torch.allclose(frames[1, :, 1].sum((1, 2)), torch.zeros(100))
    for step, (y, x) in enumerate([(33, 0), (0, 33)]):
        assert torch.allclose(frames[step, :, 0, y, x], torch.ones(100))
        assert torch.allclose(frames[step, :, 0].sum((1, 2)), torch.ones(100))


def test_recordings_are_split_limited_and_gathered(nmnist):
    train, validation = (events.load("nmnist", name, 2, root=nmnist) for name in ("train", "validation"))
    assert (len(train), len(validation)) == (108, 12)
    assert not {*train.indices.tolist()} & {*validation.indices.tolist()}
    for split in (train, validation):  # both from the recordings to train on, which have one event more
        counts = coding.frames(split.images * 255 / events.COUNT, 2)[0, :, 1].sum((1, 2))
        assert torch.allclose(counts, split.labels + 1.0)
    few, other = (events.load("nmnist", "train", 3, root=nmnist, limit=20, size=17, seed=seed) for seed in (0, 1))
    assert few.pixels.shape == (20, 6, 17, 17)
    assert torch.bincount(few.labels).tolist() == [2] * 10
    assert {*few.indices.tolist()} != {*other.indices.tolist()}


@pytest.fixture
def cifar10_dvs(tmp_path, monkeypatch):
    """Ten recordings of each class c, number n: n events at pixel (c, 127); listed in no order."""
    monkeypatch.setattr(datasets.CIFAR10DVS, "_check_exists", lambda self: True)
    monkeypatch.setitem(events.DATASETS, "cifar10-dvs", events.DATASETS["cifar10-dvs"]._replace(training=100))
    real, generator = os.walk, random.Random(0)

    def walk(path):
        for folder, folders, files in real(path):
            generator.shuffle(files)
            yield folder, folders, files

    def read(file):
        label, number = datasets.CIFAR10DVS.classes[Path(file).parent.name], int(Path(file).stem)
        fields = [("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("on", bool)]
        return np.array([(5 + step, label, 127, True) for step in range(number)], dtype=fields)

    monkeypatch.setattr("os.walk", walk)
    monkeypatch.setattr("tonic.datasets.cifar10dvs.read_aedat4", read)
    for name in datasets.CIFAR10DVS.classes:
        folder = tmp_path / "CIFAR10DVS" / name
        folder.mkdir(parents=True)
        for number in range(1, 11):
            (folder / f"{number}.aedat4").touch()
    return tmp_path


def test_cifar10_dvs_is_split_by_file_name_in_eight_one_and_one_tenth(cifar10_dvs):
    parts = {name: events.load("cifar10-dvs", name, 2, root=cifar10_dvs) for name in ("train", "validation", "test")}
    assert [len(split) for split in parts.values()] == [80, 10, 10]
    indices = [{*split.indices.tolist()} for split in parts.values()]
    assert len(set.union(*indices)) == 100
    for split in parts.values():
        again = events.load("cifar10-dvs", split.split, 2, root=cifar10_dvs)
        assert torch.equal(again.pixels, split.pixels), "whatever order the disk has"
        assert split.pixels.shape[1:] == (4, 128, 128)
        assert torch.bincount(split.labels).tolist() == [len(split) // 10] * 10
        at = split.pixels[torch.arange(len(split)), 1::2, 127, split.labels].sum(1)  # where the events of its class are
        assert torch.equal(at, split.pixels.flatten(1).sum(1))
    assert events.load("cifar10-dvs", "test", 2, root=cifar10_dvs).classes[3] == "cat"


def test_recordings_that_are_not_complete_are_refused(cifar10_dvs):
    (cifar10_dvs / "CIFAR10DVS" / "cat" / "4.aedat4").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds 99 of 100 recordings; delete it and fetch or unpack it with: py"
    ):
        events.load("cifar10-dvs", "train", 2, root=cifar10_dvs)
    stray = cifar10_dvs / "CIFAR10DVS" / "__MACOSX"
    stray.mkdir()
    (stray / "._1.aedat4").touch()
    with pytest.raises(
        FileNotFoundError, match=r"is not as Tonic left it \('__MACOSX'\); delete it and fetch or unpack"
    ):
        events.load("cifar10-dvs", "train", 2, root=cifar10_dvs)


def test_a_file_that_is_no_recording_is_named(cifar10_dvs, monkeypatch):
    def broken(file):
        raise RuntimeError("failed to fill whole buffer")

    monkeypatch.setattr("tonic.datasets.cifar10dvs.read_aedat4", broken)
    with pytest.raises(ValueError, match=r"cannot read .*aedat4: failed to fill whole buffer; replace or remove the f"):
        events.load("cifar10-dvs", "train", 2, root=cifar10_dvs)


def test_a_pixel_holds_31_events_a_frame_and_a_warning_says_so():
    counts = torch.tensor([0.0, 1.0, 31.0, 40.0]).view(1, 1, 4, 1, 1).expand(1, 2, 4, 1, 1)
    with pytest.warns(
        UserWarning, match="pixels with more than 31 events a frame are cut; take more frames, or more p"
    ):
        pixels = events.as_pixels(counts)
    assert pixels.shape == (1, 8, 1, 1)
    assert pixels.flatten().tolist() == [0, 8, 248, 248] * 2


def test_images_that_do_not_fit_into_memory_are_refused_when_all_are_asked_for(nmnist, monkeypatch):
    monkeypatch.setattr("snnkit.sources.MEMORY_LIMIT", 50 * 4 * 34 * 34)
    split = events.load("nmnist", "test", 2, root=nmnist)
    assert split.batch(slice(3)).shape == (3, 4, 34, 34)
    with pytest.raises(ValueError, match=r"100 images of size 34 take .* at once; take at most 50"):
        split.images  # noqa: B018


def test_a_net_is_trained_on_recordings_from_the_command_line(nmnist, monkeypatch, capsys):
    monkeypatch.setenv("SNNKIT_DATA", str(nmnist / "data"))
    (nmnist / "NMNIST").rename((nmnist / "data" / "cache").mkdir(parents=True) or nmnist / "data/cache/NMNIST")
    options = ["--data", "nmnist", "--timesteps", "2", "--epochs", "1", "--width", "0.25", "--size", "17"]
    for model in ("ms-resnet8", "vgg3"):
        assert main(["train", model, *options, "--coding", "frames", "--name", "tiny"]) == 0
        loaded = checkpoint.load("tiny")
        assert loaded.net.config["in_channels"] == 2
        assert ledger.load("checkpoints/tiny")["data"] == "N-MNIST (2 frames of 17 x 17), test, 100 images"
        shutil.rmtree(nmnist / "data" / "cache" / "training")
    assert main(["train", "ms-resnet8", *options]) == 1
    assert main(["train", "ms-resnet8", *options, "--data", "digits", "--coding", "frames"]) == 1
    said = capsys.readouterr().err
    assert "snnkit: nmnist holds recordings; give --coding frames --timesteps T" in said
    assert "holds still images; the recipe needs another coding than 'frames'" in said


def test_missing_recordings_are_not_fetched(tmp_path, monkeypatch):
    for kind in (datasets.CIFAR10DVS, datasets.NMNIST):
        monkeypatch.setattr(kind, "download", lambda self: pytest.fail("fetched"))
    for name, folder in (("cifar10-dvs", "CIFAR10DVS"), ("nmnist", "NMNIST")):
        with pytest.raises(FileNotFoundError, match=f"is not in .*{folder}, or not unpacked; fetch or unpack it"):
            events.load(name, "train", 4, root=tmp_path)


def test_download_is_passed_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets.NMNIST, "download", lambda self: asked.append(self.location_on_system))
    with pytest.raises(FileNotFoundError, match="holds 0 of 10000 recordings"):
        events.load("nmnist", "test", 4, root=tmp_path, download=True)
    assert asked == [str(tmp_path / "NMNIST")]


def test_an_empty_recording_is_named(nmnist):
    file = nmnist / "NMNIST" / "Test" / "3" / "00004.bin"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot read .*3/00004.bin: the recording holds no event; replace or"):
        events.load("nmnist", "test", 2, root=nmnist)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("dvs128", "train", 4), "unknown event data set 'dvs128'; use one of cifar10-dvs, nmnist"),
        (("nmnist", "val", 4), "unknown split 'val'; use one of train, validation, test"),
        (("nmnist", "train", 0), "timesteps is 0"),
        (("nmnist", "train", 4, 64), "size is 64; the sensor of N-MNIST has 34 pixels a side"),
    ],
)
def test_bad_requests_get_one_clear_line(given, words):
    name, split, timesteps, *size = given
    with pytest.raises(ValueError, match=words):
        events.load(name, split, timesteps, size=size[0] if size else None)


@samples
def test_a_recording_of_nmnist_is_read():
    found = Events.from_array(
        read_mnist_file(Path(SAMPLES) / "sample_nmnist.bin", dtype=datasets.NMNIST.dtype), (34, 34)
    )
    assert len(found) == 4325
    assert found.duration == pytest.approx(0.3105, abs=1e-4)  # three saccades of 0.1 s
    counts = found.frames(3)
    assert counts.sum() == 4325
    assert counts.sum((1, 2, 3)).min() > 1000


@samples
def test_a_recording_in_the_format_of_cifar10_dvs_is_read():
    array = read_aedat4(str(Path(SAMPLES) / "sample.aedat4"))
    array.dtype.names = ["t", "x", "y", "p"]  # as Tonic's CIFAR10DVS names them
    found = Events.from_array(array, (240, 320))
    assert len(found) == found.frames(8).sum() == 111954
    assert found.duration == pytest.approx(0.589917)
    assert found.frames(8, (30, 40)).shape == (8, 2, 30, 40)


# --- refusals ---


def test_events_outside_of_their_sensor_time_or_order_are_refused():
    one = torch.tensor([1, 1])

    def events(t=(0.2, 0.5), x=one, duration=1.0, size=(4, 4)):
        return Events(torch.tensor(t).double(), x, one, one.bool(), size, duration)

    assert len(events()) == 2
    for wrong, words in (
        ({"x": torch.tensor([1, 9])}, "outside of the sensor of 4 x 4 pixels"),
        ({"t": (0.5, 2.0)}, "do not rise from 0 to 1 s"),
        ({"t": (0.5, 0.2)}, "do not rise from 0 to 1 s"),
        ({"t": (0.5, math.nan)}, "do not rise from 0 to 1 s"),
        ({"duration": 0.0}, "duration is 0"),
        ({"x": one.float()}, "give tensors of one length, t torch.float64, x torch.int64"),
        ({"t": (0.5,)}, "give tensors of one length"),
        ({"x": [1, 1]}, "'x': 'list'"),
        ({"size": (4,)}, r"size is \(4,\); give height and width, two whole numbers above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            events(**wrong)
