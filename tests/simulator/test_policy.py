"""The earlier policy's compiled loops against plain numpy."""

import numpy as np
import pytest

from simulator.policy_kernels import best_match, largest


@pytest.mark.parametrize("num_candidates", [1, 128, 300])
def test_matches_are_those_of_numpy_dimension_by_dimension(num_candidates):
    rng = np.random.default_rng(0)
    content_ND = rng.normal(size=(500, 16)).astype(np.float32)
    ids_UC = rng.integers(0, 500, (5, num_candidates)).astype(np.int32)
    sets = [rng.normal(size=(5, v, 16)).astype(np.float32) for v in (4, 3)]
    sets[1][2] = 0
    found = [np.empty(ids_UC.shape, np.float32) for _ in sets]
    best_match(content_ND, ids_UC, *sets, *found)
    content_UCD = content_ND[ids_UC]
    for vectors_UVD, best_UC in zip(sets, found, strict=True):
        want_UC = np.zeros(ids_UC.shape, np.float32)
        for v in range(vectors_UVD.shape[1]):
            product_UC = content_UCD[:, :, 0] * vectors_UVD[:, v, 0, None]
            for d in range(1, 16):
                product_UC += content_UCD[:, :, d] * vectors_UVD[:, v, d, None]
            want_UC = np.maximum(want_UC, product_UC)
        np.testing.assert_array_equal(best_UC, want_UC)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_the_largest_are_those_of_a_stable_sort(k):
    rng = np.random.default_rng(1)
    score_UC = rng.integers(0, 12, (30, 40)).astype(np.float64)  # many equals
    best_UK = np.empty((30, k), np.int64)
    largest(score_UC, best_UK)
    want_UK = np.argsort(-score_UC, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(best_UK, want_UK)
