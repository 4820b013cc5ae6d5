"""A day's log: its contract, its determinism, and who is better than whom."""

import asyncio
import dataclasses

import numpy as np
import pytest
from tiny_worlds import (
    TINY,
    answer_with,
    first_candidates,
    live,
    live_day,
    rows_of,
    shuffled_candidates,
    tiny_world,
)

from ifa_ray.errors import LogError, RankerError
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS, REQUEST_COLUMNS, RankResponse, pack_actions
from simulator.world.config import START_MS
from simulator.world.day import run_warmup
from simulator.world.policy import OracleRanker
from simulator.world.queries import Channel
from simulator.world.world import ShardState, World

USERS = np.arange(9)


@pytest.fixture(scope="module")
def lived():
    return live(tiny_world(), USERS)


def assert_same(a, b):
    for left, right in zip(a, b, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
            assert left[name].dtype == right[name].dtype


def test_rows_do_not_depend_on_how_users_are_split(lived):
    _, whole = lived
    shuffled = np.random.default_rng(3).permutation(USERS)
    parts = [live(tiny_world(), part)[1] for part in np.split(shuffled, 3)]
    for day, log in enumerate(whole):
        assert_same(rows_of([log]), rows_of([part[day] for part in parts]))


def test_two_processes_that_build_the_same_world_write_the_same_rows(lived):
    _, whole = lived
    again = live(World(TINY, 1), USERS)[1]
    for log, other in zip(whole, again, strict=True):
        assert_same(rows_of([log]), rows_of([other]))


def test_another_seed_is_another_world(lived):
    other = live(tiny_world(2), USERS, days=0)[1]
    assert not np.array_equal(
        lived[1][0].impressions["video_id"][:50], other[0].impressions["video_id"][:50]
    )


def test_a_restored_shard_continues_to_the_same_bytes(lived):
    world = tiny_world()
    shard, logs = live(world, USERS, days=1)
    restored = ShardState.from_arrays(world, shard.to_arrays())
    for log in logs:
        columns = log.impressions
        restored.histories.append_sorted(
            columns["user_id"], columns["video_id"],
            pack_actions({name: columns[name] for name in ACTIONS}), columns["time_ms"],
        )  # fmt: skip
    continued = live_day(world, restored, 1, answer_with(first_candidates))
    assert_same(rows_of([continued]), rows_of([lived[1][2]]))


def test_a_state_of_another_shape_is_refused():
    world = tiny_world()
    arrays = ShardState.new(world, USERS.astype(np.int32)).to_arrays()
    with pytest.raises(LogError, match=r"state\.taste_US is .* must be"):
        ShardState.from_arrays(world, {**arrays, "taste_US": arrays["taste_US"][:, :1]})
    del arrays["taste_US"]
    with pytest.raises(LogError, match="taste_US"):
        ShardState.from_arrays(world, arrays)


def test_the_log_has_the_contracts_columns_and_types(lived):
    for log in lived[1]:
        assert {n: str(c.dtype) for n, c in log.impressions.items()} == dict(IMPRESSION_COLUMNS)
        assert list(log.requests) == list(REQUEST_COLUMNS)
        assert log.requests["candidates"].shape[1] == TINY.num_candidates
        assert log.requests["candidates"].dtype == np.int32
        assert log.requests["channels"].dtype == np.int8


def test_request_ids_are_user_and_watermark_and_every_first_position_is_seen(lived):
    seen = dict.fromkeys(USERS.tolist(), 0)
    for log in lived[1]:
        columns = log.impressions
        for i, user in enumerate(columns["user_id"].tolist()):
            if columns["position"][i] == 0:
                request_id = int(columns["request_id"][i])
                assert request_id == (user << 32) | seen[user]
            assert columns["request_id"][i] == request_id
            seen[user] += 1


def test_positions_of_a_request_have_no_gaps_and_time_never_goes_back(lived):
    for log in lived[1]:
        columns = log.impressions
        for request in np.unique(columns["request_id"]):
            of = columns["request_id"] == request
            np.testing.assert_array_equal(columns["position"][of], np.arange(of.sum()))
        for user in USERS:
            times = columns["time_ms"][columns["user_id"] == user]
            assert (np.diff(times) > 0).all()


def test_the_warm_up_ends_before_day_zero_and_days_begin_after_it(lived):
    warmup, first_day, _ = lived[1]
    assert warmup.impressions["time_ms"].max() < START_MS
    assert START_MS - warmup.impressions["time_ms"].min() > 25 * 86_400_000
    assert first_day.impressions["time_ms"].min() >= START_MS


def test_logged_requests_agree_with_their_impressions(lived):
    for log in lived[1]:
        shown = log.impressions
        for request_id, watermark, candidates, channels, time_ms in zip(
            *(
                log.requests[n]
                for n in ("request_id", "watermark", "candidates", "channels", "time_ms")
            ),
            strict=True,
        ):
            assert request_id & 0xFFFFFFFF == watermark
            of = shown["request_id"] == request_id
            assert of.any()
            assert shown["time_ms"][of][0] == time_ms
            chosen = of & (shown["is_rand"] == 0)
            place = np.searchsorted(candidates, shown["video_id"][chosen])
            np.testing.assert_array_equal(candidates[place], shown["video_id"][chosen])
            np.testing.assert_array_equal(channels[place], shown["channel"][chosen])


def test_the_last_warm_up_requests_are_all_logged_with_all_candidates(lived):
    requests = lived[1][0].requests
    users, counts = np.unique(requests["user_id"], return_counts=True)
    np.testing.assert_array_equal(users, USERS)
    assert (counts == TINY.warmup_requests_per_user).all()


def test_the_sample_rate_is_met_and_zero_logs_nothing(lived):
    made = sum(log.num_requests for log in lived[1][1:])
    logged = sum(len(log.requests["request_id"]) for log in lived[1][1:])
    assert 0.25 * made < logged < 0.75 * made
    none = live(tiny_world(sample_rate=0.0), USERS, days=1)[1][1]
    assert len(none.requests["request_id"]) == 0
    assert none.requests["candidates"].shape == (0, TINY.num_candidates)


def test_random_slots_are_few_marked_and_switched_off_by_zero(lived):
    columns = lived[1][0].impressions
    assert 0.02 < columns["is_rand"].mean() < 0.10  # rand_share is 0.05
    np.testing.assert_array_equal(columns["channel"] == Channel.RANDOM, columns["is_rand"] == 1)
    off = live(tiny_world(rand_share=0.0), USERS, days=0)[1][0]
    assert off.impressions["is_rand"].sum() == 0


def test_the_same_user_and_item_in_the_same_session_react_alike_under_any_ranker():
    # Without what depends on the path, utility is the item's alone: then so is the whole response.
    world = tiny_world(
        topic_boredom=0.0, author_boredom=0.0, leave_gain=0.0, refresh_rate=0.0, return_gain=0.0,
        rand_share=0.0, loyalty_gain=0.0, freshness_gain=0.0, max_requests=1,
        sessions_per_day=1.0,
    )  # fmt: skip
    logs = [
        live(world, USERS, 1, choose)[1][1]
        for choose in (first_candidates, lambda r: r.candidates_C[::-1][-r.k :])
    ]
    seen = [
        {
            (int(u), int(v)): tuple(int(log.impressions[n][i]) for n in (*ACTIONS, "play_time_ms"))
            for i, (u, v) in enumerate(
                zip(log.impressions["user_id"], log.impressions["video_id"], strict=True)
            )
        }
        for log in logs
    ]
    both = seen[0].keys() & seen[1].keys()
    assert len(both) >= len(USERS) // 2
    assert all(seen[0][pair] == seen[1][pair] for pair in both)


def test_a_random_ranker_is_worse_than_the_oracle():
    world = tiny_world()
    users = np.arange(24)
    watched = {}
    for name in ("random", "oracle"):
        shard = live(world, users, days=0)[0]
        oracle = OracleRanker(world, shard)

        async def rank_by_oracle(requests, oracle=oracle):
            return oracle.rank(requests)

        rank = rank_by_oracle if name == "oracle" else answer_with(shuffled_candidates)
        logs = [live_day(world, shard, day, rank) for day in range(2)]
        watched[name] = sum(log.impressions["play_time_ms"].sum() for log in logs)
    assert watched["oracle"] > 2 * watched["random"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: dataclasses.replace(r, model_version=7), "model_version == 7, must be 0"),
        (lambda r: dataclasses.replace(r, request_id=5), "request_id == 5"),
    ],
)
def test_a_broken_answer_stops_the_day(spoil, message):
    world = tiny_world()
    shard = live(world, USERS[:3], days=0)[0]
    good = answer_with(first_candidates)

    async def rank(requests) -> list[RankResponse]:
        return [spoil(response) for response in await good(requests)]

    with pytest.raises(RankerError, match=message):
        live_day(world, shard, 0, rank)


def test_a_missing_answer_stops_the_day():
    world = tiny_world()
    shard = live(world, USERS[:3], days=0)[0]

    async def rank(_requests):
        return []

    with pytest.raises(RankerError, match=r"len\(responses\) == 0"):
        live_day(world, shard, 0, rank)


def test_a_shard_without_users_writes_an_empty_log():
    world = tiny_world()
    shard = ShardState.new(world, np.empty(0, np.int32))
    warmup = asyncio.run(run_warmup(world, shard))
    day = live_day(world, shard, 0, answer_with(first_candidates))
    assert len(warmup.impressions["user_id"]) == len(day.impressions["user_id"]) == 0


def test_the_summary_counts_what_was_logged(lived):
    log = lived[1][1]
    assert log.summary() == {
        "users": len(USERS),
        "active_users": len(set(log.impressions["user_id"].tolist())),
        "requests": len(set(log.impressions["request_id"].tolist())),
        "logged_requests": len(log.requests["request_id"]),
        "impressions": len(log.impressions["video_id"]),
        "clicks": int((log.impressions["is_click"] == 1).sum()),
        "play_time_ms": int(log.impressions["play_time_ms"].sum()),
    }
