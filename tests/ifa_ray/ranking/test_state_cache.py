"""The cache of attention states: budget, order of eviction, forgetting, and threads."""

import threading

import numpy as np
import pytest

from ifa_ray.errors import ConfigError
from ifa_ray.ranking.cached_state import HistoryState
from ifa_ray.ranking.state_cache import SequenceStates


def make_state(length=1, features=8):
    dense_FE = np.zeros((features, 9), np.float32)
    return HistoryState(dense_FE=dense_FE, codes=None, length=length)


@pytest.fixture
def states():
    return SequenceStates(10**6)


@pytest.fixture
def size(states):
    """The cost of one small state in a cache."""
    states.put(0, 0, make_state())
    cost = states.stats().state_bytes
    states.take(0, 0)
    return cost


def lengths(states, users=4, version=0):
    return [states.watermark(user_id, version) for user_id in range(1, users + 1)]


def test_what_was_put_is_taken_once(states):
    assert states.take(5, 0) is None
    states.put(5, 0, make_state(7))
    assert states.watermark(5, 0) == 7
    assert states.take(5, 0).length == 7
    assert states.watermark(5, 0) is states.take(5, 0) is None
    assert states.stats().state_bytes == 0


def test_bytes_are_those_of_the_states_and_a_fixed_share_of_the_map(states, size):
    share = size - make_state().nbytes
    for user_id in range(10):
        states.put(user_id, 0, make_state(1, 8 + user_id))
    expected = sum(make_state(1, 8 + user_id).nbytes for user_id in range(10)) + 10 * share
    assert states.stats().state_bytes == expected
    states.put(0, 0, make_state(1, 100))  # a state that has grown
    expected += make_state(1, 100).nbytes - make_state(1, 8).nbytes
    assert states.stats().state_bytes == expected


def test_the_least_recently_used_states_make_room(size):
    states = SequenceStates(3 * size)
    for user_id in (1, 2, 3):
        states.put(user_id, 0, make_state())
    states.put(1, 0, states.take(1, 0))  # used again
    assert states.watermark(2, 0) == 1  # a look is no use
    states.put(4, 0, make_state())
    assert lengths(states) == [1, None, 1, 1]
    assert states.stats().evictions == 1
    states.put(9, 0, make_state(features=1000))  # larger than the budget: drives nobody out
    assert states.watermark(9, 0) is None
    assert states.stats().state_bytes == 3 * size <= states.stats().max_bytes


def test_of_two_states_of_one_user_the_longer_stays(states):
    states.put(1, 0, make_state(9))
    states.put(1, 0, make_state(4))
    assert states.watermark(1, 0) == 9
    assert states.stats().states == 1


def test_a_user_or_a_version_is_forgotten(states):
    for user_id in (1, 2, 3):
        for version in (1, 2):
            states.put(user_id, version, make_state(10 * user_id + version))
    states.forget(lambda user_id, _: user_id == 1)
    assert lengths(states, 3, 1) == [None, 21, 31]
    states.forget(lambda _, version: version == 1)
    assert lengths(states, 3, 1) == [None] * 3
    assert lengths(states, 3, 2) == [None, 22, 32]


def test_hit_rates_are_counted_over_answered_requests(states):
    assert states.stats().hit_rate == 0
    for outcome, times in [("hit", 5), ("behind", 1), ("missing", 2), ("gap", 7)]:
        for _ in range(times):
            states.count(outcome, appended=3 if outcome == "behind" else 0)
    stats = states.stats()
    assert (stats.hit_rate, stats.appended, stats.outcomes["gap"]) == (6 / 8, 3, 7)


def test_a_negative_budget_is_refused():
    with pytest.raises(ConfigError, match=r"max_bytes == -1, must be >= 0"):
        SequenceStates(-1)


def test_threads_never_hold_one_state_together_and_bytes_add_up(size):
    states = SequenceStates(5 * size)
    at_work, failures = set(), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(2000):
            user_id = int(rng.integers(0, 8))
            state = states.take(user_id, 0) or make_state()
            if id(state) in at_work:
                failures.append(user_id)
            at_work.add(id(state))
            state.length += 1
            at_work.discard(id(state))
            states.put(user_id, 0, state)
            if rng.random() < 0.01:
                states.forget(lambda user, _, gone=user_id: user == gone)
            stats = states.stats()
            if stats.state_bytes > stats.max_bytes or stats.state_bytes != stats.states * size:
                failures.append(stats)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
