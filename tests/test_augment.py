"""Augmentation: shifts by hand, torchvision's transforms seeded and on the scale of the images."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from snnkit import data
from snnkit.augment import augmented, shift
from snnkit.recipe import Recipe


def test_shift_moves_each_image_whole_and_fills_with_the_mean():
    images = torch.rand(60, 2, 8, 8) + 1
    moved = shift(images, 2, torch.Generator().manual_seed(0))
    padded, offsets = nn.functional.pad(images, (2,) * 4), set()
    for image, result in zip(padded, moved, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if torch.equal(image[:, i : i + 8, j : j + 8], result)]
        assert len(places) == 1
        offsets.update(places)
    assert len(offsets) > 15  # 25 are possible


@pytest.mark.parametrize("transform", ["rotation", "resized-crop", "autoaugment"])
def test_a_transform_changes_images_reproducibly_and_keeps_their_scale(transform):
    split = data.load("digits", "train", size=16, limit=40)
    recipe, index = Recipe(augment=False, flip=False, transform=transform), torch.arange(40)

    def drawn(seed):
        torch.manual_seed(seed)
        return augmented(split, index, recipe, torch.Generator())

    images = drawn(0)
    assert images.shape == split.images.shape
    assert torch.equal(images, drawn(0))
    if transform == "autoaugment":
        recipe = Recipe(augment=False, flip=False, transform="resized-crop")
        assert not torch.equal(images, drawn(0)), "more than a crop"
        recipe = Recipe(augment=False, flip=False, transform=transform)
    assert not torch.equal(images, drawn(1))
    same = (images == split.images).flatten(1).all(1)
    assert same.double().mean() < 0.3
    pixels = images + split.mean
    assert -1e-6 < pixels.min() < pixels.max() < 1 + 1e-6


def test_rotation_turns_by_15_degrees_at_most():
    split = data.load("digits", "train", size=16, limit=10)
    bar = torch.zeros(400, 1, 33, 33, dtype=torch.uint8)
    bar[..., 16] = 255
    bars = replace(split, pixels=bar, mean=torch.zeros(1, 33, 33))
    torch.manual_seed(0)
    turned = augmented(
        bars, torch.arange(400), Recipe(augment=False, flip=False, transform="rotation"), torch.Generator()
    )
    top = turned[:, 0, 0].argmax(1) - 16  # columns by which the upper end moved: 16 tan(15 degrees) = 4.3
    assert top.abs().max() == 4
    assert top.unique().tolist() == [*range(-4, 5)]
