"""The earlier policy's matches against a plain form."""

import numpy as np

from simulator.world.policy import best_match


def test_matches_are_the_closest_vectors_and_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    content_ND = rng.normal(size=(500, 16)).astype(np.float32)
    ids_UC = rng.integers(0, 500, (5, 300)).astype(np.int32)
    vectors_UVD = rng.normal(size=(5, 4, 16)).astype(np.float32)
    vectors_UVD[2] = 0
    found_UC = best_match(content_ND, ids_UC, vectors_UVD)
    exact_UC = np.einsum("ucd,uvd->ucv", content_ND[ids_UC].astype(float), vectors_UVD).max(axis=2)
    np.testing.assert_allclose(found_UC, np.maximum(exact_UC, 0), atol=1e-5)
    for user in range(5):
        rows = slice(user, user + 1)
        alone_UC = best_match(content_ND, ids_UC[rows], vectors_UVD[rows])
        np.testing.assert_array_equal(alone_UC, found_UC[rows])
