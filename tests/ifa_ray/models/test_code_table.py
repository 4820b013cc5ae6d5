"""Sums by code of one user against their definition, appended and in bulk."""

import itertools
import math

import numpy as np
import pytest

from ifa_ray.ranking.cached_state import NEVER_MS, CodeTable

DECAYS = (math.inf, 7.0, 0.2)
DAY_MS = 86_400_000


def draw(T, seed=0, codes=400, days=60):
    """T behaviours of three families: one code for all, a few, and many."""
    rng = np.random.default_rng([seed, T])
    families = [np.zeros(T), 1 + rng.integers(0, 9, T), 10 + rng.integers(0, codes, T)]
    values = np.concatenate([np.ones((T, 1)), rng.random((T, 2)) < 0.4], axis=1)
    times_ms = 1_700_000_000_000 + np.sort(rng.integers(0, days * DAY_MS, T))
    return np.stack(families, axis=1).astype(np.int32), values.astype(np.float32), times_ms


def naive_sums(codes, values, times_ms, now_ms):
    """The sums as they are meant, [D, V] for each code met."""
    sums = {}
    for codes_G, values_V, time_ms in zip(codes.tolist(), values, times_ms.tolist(), strict=True):
        weight_D = np.exp(-(now_ms - time_ms) / DAY_MS / np.array(DECAYS))
        for code in codes_G:
            sums[code] = sums.get(code, 0.0) + weight_D[:, None] * values_V
    return sums


def bulk(codes, values, times_ms):
    table = CodeTable(DECAYS, 3)
    if len(codes):
        table.add(codes, values, times_ms)
    return table


def in_parts(behaviours, stops):
    table = CodeTable(DECAYS, 3)
    for start, stop in itertools.pairwise([0, *stops, len(behaviours[0])]):
        if start < stop:
            table.add(*(column[start:stop] for column in behaviours))
    return table


def one_by_one(*behaviours):
    return in_parts(behaviours, range(1, len(behaviours[0])))


def in_pieces(*behaviours):
    return in_parts(behaviours, [n for n in (1, 40) if n < len(behaviours[0])])


@pytest.mark.parametrize("make", [bulk, one_by_one, in_pieces])
@pytest.mark.parametrize("T", [1, 8, 9, 300, 2000])
def test_a_table_holds_the_sums_as_they_are_defined(make, T):
    behaviours = draw(T)
    table = make(*behaviours)
    now_ms = int(behaviours[2][-1]) + DAY_MS // 3
    expected = naive_sums(*behaviours, now_ms)
    codes = np.array(sorted(expected), np.int32)
    sums, last_ms = table.read(codes, now_ms)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, [expected[c] for c in codes.tolist()], rtol=3e-6, atol=1e-9)
    met = [behaviours[2][(behaviours[0] == c).any(axis=1)].max() for c in codes]
    assert last_ms.tolist() == met
    assert table.size == len(codes)


def test_plain_sums_are_whole_numbers_exactly():
    behaviours = draw(5000)
    sums, _ = one_by_one(*behaviours).read(np.array([0], np.int32), int(behaviours[2][-1]))
    assert sums[0, 0].tolist() == behaviours[1].sum(axis=0).tolist()


def test_a_code_that_was_never_met_is_zero():
    behaviours = draw(300)
    codes = np.array([999_999, 0, 2**31 - 2], np.int32)
    sums, last_ms = bulk(*behaviours).read(codes, int(behaviours[2][-1]))
    assert (sums[[0, 2]] == 0).all()
    assert sums[1, 0, 0] == 300
    assert last_ms[[0, 2]].tolist() == [NEVER_MS] * 2
    sums, last_ms = CodeTable(DECAYS, 3).read(codes, 0)
    assert (sums == 0).all()
    assert (last_ms == NEVER_MS).all()


def test_years_between_behaviours_forget_and_do_not_overflow():
    codes, values, times_ms = draw(100, days=20_000)
    expected = naive_sums(codes, values, times_ms, int(times_ms[-1]))
    for make in (bulk, one_by_one):
        table = make(codes, values, times_ms)
        asked = np.array(sorted(expected), np.int32)
        sums, _ = table.read(asked, int(times_ms[-1]))
        np.testing.assert_allclose(
            sums, [expected[c] for c in asked.tolist()], rtol=1e-5, atol=1e-30
        )


def test_reading_changes_nothing():
    behaviours = draw(300)
    table, codes = bulk(*behaviours), np.arange(20, dtype=np.int32)
    now_ms = int(behaviours[2][-1])
    first, _ = table.read(codes, now_ms)
    table.read(codes, now_ms + 100 * DAY_MS)
    again, _ = table.read(codes, now_ms)
    assert (first == again).all()


def test_a_table_costs_what_its_user_met_not_what_there_is():
    codes, values, times_ms = draw(300, codes=30)
    far_apart = bulk(codes * 5_000_000, values, times_ms)
    assert far_apart.size == bulk(codes, values, times_ms).size
    rows = sum(array.nbytes for array in far_apart.arrays[:3])
    assert rows == (far_apart.size + 1) * (3 * 3 * 4 + 4 + 8)
