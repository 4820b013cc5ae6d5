"""Episodes repeat, do not depend on their company, end as they say, and are the loop's days."""

import asyncio
import dataclasses
import itertools

import numpy as np
import pytest
from small_environments import (
    SMALL,
    USERS,
    actions_of,
    assert_same,
    episode,
    small,
    small_batch,
)

from ifa_ray.schema import RankResponse, pack_actions
from simulator.environments.env import KINDS, repair
from simulator.environments.episodes import Episode, population
from simulator.world.day import run_day, run_warmup
from simulator.world.users import plan_day
from simulator.world.world import ShardState


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_actions_give_the_same_bytes(kind):
    assert_same(episode(small(kind, oracle=True), 5), episode(small(kind, oracle=True), 5))


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_is_another_episode(kind):
    first, second = (small(kind).reset(seed=seed)[0] for seed in (5, 6))
    assert (first["candidate_ids"] != second["candidate_ids"]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_are_the_single_environments_of_their_seeds(kind):
    batch = small_batch(kind, 3, oracle=True)
    observation, _ = batch.reset(seed=[7, 7, 8])
    singles = [small(kind, oracle=True) for _ in range(3)]
    expected = [env.reset(seed=seed)[0] for env, seed in zip(singles, (7, 7, 8), strict=True)]
    ended = [False] * 3
    for action_BK in actions_of(batch, 8):
        for row in range(3):
            assert_same({name: array[row] for name, array in observation.items()}, expected[row])
        observation, *_, infos = batch.step(action_BK)
        for row, env in enumerate(singles):
            if ended[row]:
                expected[row], ended[row] = env.reset()[0], False
                continue
            expected[row], _, terminated, truncated, info = env.step(action_BK[row])
            ended[row] = terminated or truncated
            assert infos["regret_s"][row] == info["regret_s"]
            np.testing.assert_array_equal(infos["seen"][row], info["seen"])


def test_episodes_leave_the_population_as_it_was():
    env = small("retention").unwrapped
    shard = env.population.shard
    before = {name: array.copy() for name, array in shard.to_arrays().items()}
    lengths = [shard.histories.length(user) for user in range(USERS)]
    episode(env, 2)
    assert_same(before, shard.to_arrays())
    assert lengths == [shard.histories.length(user) for user in range(USERS)]


def test_environments_over_the_same_world_share_its_population():
    first, second = small("ranking").unwrapped, small("session").unwrapped
    assert first.population is second.population
    other = small("ranking", world_seed=1).unwrapped
    assert other.population is not first.population


def test_a_user_can_be_chosen_and_lives_another_future_each_time():
    env = small("ranking")
    first, _ = env.reset(seed=1, options={"user_id": 3})
    second, _ = env.reset(options={"user_id": 3})
    assert first["user_id"][0] == second["user_id"][0] == 3
    np.testing.assert_array_equal(first["history_ids"], second["history_ids"])
    assert (first["candidate_ids"] != second["candidate_ids"]).any()


def test_what_was_seen_is_what_the_history_gains():
    env = small("session")
    before, _ = env.reset(seed=3)
    after, _, _, _, info = env.step(np.arange(10, 18))
    seen = info["seen"]
    n = int(seen.sum())
    assert 1 <= n <= 8
    assert seen[:n].all(), "users scroll from the top"
    np.testing.assert_array_equal(after["history_ids"][-n:], info["shown_ids"][:n])
    np.testing.assert_array_equal(after["history_times_ms"][-n:], info["time_ms"][:n])
    np.testing.assert_array_equal(after["history_actions"][-n:], pack_actions(info)[:n])
    np.testing.assert_array_equal(after["history_ids"][-n - 5 : -n], before["history_ids"][-5:])
    assert info["watch_s"] == info["play_time_ms"].sum() / 1000


def test_the_slate_shown_is_the_one_chosen_but_for_random_slots():
    batch = small_batch("ranking", 64)
    observation, _ = batch.reset(seed=0)
    slates_BK = np.tile(np.arange(8)[::-1] * 3, (64, 1))
    *_, infos = batch.step(slates_BK)
    chosen_BK = np.take_along_axis(observation["candidate_ids"], slates_BK, axis=1)
    filled_BK = chosen_BK != infos["shown_ids"]
    assert (filled_BK.sum(axis=1) <= 1).all()
    np.testing.assert_array_equal(filled_BK & infos["seen"], infos["is_rand"] != 0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_candidate_is_in_the_history_that_is_shown_with_it(kind):
    env = small(kind)
    observation, _ = env.reset(seed=8)
    for action in actions_of(env, 3):
        assert not np.isin(observation["candidate_ids"], observation["history_ids"]).any()
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break


def test_a_ranking_episode_is_one_request():
    for seed in range(4):
        steps = episode(small("ranking"), seed)
        assert len(steps) == 2
        assert steps[-1][2:4] == (True, False)


STAYING = dataclasses.replace(SMALL, leave_level=SMALL.leave_level - 1.5)


def test_a_session_terminates_when_the_user_leaves_and_is_truncated_at_the_cap():
    env = small("session", STAYING)
    ends = set()
    for seed in range(24):
        _, *steps = episode(env, seed)
        *before, last = steps
        assert not any(step[4]["left"] for step in before)
        assert last[2] == last[4]["left"]
        assert last[3] == (not last[4]["left"])
        assert len(steps) == SMALL.max_requests or last[2]
        ends.add(last[2:4])
    assert ends == {(True, False), (False, True)}


def test_a_truncated_session_shows_the_request_that_the_user_would_make_next():
    env = small("session", STAYING)
    for seed in range(24):
        *_, before, last = episode(env, seed)
        same_candidates = (before[0]["candidate_ids"] == last[0]["candidate_ids"]).all()
        assert same_candidates == last[2], "nothing is asked after a session's end"
        if last[3]:
            assert last[0]["request"][0] == SMALL.max_requests
            assert last[0]["time_ms"][0] > before[0]["time_ms"][0]


def test_sessions_of_retention_are_apart_and_days_go_on():
    _, *steps = episode(small("retention", horizon_days=9), 3)
    times = [int(step[0]["time_ms"][0]) for step in steps]
    assert times == sorted(times)
    for before, after in itertools.pairwise(steps[:-1]):
        fresh = after[0]["request"][0] == 0
        gap_ms = after[0]["time_ms"][0] - after[0]["history_times_ms"][-1]
        assert fresh == (gap_ms >= 30 * 60_000)
        assert after[0]["day"][0] >= before[0]["day"][0]
        assert after[4]["returned"] == (after[0]["day"][0] > before[0]["day"][0])


LOYAL = dataclasses.replace(SMALL, active_rate=0.9999, activity_spread=0.0, return_gain=0.0)
FLEETING = dataclasses.replace(SMALL, active_rate=0.0001, activity_spread=0.0, return_gain=0.0)


def test_users_who_come_every_day_are_truncated_at_the_horizon():
    for seed in range(4):
        steps = episode(small("retention", LOYAL, horizon_days=3), seed)
        assert steps[-1][2:4] == (False, True)
        assert steps[-1][0]["day"][0] == 3
        assert {int(step[0]["day"][0]) for step in steps} == {0, 1, 2, 3}


def test_users_who_never_come_back_are_gone():
    for seed in range(4):
        _, *steps = episode(small("retention", FLEETING), seed)
        assert steps[-1][2:4] == (True, False)
        assert steps[-1][4]["returned"] is False
        assert {int(step[0]["day"][0]) for step in steps} == {0}


def test_a_longer_patience_sees_more_users_again():
    rare = dataclasses.replace(FLEETING, active_rate=0.3)
    days = {}
    for patience in (1, 6):
        batch = small_batch("retention", 48, rare, horizon_days=7, gone_after_days=patience)
        batch.reset(seed=0)
        playing_B, last_B = np.ones(48, bool), np.zeros(48)
        while playing_B.any():
            observation, _, terminated_B, truncated_B, _ = batch.step(
                np.tile(np.arange(8), (48, 1))
            )
            last_B = np.where(playing_B, observation["day"][:, 0], last_B)
            playing_B &= ~(terminated_B | truncated_B)
        days[patience] = last_B.mean()
    assert days[1] < days[6]


@pytest.mark.parametrize(
    ("reward", "column"),
    [("clicks", "is_click"), ("long_views", "long_view"), ("likes", "is_like")],
)
def test_rewards_count_what_their_name_says(reward, column):
    _, *steps = episode(small("session", reward=reward), 9)
    assert [step[1] for step in steps] == [float(step[4][column].sum()) for step in steps]


def test_returns_reward_each_day_that_the_user_comes_back():
    _, *steps = episode(small("retention", LOYAL, reward="returns", horizon_days=3), 1)
    assert sum(step[1] for step in steps) == 3.0


def test_infos_name_no_hidden_truth_unless_it_is_asked_for():
    plain, told = (episode(small("ranking", oracle=oracle), 1)[-1][4] for oracle in (False, True))
    assert told.keys() - plain.keys() == {"expected_watch_s", "oracle_watch_s", "regret_s"}
    assert not any("utility" in name or "joy" in name or "expected" in name for name in plain)


def test_the_oracles_own_slate_has_no_regret():
    env = small("ranking", oracle=True)
    for seed in range(5):
        env.reset(seed=seed)
        *_, info = env.step(env.unwrapped.oracle_slate())
        assert info["regret_s"] == 0.0
        assert info["repaired"] == 0
        env.reset(seed=seed)
        *_, worse = env.step(np.arange(8))
        assert worse["regret_s"] > 0


def test_the_expected_watch_is_what_is_watched_on_average():
    # No random slots, so that what is shown is what the expectation is of.
    env = small_batch("ranking", 600, dataclasses.replace(SMALL, rand_share=0.0), oracle=True)
    env.reset(seed=0)
    *_, infos = env.step(np.tile(np.arange(8), (600, 1)))
    gap_B = infos["watch_s"] - infos["expected_watch_s"]
    assert abs(gap_B.mean()) < 4 * gap_B.std() / np.sqrt(600)


def test_returned_data_belong_to_the_caller():
    env = small("session")
    one, _ = env.reset(seed=1)
    for array in one.values():
        array[:] = 0
    first = env.step(np.arange(8))
    env.reset(seed=1)
    assert_same(first, env.step(np.arange(8)))


@pytest.mark.parametrize(("num_candidates", "k"), [(4, 4), (9, 4), (30, 7), (1, 1)])
def test_repair_keeps_first_occurrences_and_fills_with_the_lowest_indices_left_over(
    num_candidates, k
):
    rng = np.random.default_rng(num_candidates * 100 + k)
    for slate in rng.integers(num_candidates, size=(100, k)):
        spare = (i for i in range(num_candidates) if i not in slate)
        expected = []
        for index in slate.tolist():
            expected.append(next(spare) if index in expected else index)
        assert repair(slate).tolist() == expected
    assert repair(np.array([3, 3, 0, 3, 0])).tolist() == [3, 1, 0, 2, 4]


DAYS = 3


def impressions_of_the_loop():
    """Rows (user, time, video, play) of some days under a ranker that takes the first ids."""
    people = population(SMALL, 0, USERS)
    world = people.world
    shard = ShardState.new(world, np.arange(USERS, dtype=np.int32))

    async def find(query):
        return world.retrieval.retrieve(query)

    async def rank(requests):
        return [
            RankResponse(
                request_id=request.request_id,
                ids_K=request.candidates_C[: request.k],
                scores_K=np.zeros(request.k, np.float32),
                model_version=0,
            )
            for request in requests
        ]

    async def live():
        await run_warmup(world, shard)
        return [
            await run_day(world, shard, day, retrieve=find, rank=rank, model_version=0)
            for day in range(DAYS)
        ]

    logs = asyncio.run(live())
    names = ("user_id", "time_ms", "video_id", "play_time_ms", "is_click", "is_like", "is_rand")
    columns = (np.concatenate([log.impressions[name] for log in logs]) for name in names)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def impressions_of_episode(user):
    """The same of the episode whose key is the user's own id."""
    episode, rows = Episode(population(SMALL, 0, USERS), user, user), set()
    while episode.day < DAYS:
        episode.ask()
        shown = episode.show(episode.candidates.ids_UC[0, : SMALL.slate_size])
        names = ("time_ms", "video_id", "play_time_ms", "is_click", "is_like", "is_rand")
        values = (shown.columns[name][shown.seen_K].tolist() for name in names)
        rows |= {(user, *row) for row in zip(*values, strict=True)}
        if (shown.left or episode.round >= SMALL.max_requests) and not episode.come_again(DAYS):
            break
    return rows


def test_an_episode_keyed_by_the_users_own_id_is_the_users_days_in_the_loop():
    people = population(SMALL, 0, USERS)
    count_U, _ = plan_day(SMALL, 0, people.shard.users, 0)
    # A user whom the plan leaves at home on day 0 comes in an episode all the same.
    users = np.flatnonzero(count_U).tolist()
    assert len(users) >= USERS // 2
    expected = {row for row in impressions_of_the_loop() if row[0] in users}
    assert len(expected) > 100
    assert set().union(*(impressions_of_episode(user) for user in users)) == expected
