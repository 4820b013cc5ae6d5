import dataclasses

import numpy as np
import pytest
import torch
from rank_cases import ITEMS, make_items

from ifa_ray.models.code_heads import Codebook, k_means


def clusters(num, per, spread=0.01, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num, 5)) * 3
    points = np.repeat(centres, per, axis=0) + spread * rng.normal(size=(num * per, 5))
    return points.astype(np.float32), np.repeat(np.arange(num), per)


def test_k_means_finds_clusters_that_are_far_apart():
    points, truth = clusters(7, 30)
    centres = k_means(points, 7)
    nearest = np.square(points[:, None] - centres).sum(-1).argmin(1)
    found = {tuple(sorted(set(nearest[truth == c]))) for c in range(7)}
    assert len(found) == 7
    assert all(len(codes) == 1 for codes in found)


def test_more_centres_than_points_are_no_harm():
    points, _ = clusters(2, 1)
    centres = k_means(points, 8)
    assert centres.shape == (8, 5)
    assert np.isfinite(centres).all()
    assert np.square(points[:, None] - centres).sum(-1).min(1).max() < 1e-6


def test_fine_codes_refine_coarse_ones_and_row_0_has_its_own():
    book = Codebook(ITEMS, num_coarse=8, num_fine=4)
    assert book.coarse_R[0] == book.fine_R[0] == 0
    assert book.coarse_R[1:].min() >= 1
    assert book.coarse_R.max() < book.num_coarse
    assert book.fine_R.max() < book.num_fine
    assert torch.equal((book.fine_R[1:] - 1) // 4 + 1, book.coarse_R[1:])


def test_codes_do_not_depend_on_the_global_generator():
    np.random.seed(1)  # noqa: NPY002  (the generator that must not matter)
    one = Codebook(ITEMS, num_coarse=8, num_fine=4)
    np.random.seed(2)  # noqa: NPY002
    other = Codebook(ITEMS, num_coarse=8, num_fine=4)
    assert torch.equal(one.fine_R, other.fine_R)


def test_a_loaded_book_gives_the_codes_of_the_one_that_was_saved():
    half = dataclasses.replace(
        ITEMS, **{f.name: getattr(ITEMS, f.name)[:150] for f in dataclasses.fields(ITEMS)}
    )
    saved = Codebook(half, num_coarse=8, num_fine=4)
    grown = Codebook(ITEMS, num_coarse=8, num_fine=4)
    assert not torch.equal(grown.fine_R[:151], saved.fine_R)
    grown.load_state_dict(saved.state_dict())
    assert torch.equal(grown.fine_R[:151], saved.fine_R)


@pytest.mark.parametrize("width", [0, 1])
def test_narrow_content_is_fine(width):
    book = Codebook(make_items(content_width=width), num_coarse=8, num_fine=4)
    assert book.coarse_R.max() < book.num_coarse
