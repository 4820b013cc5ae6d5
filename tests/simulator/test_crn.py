"""Draws are keyed: even, independent across purposes and keys, and free of order."""

import math

import numpy as np
import pytest

from simulator.world.crn import Purpose, hash_keys, ndtr, ndtri, normal, uniform


def splitmix64_finaliser(x: int) -> int:
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_the_hash_agrees_with_plain_integer_arithmetic():
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    state = splitmix64_finaliser((42 * golden + int(Purpose.LIKE)) & mask)
    for key in (7, -3, 123_456):
        state = splitmix64_finaliser((((state ^ (key & mask)) * golden) + 1) & mask)
    assert int(hash_keys(42, Purpose.LIKE, 7, -3, 123_456)[0]) == state


@pytest.mark.parametrize("axis", ["user", "item", "seed"])
def test_uniforms_fill_their_bins_evenly(axis):
    n, bins = 100_000, 100
    if axis == "seed":
        u = np.concatenate(
            [uniform(s, Purpose.WATCH, 1, 2, 3, np.arange(100)) for s in range(1000)]
        )
    elif axis == "user":
        u = uniform(1, Purpose.WATCH, np.arange(n), 2, 3, 4)
    else:
        u = uniform(1, Purpose.WATCH, 5, 2, 3, np.arange(n))
    counts = np.bincount((u * bins).astype(int), minlength=bins)
    chi2 = ((counts - n / bins) ** 2 / (n / bins)).sum()
    # 99 degrees of freedom: mean 99, sd 14; five sd either way also catches "too even".
    assert 29 < chi2 < 169


def test_draws_of_neighbouring_keys_and_of_purposes_are_uncorrelated():
    keys = np.arange(100_000)
    base = uniform(9, Purpose.WATCH, keys, 1)
    others = {
        "next user": uniform(9, Purpose.WATCH, keys + 1, 1),
        "next item": uniform(9, Purpose.WATCH, keys, 2),
        "next seed": uniform(10, Purpose.WATCH, keys, 1),
        "purpose": uniform(9, Purpose.LIKE, keys, 1),
        "swapped": uniform(9, Purpose.WATCH, np.ones_like(keys), keys),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / math.sqrt(len(keys)), name


def test_a_draw_depends_on_its_keys_and_not_on_the_batch():
    whole = uniform(3, Purpose.LEAVE, np.arange(50)[:, None], 4, np.arange(20))
    one = uniform(3, Purpose.LEAVE, 17, 4, 11)
    assert whole[17, 11] == one[0]
    permuted = uniform(3, Purpose.LEAVE, np.arange(50)[::-1, None], 4, np.arange(20))
    np.testing.assert_array_equal(permuted[::-1], whole)


def test_uniforms_never_reach_zero_or_one():
    u = uniform(0, Purpose.WATCH, np.arange(1_000_000))
    assert u.min() > 0
    assert u.max() < 1


def test_the_normal_cdf_and_its_inverse_agree_with_math_erf():
    x = np.linspace(-6, 6, 241)
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    np.testing.assert_allclose(ndtr(x), exact, atol=2e-7)
    np.testing.assert_allclose(ndtri(exact), x, atol=1e-6)


def test_normals_have_the_moments_of_a_standard_normal():
    z = normal(5, Purpose.TASTE, np.arange(200_000))
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.std() == pytest.approx(1, abs=0.01)
    assert (z**4).mean() == pytest.approx(3, abs=0.15)
