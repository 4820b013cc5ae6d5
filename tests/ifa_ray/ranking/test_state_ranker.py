"""Ranking from states gives what ranking from whole histories gives, whatever happened before.

Tolerance: scores within 3e-5 (they are rounded to 1e-5 before they are compared), slates equal but
for candidates whose scores are as near to each other.
"""

import copy
import dataclasses
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from ranking_cases import ITEMS, N, make_model

from ifa_ray.config import CROSS_FEATURES
from ifa_ray.errors import ConfigError, RequestError
from ifa_ray.ranking.ranker import PRECISIONS, ModelRanker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_keeper import part_of
from ifa_ray.ranking.state_ranker import HistoryGapError, StatefulRanker
from ifa_ray.schema import History, RankRequest, validate_response

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
MAX_HISTORY = 150
TOLERANCE = 3e-5


def loud_model(name="ifa_plus", seed=0, **changes):
    changes = {"max_history": MAX_HISTORY, "cross_features": CROSS_FEATURES} | changes
    model = make_model(name, seed, **changes)
    with torch.no_grad():  # untrained towers say little; these say much
        model.towers.layers[-1].weight.mul_(30.0)
    return model


MODELS = {version: loud_model(seed=version) for version in (1, 2)}


def make_rankers(version=1, states=None, max_bytes=10**7, model=None, **options):
    """A ranker with states, and one of the same weights without."""
    model = MODELS[version] if model is None else model
    states = SequenceStates(max_bytes) if states is None else states
    precision = options.get("precision", "fp32")
    return (
        StatefulRanker(copy.deepcopy(model), ITEMS, version, states, **options),
        ModelRanker(copy.deepcopy(model), ITEMS, version, precision=precision),
        states,
    )


def life_of(user_id, length=400):
    """Everything a user will ever do, some of it with items that are in no catalogue."""
    rng = np.random.default_rng([7, user_id])
    return History(
        ids_T=rng.integers(0, N + 9, length).astype(np.int32),
        actions_T=rng.integers(0, 256, length).astype(np.uint8),
        times_ms_T=START_MS
        + np.cumsum(rng.integers(0, 3, length) * rng.integers(0, DAY_MS, length)),
    )


def request_of(user_id, watermark, begin=0, candidates=40, number=0, k=10):
    life = life_of(user_id)
    rng = np.random.default_rng([3, user_id, number])
    return RankRequest(
        request_id=number,
        user_id=user_id,
        time_ms=int(life.times_ms_T[watermark - 1] if watermark else START_MS) + number * 1000,
        candidates_C=rng.permutation(N)[:candidates].astype(np.int32),
        channels_C=rng.integers(0, 5, candidates).astype(np.int8),
        history=part_of(life, begin, watermark),
        k=k,
    )


def assert_same_slate(response, expected, request, plain):
    """The same scores in the same order, but for candidates that are as good as each other."""
    validate_response(request, response)
    assert response.model_version == expected.model_version
    np.testing.assert_allclose(response.scores_K, expected.scores_K, rtol=0, atol=TOLERANCE)
    if response.ids_K.tolist() != expected.ids_K.tolist():
        everything = dataclasses.replace(request, k=len(request.candidates_C))
        all_ = plain.rank([everything])[0]
        score = dict(zip(all_.ids_K.tolist(), all_.scores_K.tolist(), strict=True))
        ours = [score[i] for i in response.ids_K.tolist()]
        np.testing.assert_allclose(ours, expected.scores_K, rtol=0, atol=TOLERANCE)


def check(ranker, plain, user_id, watermark, begin=0, **options):
    """Ranks with what was brought, and asserts that it is as from the whole history."""
    asked = request_of(user_id, watermark, begin, **options)
    whole = request_of(user_id, watermark, **options)
    response = ranker.rank_at(asked, watermark)
    assert_same_slate(response, plain.rank([whole])[0], whole, plain)
    return response


