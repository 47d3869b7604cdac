"""Whitening: against the ZCA matrix of all patches, on images whose correlations are known, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from test_layerwise import split_of

from snnkit import whitening


def smooth(count: int = 200, side: int = 16, channels: int = 3) -> torch.Tensor:
    "uint8 images in which neighbours along rows and columns, and all channels, are correlated."
    noise = torch.randn(count, 1, side + 4, side + 4, generator=torch.Generator().manual_seed(0))
    own = torch.randn(count, channels, side + 4, side + 4, generator=torch.Generator().manual_seed(1))
    values = torch.nn.functional.avg_pool2d(noise + 0.3 * own, 5, 1)
    return (127.5 + 127.5 * (values / values.abs().max())).round().to(torch.uint8)


def neighbours(images: torch.Tensor) -> float:
    "Correlation of horizontal neighbours."
    return torch.corrcoef(torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()]))[0, 1].item()


def colours(images: torch.Tensor) -> float:
    return torch.corrcoef(images.movedim(1, 0).flatten(1))[0, 1].item()


def test_filters_are_the_middle_rows_of_the_zca_matrix_of_all_patches(monkeypatch):
    split, size, floor = split_of(smooth(6, 8)), 3, 0.01
    images = split.images
    patches = [
        image[:, y : y + size, x : x + size].flatten().double()
        for image in images
        for y in range(8 - size + 1)
        for x in range(8 - size + 1)
    ]
    covariance = torch.stack(patches).T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    zca = vectors @ torch.diag((values + floor) ** -0.5) @ vectors.T
    rows = torch.stack([zca[9 * channel + 4] for channel in range(3)]).view(3, 3, size, size)
    monkeypatch.setattr(whitening, "PATCHES", 400_000)  # so many draws that they stand for all
    found = whitening.fit(split, size, floor).filters
    scale = (found * rows).sum() / (rows * rows).sum()
    assert torch.allclose(found.double() / scale, rows, atol=0.02 * rows.abs().max())


def test_neighbours_and_colours_are_no_longer_correlated():
    split = split_of(smooth())
    white = whitening.fit(split, 7, 1e-5).split(split).images
    assert neighbours(split.images) > 0.7
    assert colours(split.images) > 0.7
    assert abs(neighbours(white)) < 0.1
    assert abs(colours(white)) < 0.1


def test_the_floor_keeps_fine_detail_as_it_was():
    split = split_of(smooth())
    correlations = [neighbours(whitening.fit(split, 5, floor).split(split).images) for floor in (1e-5, 1e-2, 1e3)]
    assert correlations == sorted(correlations)
    assert correlations[-1] == pytest.approx(neighbours(split.images), abs=0.01), "all of it: nothing is whitened"


def test_values_have_the_spread_that_poisson_coding_needs():
    split = split_of(smooth())
    found = whitening.fit(split, 5)
    white = found.split(split)
    assert white.images.std().item() == pytest.approx(whitening.SPREAD, rel=0.1)
    assert white.images.abs().max() <= 0.5 + 1e-6
    assert white.pixels.dtype == torch.uint8
    assert white.pixels.shape == split.pixels.shape
    assert torch.equal(white.labels, split.labels)
    assert "floor 0.001" in white.describe()
    exact = found(split.images).clamp(-0.5, 0.5)
    assert (white.images - exact).abs().max() <= 0.5 / 255 + 1e-6, "eight bits"


def test_other_images_are_whitened_by_the_same_filters():
    split = split_of(smooth())
    found = whitening.fit(split, 5)
    few = found.split(split.first(3))
    assert torch.equal(few.pixels, found.split(split).pixels[:3]), "one by one"


def test_beyond_its_edges_an_image_is_mirrored():
    images = split_of(smooth(20)).images
    found = whitening.fit(split_of(smooth(20)), 5)
    mirrored = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    assert torch.allclose(found(mirrored)[..., 2:-2, 2:-2], found(images), atol=1e-5)


def test_the_mean_is_taken_off_before_and_no_longer_after():
    split = split_of(smooth())
    other = replace(split, mean=split.mean - 0.2)  # the same pixels, darker images expected
    found = whitening.fit(split, 5)
    assert torch.equal(found.split(other).mean, torch.full(split.mean.shape, 0.5))
    assert (found.split(other).images - found(other.images).clamp(-0.5, 0.5)).abs().max() <= 0.5 / 255 + 1e-6


def test_a_seed_draws_the_same_patches():
    split = split_of(smooth(20))
    first, again, other = (whitening.fit(split, 3, seed=seed).filters for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size", [4, 1, 17, 3.0])
def test_a_size_that_no_patch_has_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}; give an odd number of pixels from 3 to 16"):
        whitening.fit(split_of(smooth(20)), size)


def test_what_cannot_be_whitened_is_refused():
    split = split_of(smooth(20))
    for floor in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"floor is {floor}; it must be a finite number above 0"):
            whitening.fit(split, 3, floor)
    with pytest.raises(ValueError, match="toy holds recordings"):
        whitening.fit(replace(split, frames=3), 3)
    with pytest.raises(ValueError, match="toy has 1 channels; the filters read 3"):
        whitening.fit(split, 3).split(split_of(split.pixels[:, :1]))
