"""Profiles and queries against a plain form, one user and one impression at a time."""

import collections
import dataclasses

import numpy as np
import pytest
from tiny_worlds import TINY, live, tiny_world

from ifa_ray.data.history import HistoryBlocks
from simulator.world.config import START_MS
from simulator.world.queries import (
    NUM_AUTHORS,
    NUM_LONG,
    NUM_RECENT,
    POSITIVE,
    RECENT_WINDOW,
    SMOOTHING,
    long_profiles,
    make_query,
)

USERS = np.arange(10, dtype=np.int32)


@pytest.fixture(scope="module")
def histories():
    """Lived ones, one user with more than a window, and one with nothing."""
    rng = np.random.default_rng(0)
    shard = live(tiny_world(), USERS, days=1)[0]
    count = 3 * RECENT_WINDOW
    shard.histories.append(
        50, rng.integers(0, 900, count).astype(np.int32),
        rng.integers(0, 256, count).astype(np.uint8), np.arange(count),
    )  # fmt: skip
    return shard.histories


ASKED = np.array([3, 50, 77, *USERS], np.int32)


def plain_profile(catalog, view):
    """Means, lifts and authors of one history."""
    items = catalog.items
    num_categories = int(items.category_N.max()) + 1
    seen, liked = [0] * num_categories, [0] * num_categories
    total = np.zeros((num_categories, items.content_ND.shape[1]))
    authors = collections.Counter()
    for item, actions in zip(view.ids_T.tolist(), view.actions_T.tolist(), strict=True):
        category = int(items.category_N[item])
        seen[category] += 1
        if actions & int(POSITIVE):
            liked[category] += 1
            total[category] += items.content_ND[item]
            authors[int(items.author_id_N[item])] += 1
    excess = {g: liked[g] * sum(seen) - seen[g] * sum(liked) for g in range(num_categories)}
    best = sorted((g for g in excess if excess[g] > 0), key=lambda g: (-excess[g], g))[:NUM_LONG]
    content = np.zeros((NUM_LONG, items.content_ND.shape[1]), np.float32)
    for m, g in enumerate(best):
        content[m] = total[g] / liked[g]
    rate = sum(liked) / max(sum(seen), 1)
    smoothed = [(y + SMOOTHING * rate) / (n + SMOOTHING) for y, n in zip(liked, seen, strict=True)]
    lift = np.log(np.maximum(smoothed, 1e-3) / max(rate, 1e-3)).astype(np.float32)
    top = sorted(authors, key=lambda a: (-authors[a], a))[:NUM_AUTHORS]
    return content, lift, top + [-1] * (NUM_AUTHORS - len(top))


def test_long_profiles_are_those_of_plain_loops_bit_for_bit(histories):
    catalog = tiny_world().catalog.observed
    profiles = long_profiles(catalog, histories, ASKED)
    for row, user in enumerate(ASKED.tolist()):
        content, lift, authors = plain_profile(catalog, histories.view(user))
        np.testing.assert_array_equal(profiles.content_UMD[row], content)
        np.testing.assert_array_equal(profiles.category_lift_UG[row], lift)
        assert profiles.authors_UA[row].tolist() == authors


def test_a_profile_does_not_depend_on_who_else_is_computed(histories):
    catalog = tiny_world().catalog.observed
    whole = long_profiles(catalog, histories, ASKED)
    alone = long_profiles(catalog, histories, ASKED[4:5])
    for name in ("content_UMD", "category_lift_UG", "authors_UA"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[4])


def test_queries_carry_the_latest_positives_and_all_that_was_seen(histories):
    profiles = long_profiles(tiny_world().catalog.observed, histories, ASKED)
    nothing = np.zeros(len(ASKED), np.int32)
    query = make_query(
        TINY, histories, profiles, user_id_U=ASKED, day_U=nothing, session_U=nothing,
        round_U=nothing, time_ms_U=np.full(len(ASKED), START_MS), num_candidates=80,
    )  # fmt: skip
    for row, user in enumerate(ASKED.tolist()):
        view = histories.view(user, limit=TINY.seen_limit)
        seen = query.seen_US[row]
        assert seen[seen >= 0].tolist() == view.ids_T.tolist()
        recent = histories.view(user, limit=RECENT_WINDOW)
        liked = recent.ids_T[(recent.actions_T & POSITIVE) != 0][-NUM_RECENT:].tolist()
        assert query.recent_UR[row].tolist() == liked + [-1] * (NUM_RECENT - len(liked))


def test_what_is_seen_is_the_whole_history_as_long_as_c_items_are_left():
    """User 50 has seen 600 items: five times what a request carries."""
    assert TINY.max_history < 3 * RECENT_WINDOW
    small = dataclasses.replace(TINY, num_items=400)  # 240 live, 80 of them to be candidates
    nothing, user = np.zeros(1, np.int32), np.array([50], np.int32)
    profiles = long_profiles(tiny_world().catalog.observed, histories_of(50), user)
    for config, kept in ((TINY, 600), (small, 160)):
        query = make_query(
            config, histories_of(50), profiles, user_id_U=user, day_U=nothing, session_U=nothing,
            round_U=nothing, time_ms_U=np.full(1, START_MS), num_candidates=80,
        )  # fmt: skip
        assert query.seen_US.tolist() == [list(range(600))[-kept:]]


def histories_of(user):
    """One who has seen the items 0 to 599, one after the other."""
    histories, count = HistoryBlocks(), 3 * RECENT_WINDOW
    ids = np.arange(count, dtype=np.int32)
    histories.append(user, ids, np.full(count, 255, np.uint8), np.arange(count))
    return histories


def test_nobody_has_profiles_of_nothing():
    profiles = long_profiles(tiny_world().catalog.observed, HistoryBlocks(), np.array([4, 5]))
    assert not profiles.content_UMD.any()
    assert not profiles.category_lift_UG.any()
    assert (profiles.authors_UA == -1).all()
