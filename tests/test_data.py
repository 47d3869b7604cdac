"""Data sets: splits, means, subsets, image trees, and where files live."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from snnkit import data, paths, sources
from snnkit.recipe import Recipe
from snnkit.train import fit

SIZE = 8


def write_image(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def image_tree(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    """A tree of class folders of random images, each different."""
    for kind, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write_image(root / name / f"{i:03}{suffix}", seed=1000 * kind + i + 100_000 * len(root.name))
    return root


def load(root: Path, split: str, **options) -> data.Split:
    return data.load(f"imagefolder:{root}", split, size=SIZE, **options)


# --- digits ---


def test_digits_are_scikit_learns_scaled_to_bytes():
    split, raw = data.load("digits", "test", size=8), load_digits()
    expected = (torch.tensor(raw.images, dtype=torch.float32) / 16 * 255).round().to(torch.uint8)
    assert torch.equal(split.pixels[:, 0], expected[split.indices])
    assert torch.equal(split.labels, torch.tensor(raw.target)[split.indices])
    assert split.classes == tuple("0123456789")
    assert data.load("digits", "test").pixels.shape[1:] == (1, 32, 32)


def test_splits_are_disjoint_whole_and_fixed():
    splits = [data.load("digits", split, size=SIZE) for split in sources.SPLITS]
    together = torch.cat([split.indices for split in splits])
    assert torch.equal(together.sort().values, torch.arange(1797))
    assert [len(split) for split in splits] == [1258, 180, 359]
    again = data.load("digits", "validation", size=SIZE, seed=5)
    assert torch.equal(again.indices, splits[1].indices)


def test_the_images_held_out_are_the_same_for_everybody_and_for_ever():
    held_out = data.load("digits", "validation", size=SIZE).indices
    assert held_out[:8].tolist() == [17, 25, 49, 51, 52, 72, 75, 86]
    assert held_out.sum() == 163207


@pytest.mark.parametrize("split", sources.SPLITS)
def test_every_split_has_every_class_in_proportion(split):
    chosen = data.load("digits", split, size=SIZE).labels
    share = len(chosen) / 1797
    expected = torch.tensor(load_digits().target).bincount() * share
    assert (chosen.bincount(minlength=10) - expected).abs().max() <= 1


def test_the_mean_is_that_of_the_training_images_in_every_split():
    splits = {split: data.load("digits", split, size=SIZE) for split in sources.SPLITS}
    by_hand = splits["train"].pixels.double().mean(0) / 255
    for split in splits.values():
        torch.testing.assert_close(split.mean.double(), by_hand, rtol=0, atol=1e-7)
    elsewhere = splits["test"].pixels.double().mean(0) / 255
    assert (elsewhere - by_hand).abs().max() > 1e-3


def test_images_are_pixels_over_255_minus_the_mean_and_within_one():
    split = data.load("digits", "train", size=SIZE, limit=50)
    assert torch.equal(split.images, split.pixels / 255 - split.mean)
    assert torch.equal(split.batch([3, 1]), split.images[[3, 1]])
    assert split.images.abs().max() <= 1
    assert split.images.dtype == torch.float32


def test_a_given_mean_is_the_one_subtracted():
    mean = torch.full((1, SIZE, SIZE), 0.25)
    split = data.load("digits", "test", size=SIZE, mean=mean)
    assert torch.equal(split.images, split.pixels / 255 - 0.25)
    with pytest.raises(
        ValueError, match=r"mean has shape \(1, 8, 8\); the images of digits at size 16 are \(1, 16, 16\)"
    ):
        data.load("digits", "test", size=16, mean=mean)


# --- subsets ---


@pytest.mark.parametrize("limit", [1, 10, 37, 100])
def test_a_limit_is_class_balanced_and_seeded(limit):
    first, same, other = (data.load("digits", "train", size=SIZE, limit=limit, seed=s) for s in (1, 1, 2))
    counts = first.labels.bincount(minlength=10)
    assert len(first) == limit
    assert counts.max() - counts.min() <= 1
    assert torch.equal(first.indices, same.indices)
    assert not torch.equal(first.indices, other.indices)
    whole = data.load("digits", "train", size=SIZE)
    assert set(first.indices.tolist()) <= set(whole.indices.tolist())
    assert torch.equal(first.mean, whole.mean)  # the mean does not follow the limit


def test_a_subset_holds_the_images_that_it_names():
    whole = data.load("digits", "test", size=SIZE)
    part = whole.subset(40, seed=3)
    position = {int(index): place for place, index in enumerate(whole.indices)}
    places = [position[int(index)] for index in part.indices]
    assert len(set(places)) == 40
    assert torch.equal(part.pixels, whole.pixels[places])
    assert torch.equal(part.labels, whole.labels[places])
    assert part.describe() == "handwritten digits (scikit-learn), test, 40 images"


@pytest.mark.parametrize("limit", [0, -1, 360, 2.5, True])
def test_a_limit_that_cannot_be_had_is_refused(limit):
    words = rf"limit is {limit}; handwritten digits \(scikit-learn\) test has 359 images, ask for 1 to 359"
    with pytest.raises(ValueError, match=words):
        data.load("digits", "test", size=SIZE, limit=limit)
    with pytest.raises(ValueError, match=words):
        data.load("digits", "test", size=SIZE).subset(limit)


# --- image trees ---


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_tree_without_split_folders_is_split_eight_to_one_to_one(tmp_path, suffix):
    root = image_tree(tmp_path / "pets", {"cat": 20, "dog": 20}, suffix)
    splits = [load(root, split) for split in sources.SPLITS]
    assert [len(split) for split in splits] == [32, 4, 4]
    assert sorted(torch.cat([split.indices for split in splits]).tolist()) == list(range(40))
    assert all(split.labels.bincount().tolist() == [len(split) // 2] * 2 for split in splits)
    assert splits[0].classes == ("cat", "dog")
    assert splits[0].describe() == "pets, train, 32 images"


def test_an_unbalanced_tree_keeps_every_class_in_every_split(tmp_path):
    root = image_tree(tmp_path / "pets", {"cat": 80, "dog": 20})
    assert [load(root, split).labels.bincount().tolist() for split in sources.SPLITS] == [[64, 16], [8, 2], [8, 2]]


def test_pixels_and_labels_are_those_of_the_files(tmp_path):
    root = tmp_path / "squares"
    for name, value in (("dark", 10), ("light", 200)):
        for i in range(10):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE), (value, value + i, 0)).save(root / name / f"{i}.png")
    train = load(root, "train")
    for pixels, label, index in zip(train.pixels, train.labels, train.indices, strict=True):
        value, number = (10, 200)[label], int(index) % 10
        assert int(label) == int(index) // 10
        assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [value, value + number, 0]


def test_a_tree_with_train_and_test_gives_a_tenth_of_the_training_images_for_choosing(tmp_path):
    image_tree(tmp_path / "train", {"cat": 20, "dog": 20})
    image_tree(tmp_path / "test", {"cat": 3, "dog": 3})
    train, validation, test = (load(tmp_path, split) for split in sources.SPLITS)
    assert [len(split) for split in (train, validation, test)] == [36, 4, 6]
    assert not set(train.indices.tolist()) & set(validation.indices.tolist())
    assert validation.labels.bincount().tolist() == [2, 2]
    assert torch.equal(test.mean, train.mean)
    torch.testing.assert_close(train.mean, train.pixels.double().mean(0).float() / 255)


@pytest.mark.parametrize(
    ("folders", "lengths"),
    [
        ({"train": 10, "validation": 2, "test": 3}, [20, 4, 6]),
        ({"train": 10, "valid": 2, "test": 3}, [20, 4, 6]),
        ({"train": 10, "val": 2, "test": 3}, [20, 4, 6]),
        ({"train": 10, "val": 3}, [18, 2, 6]),
    ],
)
def test_split_folders_of_its_own_are_used_by_their_names(tmp_path, folders, lengths):
    for name, count in folders.items():
        image_tree(tmp_path / name, {"cat": count, "dog": count})
    splits = [load(tmp_path, split) for split in sources.SPLITS]
    assert [len(split) for split in splits] == lengths
    assert torch.equal(splits[0].mean, splits[1].mean)
    assert torch.equal(splits[0].mean, splits[2].mean)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_any_mode_become_three_channels(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    for i in range(10):
        write_image(tmp_path / "one" / f"{i}{suffix}", i, mode)
    assert load(tmp_path, "train").pixels.shape == (8, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda root: None, FileNotFoundError, r"no image folder at .*gone; give the path of a folder"),
        (lambda root: root.mkdir(), FileNotFoundError, r"no images to load below .*gone; every class needs a folder"),
        (lambda root: (root / "cat").mkdir(parents=True), FileNotFoundError, r"no images to load below .*cat"),
        (lambda root: write_image(root / "flat.png", 0), ValueError, r"gone has only 1 images, none is left for test"),
        (
            lambda root: [image_tree(root, {"cat": 2}), (root / "dog").mkdir()],
            FileNotFoundError,
            r"no images to load below .*dog",
        ),
        (lambda root: image_tree(root / "train", {"cat": 20}), FileNotFoundError, r"train folder but no test or val"),
        (lambda root: image_tree(root / "test", {"cat": 20}), FileNotFoundError, r"test folder but no train folder"),
        (
            lambda root: [image_tree(root / "train", {"cat": 9, "dog": 9}), image_tree(root / "test", {"dog": 9})],
            ValueError,
            r"class folders of .*test differ from those of .*train \(cat\)",
        ),
        (
            lambda root: image_tree(root, {"cat": 1}),
            ValueError,
            r"only 1 images, none is left for test",
        ),
    ],
    ids=["missing", "empty", "empty class", "flat", "one empty class", "no test", "no train", "other classes", "one"],
)
def test_a_tree_that_cannot_be_used_is_refused_in_one_line(tmp_path, make, error, words):
    root = tmp_path / "gone"
    make(root)
    with pytest.raises(error, match=words) as refusal:
        load(root, "test")
    assert "\n" not in str(refusal.value)


def test_a_folder_of_images_alone_has_one_class(tmp_path):
    for place in range(20):
        write_image(tmp_path / f"{place:02}.png", place)
    (tmp_path / "notes.txt").write_text("not an image")
    parts = [load(tmp_path, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert {part.classes for part in parts} == {(sources.UNLABELLED,)}
    assert data.count(f"imagefolder:{tmp_path}", "train") == 16
    assert len({int(index) for part in parts for index in part.indices}) == 20


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"no image" * 20])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_corrupt_image_is_named(tmp_path, damage, suffix):
    root = image_tree(tmp_path / "pets", {"cat": 10}, suffix)
    broken = root / "cat" / f"{int(load(root, 'train').indices[3]):03}{suffix}"
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(ValueError, match=rf"cannot read the image .*{broken.name}: .*replace or remove the file"):
        load(root, "train")


def test_more_pixels_than_memory_stay_in_their_files_and_are_read_by_batch(tmp_path, monkeypatch):
    root = image_tree(tmp_path / "pets", {"cat": 20})
    whole = load(root, "train")
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 5 * 3 * SIZE * SIZE)
    split = load(root, "train", mean=whole.mean)
    assert isinstance(split.pixels, sources.Unread)
    assert split.pixels.shape == whole.pixels.shape
    for index in (slice(3, 7), [1, 4], torch.tensor([9, 2])):
        assert torch.equal(split.batch(index), whole.batch(index))
    assert torch.equal(split.subset(4).pixels, whole.subset(4).pixels)
    assert isinstance(split.subset(8).pixels, sources.Unread)
    assert torch.equal(split.first(8).first(2).pixels, whole.pixels[:2])
    assert len(load(root, "train", limit=5, mean=whole.mean).pixels) == 5
    with pytest.raises(ValueError, match=r"16 images of size 8 take .* at once; take at most 5 \(limit=\)"):
        split.images  # noqa: B018


def test_a_net_learns_the_same_from_files_as_from_memory(tmp_path, monkeypatch):
    root = image_tree(tmp_path / "pets", {"cat": 20, "dog": 20})
    losses = []
    monkeypatch.setattr(data, "MEAN_BATCH", 4)
    for limit in (2**30, 9 * 3 * SIZE * SIZE):
        monkeypatch.setattr(sources, "MEMORY_LIMIT", limit)
        split, validation = load(root, "train"), load(root, "validation")
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 2))
        losses.append(fit(net, split, validation, Recipe(epochs=2, batch=8), say=lambda line: None).rows)
    assert losses[0] == losses[1]


def test_the_mean_is_taken_a_few_images_at_a_time(tmp_path, monkeypatch):
    root = image_tree(tmp_path / "pets", {"cat": 20})
    whole = load(root, "train").mean
    monkeypatch.setattr(data, "MEAN_BATCH", 3)
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 3 * 3 * SIZE * SIZE)
    assert torch.equal(load(root, "test").mean, whole)


def test_the_mean_of_a_large_set_comes_from_a_balanced_part(tmp_path, monkeypatch):
    root = tmp_path / "two"
    for name, value in (("dark", 0), ("light", 255)):
        for i in range(20):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE), (value,) * 3).save(root / name / f"{i}.png")
    monkeypatch.setattr(data, "MEAN_IMAGES", 6)
    assert torch.equal(load(root, "test").mean, torch.full((3, SIZE, SIZE), 0.5))


# --- names and missing sets ---


def test_unknown_names_and_splits_are_refused_and_the_known_ones_named():
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnist'; the data sets are digits, cifar10.*imagefolder:PATH"
    ):
        data.load("mnist", "train")
    with pytest.raises(ValueError, match="unknown split 'val'; use one of train, validation, test"):
        data.load("digits", "val")


@pytest.mark.parametrize("size", [0, -8, 8.5])
def test_a_size_that_makes_no_sense_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}; it must be a whole number of pixels"):
        data.load("digits", "test", size=size)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("split", sources.SPLITS)
def test_absent_cifar_says_how_to_get_it_and_fetches_nothing(tmp_path, monkeypatch, name, split):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("opened a connection"))
    with pytest.raises(FileNotFoundError, match=rf"CIFAR-10.* is not in .*python -m snnkit fetch {name}"):
        data.load(name, split, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_absent_imagenet_and_jpeg_copy_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ImageNet is not in .*image-net\.org"):
        data.load("imagenet", "test", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no image folder at .*cifar10-jpeg"):
        data.load("cifar10-jpeg", "test", root=tmp_path)


def test_the_jpeg_copy_stands_in_for_cifar10_under_its_own_label(tmp_path):
    image_tree(tmp_path / "cifar10-jpeg" / "train", {"cat": 20, "dog": 20}, ".jpg")
    image_tree(tmp_path / "cifar10-jpeg" / "test", {"cat": 2, "dog": 2}, ".jpg")
    split = data.load("cifar10", "train", root=tmp_path, size=SIZE)
    assert split.label == "CIFAR-10 (JPEG)"
    assert split.name == "cifar10"
    assert len(split) == 36


def test_the_original_cifar10_is_preferred_and_read_as_it_is(tmp_path, monkeypatch):
    # a tiny set in the original's format: five training files and a test file of 20 images each
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator, rows = np.random.default_rng(0), {}
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        rows[name] = generator.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = {"data": rows[name], "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    (tmp_path / "cifar10-jpeg").mkdir()
    train, validation, test = (data.load("cifar10", split, root=tmp_path) for split in sources.SPLITS)
    assert [len(split) for split in (train, validation, test)] == [90, 10, 20]
    assert validation.labels.bincount().tolist() == [1] * 10
    assert torch.equal(test.pixels, torch.from_numpy(rows["test_batch"]).view(20, 3, 32, 32))
    stacked = torch.from_numpy(np.concatenate([rows[name] for name in names[:5]])).view(100, 3, 32, 32)
    assert torch.equal(train.pixels, stacked[train.indices])
    assert (train.label, train.classes) == ("CIFAR-10", tuple("abcdefghij"))


# --- paths ---


def test_files_live_where_the_variable_says_else_in_the_checkout_else_in_the_users_cache(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "snnkit").mkdir(parents=True)
    (checkout / "data").mkdir()
    (checkout / "data" / "paper.yaml").touch()
    monkeypatch.setattr(paths, "__file__", str(checkout / "snnkit" / "paths.py"))
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path / "named"))
    assert paths.data_root() == tmp_path / "named"
    monkeypatch.setenv("SNNKIT_DATA", "~/named")
    assert paths.data_root() == Path.home() / "named"
    monkeypatch.delenv("SNNKIT_DATA")
    assert paths.data_root() == checkout / "data"
    (checkout / "data" / "paper.yaml").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.data_root() == tmp_path / "cache" / "snnkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert paths.data_root() == Path.home() / ".cache" / "snnkit"


def test_what_the_named_folder_lacks_is_found_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    assert paths.locate("paper.yaml").parent == paths.data_roots()[1]
    assert paths.locate("nowhere") == tmp_path / "nowhere"
    (tmp_path / "paper.yaml").touch()
    assert paths.locate("paper.yaml") == tmp_path / "paper.yaml"


def test_data_sets_are_looked_for_below_the_named_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    image_tree(tmp_path / "cache" / "cifar10-jpeg" / "train", {"cat": 20}, ".jpg")
    assert len(data.load("cifar10-jpeg", "train", size=SIZE)) == 18


@pytest.mark.parametrize("content", ["words", b"\x00bytes"])
def test_writing_atomically_writes_all_and_leaves_nothing_else(tmp_path, content):
    target = tmp_path / "new" / "folder" / "file"
    paths.write_atomically(target, "old")
    paths.write_atomically(target, content)
    assert target.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("refusing", ["write_bytes", "replace"])
def test_a_disk_that_refuses_keeps_the_old_file_and_leaves_no_half_written_one(tmp_path, monkeypatch, refusing):
    target = tmp_path / "file"
    paths.write_atomically(target, "old")

    def full(path, *rest):
        if refusing == "write_bytes":
            path.open("wb").write(b"ha")  # half of it got there
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path if refusing == "write_bytes" else os, refusing, full)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left on device; free the disk .*SNNKIT_DATA"):
        paths.write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "results").write_text("I am a file")
    with pytest.raises(OSError, match=r"cannot write .*record\.json: .*SNNKIT_DATA") as refusal:
        paths.write_atomically(tmp_path / "results" / "record.json", "{}")
    assert "\n" not in str(refusal.value)
