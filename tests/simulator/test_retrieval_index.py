"""The inverted file: every item once, in order of upload, the same wherever it is built."""

import numpy as np
import pytest
from tiny_worlds import tiny_world

from ifa_ray.errors import ConfigError
from simulator.world.retrieval_search import build_index


@pytest.fixture(scope="module")
def content():
    return tiny_world().catalog.observed.content_q_ND


def test_every_item_is_in_one_cell_and_a_cell_is_in_order_of_upload(content):
    index = build_index(1, content)
    np.testing.assert_array_equal(np.sort(index.ids_N), np.arange(len(content)))
    np.testing.assert_array_equal(index.vectors_ND, content[index.ids_N])
    for start, stop in zip(index.start_L[:-1], index.start_L[1:], strict=True):
        assert (np.diff(index.ids_N[start:stop]) > 0).all()


def test_an_item_is_in_the_cell_whose_centroid_is_nearest(content):
    index = build_index(1, content)
    score = content.astype(int) @ index.centroid_LD.T.astype(int)
    cell = np.repeat(np.arange(len(index.centroid_LD)), np.diff(index.start_L))
    np.testing.assert_array_equal(score.argmax(axis=1)[index.ids_N], cell)


def test_the_index_does_not_depend_on_the_order_of_sums(content):
    whole = build_index(1, content)
    cut = build_index(1, content, chunk=7)
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_another_seed_chooses_other_centroids(content):
    assert not np.array_equal(
        build_index(1, content).centroid_LD, build_index(2, content).centroid_LD
    )


def test_vectors_too_wide_for_exact_sums_are_refused():
    with pytest.raises(ConfigError, match=r"content_width == 1041, must be <= 1040"):
        build_index(1, np.zeros((3, 1_041), np.float32))
