"""Event streams: frames, refusals, and the recorded data sets through Tonic."""

import math
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
    with pytest.raises(ValueError, match="the recording holds no event"):
        Events.from_array(array[:0], (8, 8))


# --- recorded data sets ---


def nmnist_bytes(rows) -> bytes:
    """Events (x, y, on, microseconds) as N-MNIST stores them: 8 bits x, 8 bits y, 1 bit polarity, 23 bits time."""
    return b"".join(bytes([x, y, on << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, on, t in rows)


@pytest.fixture
def nmnist(tmp_path, monkeypatch):
    """Ten recordings of each digit d, with d events in the first half and one in the second."""
    monkeypatch.setattr(datasets.NMNIST, "_check_exists", lambda self: True)
    for part in ("Train", "Test"):
        for digit in range(10):
            folder = tmp_path / "NMNIST" / part / str(digit)
            folder.mkdir(parents=True)
            for number in range(10):
                rows = [(digit, number, 1, 10 * step) for step in range(digit)] + [(33, 0, 0, 1000)]
                (folder / f"{number:05}.bin").write_bytes(nmnist_bytes([(0, 33, 0, 0), *rows]))
    return tmp_path


def test_recordings_become_frames_by_polarity(nmnist):
    split = events.load("nmnist", "test", 2, root=nmnist)
    assert split.pixels.shape == (100, 4, 34, 34)
    assert split.describe() == "N-MNIST, test, 100 images"
    frames = coding.frames(split.images * 255 / events.COUNT, 2)  # [T, B, polarity, H, W]
    assert torch.allclose(frames[0, :, 1].sum((1, 2)), split.labels.float())
    assert torch.allclose(frames[1, :, 1].sum((1, 2)), torch.zeros(100))
    for step, (y, x) in enumerate([(33, 0), (0, 33)]):
        assert torch.allclose(frames[step, :, 0, y, x], torch.ones(100))
        assert torch.allclose(frames[step, :, 0].sum((1, 2)), torch.ones(100))


def test_recordings_are_split_limited_and_gathered(nmnist):
    train, validation = (events.load("nmnist", name, 2, root=nmnist) for name in ("train", "validation"))
    assert (len(train), len(validation)) == (90, 10)
    assert not {*train.indices.tolist()} & {*validation.indices.tolist()}
    few = events.load("nmnist", "train", 3, root=nmnist, limit=20, size=17)
    assert few.pixels.shape == (20, 6, 17, 17)
    assert torch.bincount(few.labels).tolist() == [2] * 10


def test_a_net_is_trained_on_recordings_from_the_command_line(nmnist, monkeypatch, capsys):
    monkeypatch.setenv("SNNKIT_DATA", str(nmnist / "data"))
    (nmnist / "NMNIST").rename((nmnist / "data" / "cache").mkdir(parents=True) or nmnist / "data/cache/NMNIST")
    options = ["--data", "nmnist", "--timesteps", "2", "--epochs", "1", "--width", "0.25", "--size", "17"]
    for model in ("ms-resnet8", "vgg3"):
        assert main(["train", model, *options, "--coding", "frames", "--name", "tiny"]) == 0
        loaded = checkpoint.load("tiny")
        assert loaded.net.config["in_channels"] == 2
        assert ledger.load("checkpoints/tiny")["data"] == "N-MNIST, test, 100 images"
        shutil.rmtree(nmnist / "data" / "cache" / "training")
    assert main(["train", "ms-resnet8", *options]) == 1
    assert main(["train", "ms-resnet8", *options, "--data", "digits", "--coding", "frames"]) == 1
    said = capsys.readouterr().err
    assert "snnkit: nmnist needs --coding frames --timesteps T" in said
    assert "snnkit: digits holds images; leave --coding frames out" in said


def test_missing_recordings_are_not_fetched(tmp_path, monkeypatch):
    for kind in (datasets.CIFAR10DVS, datasets.NMNIST):
        monkeypatch.setattr(kind, "download", lambda self: pytest.fail("fetched"))
    for name, folder in (("cifar10-dvs", "CIFAR10DVS"), ("nmnist", "NMNIST")):
        with pytest.raises(FileNotFoundError, match=f"is not in .*{folder}; put its archive there, or give download=T"):
            events.load(name, "train", 4, root=tmp_path)


def test_download_is_passed_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets.NMNIST, "download", lambda self: asked.append(self.location_on_system))
    with pytest.raises(ValueError, match="N-MNIST has only 0 images"):
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

    def events(t=(0.2, 0.5), x=one, duration=1.0):
        return Events(torch.tensor(t).double(), x, one, one.bool(), (4, 4), duration)

    assert len(events()) == 2
    for wrong, words in (
        ({"x": torch.tensor([1, 9])}, "outside of the sensor of 4 x 4 pixels"),
        ({"t": (0.5, 2.0)}, "do not rise from 0 to 1 s"),
        ({"t": (0.5, 0.2)}, "do not rise from 0 to 1 s"),
        ({"t": (0.5, math.nan)}, "do not rise from 0 to 1 s"),
        ({"duration": 0.0}, "duration is 0"),
        ({"x": one.float()}, "give lists of one length, t torch.float64, x torch.int64"),
        ({"t": (0.5,)}, "give lists of one length"),
    ):
        with pytest.raises(ValueError, match=words):
            events(**wrong)
