import numpy as np
import pytest

from ifa_ray.abtest.interleaving import Draft, preference, team_draft
from ifa_ray.errors import ConfigError


def ids(*values):
    return np.array(values, np.int32)


def test_equal_rankings_give_that_ranking_and_teams_of_equal_size():
    ranking = ids(*range(10))
    draft = team_draft(ranking, ranking, 10, np.random.default_rng(0))
    assert draft.ids_K.tolist() == list(range(10))
    assert draft.team_K.sum() == 5


def test_each_round_both_pick_their_best_that_is_left():
    for seed in range(20):
        draft = team_draft(ids(1, 2, 3), ids(2, 9, 1), 4, np.random.default_rng(seed))
        assert len(set(draft.ids_K.tolist())) == 4
        assert draft.team_K[:2].sum() == draft.team_K[2:].sum() == 1
        # The first captain's first pick is always its own best.
        best = {0: 1, 1: 2}[int(draft.team_K[0])]
        assert draft.ids_K[0] == best


def test_a_slate_is_shorter_where_both_have_run_out():
    draft = team_draft(ids(1, 2), ids(2, 1), 5, np.random.default_rng(0))
    assert sorted(draft.ids_K.tolist()) == [1, 2]
    with pytest.raises(ConfigError, match="k == 0"):
        team_draft(ids(1), ids(2), 0, np.random.default_rng(0))


def test_who_is_in_which_team_is_fair():
    rng = np.random.default_rng(1)
    firsts = [team_draft(ids(1), ids(2), 1, rng).team_K[0] for _ in range(2_000)]
    assert 0.46 < np.mean(firsts) < 0.54


def test_preference_by_hand():
    draft = Draft(ids_K=ids(1, 2, 3), team_K=np.array([0, 1, 1], np.int8))
    clicks = [[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    found = preference([draft] * 6, [np.array(row, bool) for row in clicks])
    assert (found.wins_first, found.wins_second, found.ties) == (1, 3, 2)
    assert found.share_second == 0.75
    assert found.p == pytest.approx(10 / 16)  # two-sided, of 1 in 4: 2 (1 + 4) / 16


def test_users_who_like_alike_prefer_none_and_others_are_found():
    for bias, expected in ((0.0, False), (0.15, True)):
        rng = np.random.default_rng(3)
        drafts, clicks = [], []
        for _ in range(800):
            draft = team_draft(
                ids(*rng.permutation(50)[:10]), ids(*rng.permutation(50)[:10]), 10, rng
            )
            drafts.append(draft)
            clicks.append(rng.random(10) < 0.3 + bias * draft.team_K)
        assert (preference(drafts, clicks).p < 0.01) == expected
    nothing = preference(drafts[:3], [np.zeros(10, bool)] * 3)
    assert (nothing.share_second, nothing.p) == (None, 1.0)