def outcomes(states):
    return {outcome: n for outcome, n in states.stats().outcomes.items() if n}


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 2), st.integers(1, 25)),
        st.tuples(st.just("whole"), st.integers(0, 2), st.sampled_from([1, 2])),
        st.tuples(st.just("needed"), st.integers(0, 2), st.sampled_from([1, 2])),
        st.tuples(st.just("empty"), st.integers(0, 2), st.sampled_from([1, 2])),
        st.tuples(st.just("overlap"), st.integers(0, 2), st.integers(1, 20)),
        st.tuples(st.just("older"), st.integers(0, 2), st.integers(1, 20)),
        st.tuples(st.just("evict"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("forget_version"), st.just(0), st.sampled_from([1, 2])),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(operations=OPERATIONS, max_bytes=st.sampled_from([0, 12_000, 30_000, 10**7]))
def test_any_course_of_events_ranks_as_from_scratch(operations, max_bytes):
    states = SequenceStates(max_bytes)
    rankers = {v: make_cached(v, states) for v in (1, 2)}
    watermarks = {0: 0, 1: 3, 2: 120}  # the last one crosses max_history
    for number, (what, user_id, value) in enumerate(operations):
        watermark = watermarks[user_id]
        version = value if what in ("whole", "needed", "empty") else 1
        ranker, plain = rankers[version]
        needs_from = ranker.needs_from(user_id, watermark)
        if what == "grow":
            watermarks[user_id] = min(400, watermark + value)
        elif what == "whole":
            check(ranker, plain, user_id, watermark, number=number)
        elif what == "needed":
            check(ranker, plain, user_id, watermark, needs_from, number=number)
        elif what == "overlap":
            check(ranker, plain, user_id, watermark, max(0, needs_from - value), number=number)
        elif what == "empty":
            if needs_from == watermark:
                check(ranker, plain, user_id, watermark, watermark, number=number)
            else:
                with pytest.raises(HistoryGapError):
                    ranker.rank_at(request_of(user_id, watermark, watermark), watermark)
        elif what == "older":
            check(ranker, plain, user_id, max(0, watermark - value), number=number)
        elif what == "evict":
            states.forget(lambda user, _, gone=user_id: user == gone)
        else:
            states.forget(lambda _, version, gone=value: version == gone)
        stats = states.stats()
        assert stats.state_bytes <= max_bytes


_RANKERS = {version: make_rankers(version)[:2] for version in (1, 2)}


def make_cached(version, states):
    """Rankers as `make_rankers` makes them, prepared once; with a cache of their own."""
    ranker, plain = _RANKERS[version]
    ranker = copy.copy(ranker)
    ranker._states = states
    return ranker, plain


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("name", ["avg_pooling", "din", "ifa", "ifa_plus"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_growing_history_is_ranked_from_one_state(name, counts, precision, monkeypatch):
    monkeypatch.setattr("ifa_ray.ranking.pruning._WORTH_FROM", 0)
    monkeypatch.setattr("ifa_ray.ranking.pruning._AT_LEAST", dict.fromkeys(PRECISIONS.values(), 8))
    model = loud_model(name, cross_features=CROSS_FEATURES if counts else ("channel",))
    ranker, plain, states = make_rankers(model=model, precision=precision)
    begin = 0
    for number, watermark in enumerate([0, 1, 4, 5, 6, 40, 41, 41, 120]):
        check(ranker, plain, 3, watermark, begin, candidates=150, number=number, k=2)
        begin = watermark
    # The first one was made, the second 41 was there.
    assert outcomes(states) == {"missing": 1, "hit": 1, "behind": 7}
    assert states.stats().appended == 120


@pytest.mark.parametrize("set_step", ["mmr", "dpp", "learned"])
def test_reranking_sees_the_session_that_the_state_kept(set_step):
    model = loud_model(set_step=set_step, set_strength=3.0, set_pool=30, max_history=400)
    if model.set_response is not None:
        model.set_response.weights_LG.normal_(generator=torch.Generator().manual_seed(0))
    ranker, plain, _ = make_rankers(model=model)
    for watermark in (0, 10, 100):
        check(ranker, plain, 3, watermark)
        response = ranker.rank_at(request_of(3, watermark, watermark), watermark)
        expected = plain.rank([request_of(3, watermark)])[0]
        assert response.ids_K.tolist() == expected.ids_K.tolist()


def test_versions_live_side_by_side_and_each_makes_its_own_state():
    states = SequenceStates(10**7)
    old, old_plain, _ = make_rankers(1, states)
    new, new_plain, _ = make_rankers(2, states)
    check(old, old_plain, 3, 50)
    assert new.needs_from(3, 50) == 0
    first = check(new, new_plain, 3, 50)
    assert first.model_version == 2
    for _ in range(2):  # roll out, roll back
        check(old, old_plain, 3, 50, 50)
        check(new, new_plain, 3, 50, 50)
    assert outcomes(states) == {"missing": 2, "hit": 4}
    states.forget(lambda _, version: version == 1)
    assert old.needs_from(3, 50) == 0
    assert new.needs_from(3, 50) == 50


def test_plain_requests_bring_whole_histories():
    ranker, plain, states = make_rankers()
    asked = [request_of(user_id, w) for w in (20, 30) for user_id in (1, 2)]
    for request, response in zip(asked, ranker.rank(asked), strict=True):
        assert_same_slate(response, plain.rank([request])[0], request, plain)
    assert outcomes(states) == {"missing": 2, "behind": 2}
    assert ranker.rank([]) == []


def test_a_gap_is_refused_and_says_from_where_on_behaviours_are_needed():
    ranker, plain, states = make_rankers()
    with pytest.raises(HistoryGapError, match=r"version 1 needs the behaviours of user 3 from 0"):
        ranker.rank_at(request_of(3, 50, 10), 50)
    check(ranker, plain, 3, 50)
    with pytest.raises(
        HistoryGapError, match=r"len\(history\) == 9 at watermark 60, must be >= 10"
    ):
        ranker.rank_at(request_of(3, 60, 51), 60)
    assert ranker.needs_from(3, 60) == 50
    check(ranker, plain, 3, 60, 50)
    assert states.stats().outcomes["gap"] == 2


def test_an_older_request_is_answered_from_its_own_history_and_the_state_stays():
    ranker, plain, states = make_rankers()
    check(ranker, plain, 3, 60)
    check(ranker, plain, 3, 40)
    assert ranker.needs_from(3, 40) == 0
    with pytest.raises(HistoryGapError):
        ranker.rank_at(request_of(3, 40, 40), 40)
    check(ranker, plain, 3, 60, 60)
    assert outcomes(states) == {"missing": 1, "older": 1, "gap": 1, "hit": 1}


def test_a_state_of_other_behaviours_is_found_out():
    ranker, plain, states = make_rankers()
    other = dataclasses.replace(request_of(4, 50), user_id=3, time_ms=2 * START_MS)
    ranker.rank_at(other, 50)
    check(ranker, plain, 3, 50)
    assert outcomes(states) == {"missing": 1, "conflict": 1}
    ranker.rank_at(other, 50)
    with pytest.raises(HistoryGapError, match="from 0 on"):
        ranker.rank_at(request_of(3, 50, 45), 50)
    check(ranker, plain, 3, 50)


def test_beyond_max_history_the_window_is_read_and_no_state():
    ranker, plain, states = make_rankers()
    check(ranker, plain, 3, MAX_HISTORY)
    check(ranker, plain, 3, MAX_HISTORY + 1)
    assert states.stats().states == 0
    assert ranker.needs_from(3, MAX_HISTORY + 30) == 30
    check(ranker, plain, 3, MAX_HISTORY + 30, 30)
    with pytest.raises(HistoryGapError, match=f"must be >= {MAX_HISTORY}"):
        ranker.rank_at(request_of(3, MAX_HISTORY + 30, 31), MAX_HISTORY + 30)
    assert outcomes(states) == {"missing": 1, "beyond": 2, "gap": 1}


def test_requests_are_checked_and_a_refusal_costs_no_state():
    ranker, plain, states = make_rankers()
    check(ranker, plain, 3, 50)
    last_ms = int(life_of(3).times_ms_T[49])
    for changes, message in [
        ({"k": 99}, "k == 99"),
        ({"candidates_C": np.array([1, 5000], np.int32), "channels_C": None, "k": 1},
         "candidate 5000 is not in the catalogue"),
        ({"time_ms": last_ms - 1}, "the future is not a feature"),
    ]:  # fmt: skip
        bad = dataclasses.replace(request_of(3, 50, 50), **changes)
        with pytest.raises(RequestError, match=message):
            ranker.rank_at(bad, 50)
        assert ranker.needs_from(3, 50) == 50
    with pytest.raises(RequestError, match=r"watermark == 4, must be >= len\(history\) == 50"):
        ranker.rank_at(request_of(3, 50), 4)
    one = {"candidates_C": np.array([5000], np.int32), "channels_C": None, "k": 1}
    with pytest.raises(RequestError, match="candidate 5000"):
        ranker.rank([dataclasses.replace(request_of(9, 0), **one)])
    check(ranker, plain, 3, 50, 50)
    assert states.stats().states == 1


def test_a_state_that_something_broke_is_not_kept(monkeypatch):
    ranker, plain, _ = make_rankers()
    check(ranker, plain, 3, 50)

    def fail(*_args):
        raise MemoryError

    monkeypatch.setattr("ifa_ray.ranking.state_keeper._last_of", fail)
    with pytest.raises(MemoryError):  # the codes are in, the rest is not
        ranker.rank_at(request_of(3, 51, 50), 51)
    monkeypatch.undo()
    assert ranker.needs_from(3, 51) == 0
    check(ranker, plain, 3, 51)


def test_without_a_budget_every_request_is_ranked_anew():
    ranker, plain, states = make_rankers(max_bytes=0)
    for watermark in (30, 30, 31):
        check(ranker, plain, 3, watermark)
    assert outcomes(states) == {"missing": 3}
    assert states.stats().evictions == 3


def test_models_that_must_see_a_history_whole_are_refused():
    with pytest.raises(ConfigError, match="name == 'twin' keeps no sequence state"):
        StatefulRanker(loud_model("twin"), ITEMS, 0, SequenceStates(0))


def test_several_threads_rank_the_same_users_as_one_does():
    ranker, plain, states = make_rankers()
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for number in range(25):
                check(ranker, plain, int(rng.integers(0, 2)), int(rng.integers(100, 140)),
                      number=number)  # fmt: skip
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(states.stats().outcomes.values()) == 75
