"""Histories come back as they were appended, whoever else's grew in between."""

import numpy as np
import pytest

from ifa_ray.data.history import BLOCK, HistoryBlocks, HistoryStore
from ifa_ray.errors import LogError


def some_impressions(rng, count, start_ms=0):
    gaps = rng.integers(0, 3 * 86_400_000, count)
    return (
        rng.integers(0, 2**31 - 1, count).astype(np.int32),
        rng.integers(0, 256, count).astype(np.uint8),
        start_ms + np.cumsum(gaps),
    )


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return HistoryBlocks(tmp_path / "histories" if request.param == "files" else None)


@pytest.fixture
def grown(store):
    """Three users who grow in turns, and plain lists of what they were given."""
    rng = np.random.default_rng(0)
    truth = {user: ([], [], []) for user in (7, 2**31 - 1, 0)}
    for _ in range(40):
        users, rows = [], []
        for user, kept in truth.items():
            count = int(rng.integers(0, 3 if user == 0 else 70))
            start_ms = 1_652_000_000_000 if not kept[2] else kept[2][-1]
            columns = some_impressions(rng, count, start_ms)
            for column, values in zip(kept, columns, strict=True):
                column.extend(values.tolist())
            users.append(np.full(count, user))
            rows.append(columns)
        mixed = rng.permutation(np.repeat(np.arange(3), [len(u) for u in users]))
        taken = [0, 0, 0]
        order = []  # a shuffle that keeps each user's own order
        starts = np.cumsum([0] + [len(u) for u in users])
        for which in mixed:
            order.append(starts[which] + taken[which])
            taken[which] += 1
        order = np.array(order, int)
        store.append_sorted(
            np.concatenate(users)[order],
            *(np.concatenate([row[i] for row in rows])[order] for i in range(3)),
        )
    return store, truth


def test_what_was_appended_in_turns_comes_back_exactly(grown):
    store, truth = grown
    for user, (ids, actions, times) in truth.items():
        view = store.view(user)
        assert store.length(user) == len(view) == len(ids)
        assert (view.ids_T.dtype, view.actions_T.dtype) == (np.int32, np.uint8)
        assert view.times_ms_T.dtype == np.int64
        assert view.ids_T.tolist() == ids
        assert view.actions_T.tolist() == actions
        assert view.times_ms_T.tolist() == times


@pytest.mark.parametrize(("watermark", "limit"), [
    (1, None), (BLOCK, 1), (BLOCK + 1, 3), (2 * BLOCK, BLOCK), (900, 700), (0, 5), (10, 0),
])  # fmt: skip
def test_a_view_is_the_latest_of_the_first_impressions(grown, watermark, limit):
    store, truth = grown
    ids, _, times = truth[7]
    view = store.view(7, watermark, limit)
    start = 0 if limit is None else max(0, watermark - limit)
    assert view.ids_T.tolist() == ids[start:watermark]
    assert view.times_ms_T.tolist() == times[start:watermark]


def test_many_users_at_once_are_the_users_one_by_one(grown):
    store, truth = grown
    users = np.array([0, 7, 99, 2**31 - 1])
    lengths = [store.length(int(user)) for user in users]
    assert store.lengths(users).tolist() == lengths
    for limit in (5, 300, 100_000):
        latest = store.latest_ids(users, limit)
        assert latest.shape == (4, min(limit, max(lengths)))
        for row, user in zip(latest, users.tolist(), strict=True):
            ids = truth.get(user, ([],))[0][-limit:]
            assert row.tolist() == ids + [-1] * (len(row) - len(ids))
    ids, actions, known = store.window(users, 300)
    for row, user in enumerate(users.tolist()):
        want = truth.get(user, ([], []))
        assert ids[row][known[row]].tolist() == want[0][-300:]
        assert actions[row][known[row]].tolist() == want[1][-300:]
        assert known[row].sum() == min(300, len(want[0]))
    counts, flat_ids, flat_actions = store.flat(users)
    assert counts.tolist() == lengths
    assert flat_ids.tolist() == [i for u in users.tolist() for i in truth.get(u, ([],))[0]]
    assert flat_actions.tolist() == [a for u in users.tolist() for a in truth.get(u, ([], []))[1]]


def test_blocks_hold_what_plain_columns_hold(store):
    plain, rng = HistoryStore(), np.random.default_rng(3)
    for _ in range(30):
        users = rng.integers(0, 20, 200)
        columns = some_impressions(rng, 200)
        store.append_sorted(users, *columns)
        plain.append_sorted(users, *columns)
    for user in range(21):
        for watermark, limit in ((None, None), (min(100, plain.length(user)), 60)):
            want, found = (s.view(user, watermark, limit) for s in (plain, store))
            for name in ("ids_T", "actions_T", "times_ms_T"):
                np.testing.assert_array_equal(getattr(found, name), getattr(want, name))


def test_a_store_of_nobody_answers_for_everybody(store):
    users = np.array([3, 4])
    assert len(store.view(3)) == 0
    assert store.lengths(users).tolist() == [0, 0]
    assert store.latest_ids(users, 10).shape == (2, 0)
    assert not store.window(users, 10)[2].any()
    assert [len(part) for part in store.flat(users)] == [2, 0, 0]


def test_a_view_does_not_change_when_the_history_grows(store):
    store.append(1, np.array([5]), np.array([1], np.uint8), np.array([9]))
    view = store.view(1)
    store.append(1, np.array([6]), np.array([2], np.uint8), np.array([10]))
    assert view.ids_T.tolist() == [5]


def test_a_watermark_beyond_what_is_stored_is_an_error(store):
    store.append(1, np.array([5]), np.array([1], np.uint8), np.array([9]))
    with pytest.raises(LogError, match=r"watermark == 2 of user 1, must be <= 1"):
        store.view(1, watermark=2)


@pytest.mark.parametrize("time_ms", [-1, 1 << 48])
def test_times_that_would_not_come_back_are_refused(store, time_ms):
    with pytest.raises(LogError, match=r"time_ms in .* must be in \[0, "):
        store.append(1, np.array([5]), np.array([1], np.uint8), np.array([time_ms]))
    store.append(1, np.array([5]), np.array([1], np.uint8), np.array([(1 << 48) - 1]))
    assert store.view(1).times_ms_T.tolist() == [(1 << 48) - 1]


def test_an_impression_costs_eleven_bytes_and_a_user_less_than_a_block_more(store):
    rng = np.random.default_rng(1)
    for user in range(50):
        store.append(user, *some_impressions(rng, 10_000))
    impressions = 50 * 10_000
    assert 11 * impressions <= store.nbytes < 11 * impressions + 50 * (11 * BLOCK + 1_000)


def test_files_hold_the_columns(tmp_path):
    store = HistoryBlocks(tmp_path / "a" / "b")
    store.append(1, *some_impressions(np.random.default_rng(2), 1_000))
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        "ids", "actions", "time_low", "time_high",
    }  # fmt: skip
    assert np.fromfile(tmp_path / "a" / "b" / "ids", np.int32)[0] == store.view(1).ids_T[0]
