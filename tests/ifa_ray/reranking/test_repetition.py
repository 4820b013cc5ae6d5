import naive_reranking as naive
import numpy as np
import pytest
from reranking_cases import CLICK, ITEMS, NOW_MS, VIEW, in_session, make_history, make_request

from ifa_ray.reranking import repetition
from ifa_ray.reranking.repetition import (
    FADING,
    FEATURES,
    MAX_RECENT,
    SESSION_GAP_MS,
    ItemTraits,
    RepetitionWalk,
)
from ifa_ray.schema import History

TRAITS = ItemTraits.of(ITEMS)


def recent_of(history):
    return repetition.recent_of(make_request(history=history), ITEMS)


@pytest.mark.parametrize("seed", range(5))
def test_walking_down_a_slate_equals_the_definition_pair_by_pair(seed):
    rng = np.random.default_rng(seed)
    rows_P = 1 + rng.permutation(len(ITEMS))[:25]
    recent = recent_of(in_session(seed, length=int(rng.integers(0, 40))))
    walk, shown = RepetitionWalk(TRAITS, rows_P, recent), []
    for place in rng.permutation(25)[:12]:
        above = rows_P[np.array(shown, np.int64)]
        naive_PF = naive.features(TRAITS, rows_P, recent, above)
        np.testing.assert_allclose(walk.features_PF, naive_PF, atol=1e-6)
        walk.show(place)
        shown.append(place)


def test_features_by_hand():
    # Items 1 and 29 share a category (of 4) and an author (of 7); the session is item 1, clicked.
    recent = recent_of(make_history([1], [CLICK], [NOW_MS - 1]))
    rows_P = np.array([1 + 29, 1 + 5, 1 + 2])
    walk = RepetitionWalk(TRAITS, rows_P, recent)
    named = dict(zip(FEATURES, walk.features_PF.T, strict=True))
    assert named["session_category"].tolist() == [1, 1, 0]
    assert named["session_author"].tolist() == [1, 0, 0]
    assert named["clicked_author"].tolist() == [1, 0, 0]
    assert not named["viewed_author"].any()
    assert not any(named[name].any() for name in FEATURES if name.startswith("above"))
    walk.show(1)
    named = dict(zip(FEATURES, walk.features_PF.T, strict=True))
    assert named["session_category"].tolist() == [FADING, FADING, 0]
    assert named["above_category"].tolist() == [1, 1, 0]
    assert named["above_closest"][1] == pytest.approx(1)
    assert named["above_content"][1] == pytest.approx(1)


def test_a_session_is_what_follows_the_last_long_gap():
    times_ms = [NOW_MS - SESSION_GAP_MS - 11, NOW_MS - 11, NOW_MS - 10]
    recent = recent_of(make_history([5, 6, 7], [CLICK, VIEW, CLICK | VIEW], times_ms))
    assert recent.rows_S.tolist() == [7, 8]
    assert recent.clicked_S.tolist() == [False, True]
    assert recent.viewed_S.tolist() == [True, True]


@pytest.mark.parametrize(
    ("history", "count"),
    [
        (make_history([5, 6], [CLICK, 0], [NOW_MS - SESSION_GAP_MS] * 2), 0),
        (History.empty(), 0),
        (in_session(length=MAX_RECENT + 9), MAX_RECENT),
    ],
)
def test_the_latest_impressions_since_a_long_gap_are_recent(history, count):
    assert len(recent_of(history).rows_S) == count


def test_items_that_have_left_the_catalogue_repeat_nothing():
    history = make_history([5], [CLICK], [NOW_MS - 1])
    history.ids_T[0] = 999_999
    walk = RepetitionWalk(TRAITS, np.arange(1, len(ITEMS) + 1), recent_of(history))
    assert not walk.features_PF.any()
