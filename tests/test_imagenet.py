"""ImageNet from its archives, and the same pictures as a plain tree: real photographs in a tiny set of two classes."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

from snnkit import data, sources
from snnkit.__main__ import main

CLASSES = {"n01440764": "tench, Tinca tinca", "n03956157": "planetarium"}  # two of ILSVRC2012's thousand
TRAIN, VALIDATION = 20, 3  # pictures of each class


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[bytes]]:
    """JPEG bytes of crops from scikit-learn's two photographs, each different, some upright and some lying."""
    found = {}
    for wnid, photograph in zip(CLASSES, load_sample_images().images, strict=True):
        crops = [photograph[8 * i : 8 * i + 120, 14 * i : 14 * i + 90] for i in range(TRAIN + VALIDATION)]
        crops = [crop if i % 2 else crop.transpose(1, 0, 2) for i, crop in enumerate(crops)]
        found[wnid] = [as_jpeg(crop) for crop in crops]
    return found


def as_jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes], mode: str = "w") -> bytes:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def imagenet(tmp_path, monkeypatch, pictures) -> Path:
    """A data folder with the three ILSVRC2012 archives, made small, whose hashes torchvision is told."""
    root = tmp_path / "cache" / "imagenet"
    root.mkdir(parents=True)
    kinds = [(i + 1, wnid, words, "", 0) for i, (wnid, words) in enumerate(CLASSES.items())]
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array(kinds, dtype=fields).reshape(-1, 1)})
    shown = [(kind, content) for i in range(VALIDATION) for kind, content in enumerate(p[i] for p in pictures.values())]
    inner = {wnid: {f"{wnid}_{i}.JPEG": p for i, p in enumerate(pictures[wnid][VALIDATION:])} for wnid in CLASSES}
    sums = {
        "devkit": archive(
            root / "ILSVRC2012_devkit_t12.tar.gz",
            {
                "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
                "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
                    f"{kind + 1}\n" for kind, _ in shown
                ).encode(),
            },
            "w:gz",
        ),
        "val": archive(
            root / "ILSVRC2012_img_val.tar",
            {f"ILSVRC2012_val_{i + 1:08}.JPEG": content for i, (_, content) in enumerate(shown)},
        ),
        "train": archive(
            root / "ILSVRC2012_img_train.tar",
            {f"{wnid}.tar": archive(tmp_path / f"{wnid}.tar", members) for wnid, members in inner.items()},
        ),
    }
    known = torchvision.datasets.imagenet.ARCHIVE_META
    for part, content in sums.items():
        monkeypatch.setitem(known, part, (known[part][0], hashlib.md5(content).hexdigest()))
    return root.parent


def test_the_archives_are_unpacked_split_and_labelled(imagenet, pictures):
    train, validation, test = (data.load("imagenet", split, root=imagenet, size=16) for split in sources.SPLITS)
    assert [len(part) for part in (train, validation, test)] == [36, 4, 6]
    assert train.classes == test.classes == ("tench", "planetarium")
    assert test.label == "ImageNet (ILSVRC2012)"
    assert train.labels.bincount().tolist() == [18, 18]
    assert not {int(i) for i in train.indices} & {int(i) for i in validation.indices}
    for kind, wnid in enumerate(CLASSES):
        of_class = test.pixels[test.labels == kind].double().mean((1, 2, 3)).sort().values
        decoded = [np.asarray(Image.open(io.BytesIO(p)).convert("RGB")) for p in pictures[wnid][:VALIDATION]]
        expected = torch.tensor([float(square(p).mean()) for p in decoded]).double().sort().values
        torch.testing.assert_close(of_class, expected, atol=3.0, rtol=0)  # resampling moves a mean by little


def square(pixels: np.ndarray) -> np.ndarray:
    side, (high, wide) = min(pixels.shape[:2]), ((n - min(pixels.shape[:2])) // 2 for n in pixels.shape[:2])
    return pixels[high : high + side, wide : wide + side]


def test_a_second_load_reads_what_the_first_unpacked(imagenet):
    before = data.load("imagenet", "test", root=imagenet, size=16)
    for tar in (imagenet / "imagenet").glob("*.tar*"):
        tar.unlink()
    after = data.load("imagenet", "test", root=imagenet, size=16, mean=before.mean)
    assert torch.equal(before.pixels, after.pixels)


def test_an_archive_that_is_cut_off_is_refused_in_one_line(imagenet):
    tar = imagenet / "imagenet" / "ILSVRC2012_img_val.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(FileNotFoundError, match=r"ImageNet is not in .*image-net\.org") as refusal:
        data.load("imagenet", "test", root=imagenet, size=16)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("plain", [False, True])
def test_a_net_trains_on_them_from_the_command_line(imagenet, monkeypatch, capsys, plain):
    monkeypatch.setenv("SNNKIT_DATA", str(imagenet.parent))
    name = "imagenet"
    if plain:
        data.load("imagenet", "train", root=imagenet, size=16)
        data.load("imagenet", "test", root=imagenet, size=16)
        name = f"imagefolder:{imagenet / 'imagenet'}"
    options = ["--size", "32", "--width", "0.25", "--epochs", "1", "--batch", "8", "--name", "tiny"]
    assert main(["train", "vgg5", "--data", name, *options]) == 0
    assert ", 6 images; saved" in capsys.readouterr().out
