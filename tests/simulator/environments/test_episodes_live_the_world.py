"""Episodes are the days of `simulator.day`: the same world, asked one user at a time."""

import asyncio

import numpy as np
from small_environments import SMALL, USERS

from ifa_ray.schema import RankResponse
from simulator.day import run_day, run_warmup
from simulator.environments.endings import ENDINGS
from simulator.environments.episodes import Episodes
from simulator.environments.settings import EnvironmentSettings
from simulator.environments.starts import population
from simulator.transition import plan_day
from simulator.world import ShardState

DAYS = 3


def lived_by_the_loop():
    """Rows (user, time, video, play) of some days under a ranker that takes the first ids."""
    people = population(SMALL, 0, USERS)
    world = people.world
    shard = ShardState.new(world, np.arange(USERS, dtype=np.int32))

    async def find(query):
        return people.retrieve(query)

    async def rank(requests):
        return [
            RankResponse(
                request_id=request.request_id, ids_K=request.candidates_C[: request.k],
                scores_K=np.zeros(request.k, np.float32), model_version=0,
            )
            for request in requests
        ]  # fmt: skip

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


def lived_by_episodes(users):
    """The same of episodes whose keys are the users' own ids."""
    people = population(SMALL, 0, USERS)
    settings = EnvironmentSettings(
        kind="retention", world=SMALL, users=USERS, horizon_days=DAYS, gone_after_days=DAYS
    )
    episodes = Episodes(people, len(users))
    rows = np.arange(len(users))
    episodes.begin(rows, users.astype(np.int64), users.astype(np.int32))
    lived = set()
    while len(rows):
        episodes.ask(rows)
        shown = episodes.show(rows, episodes.ids_BC[rows][:, : SMALL.slate_size])
        for row, place in zip(*np.nonzero(shown.seen_RK), strict=True):
            names = ("play_time_ms", "is_click", "is_like", "is_rand")
            values = (int(shown.columns[name][row, place]) for name in names)
            time_ms = int(shown.columns["time_ms"][row, place])
            user, video = int(users[rows[row]]), int(shown.ids_RK[row, place])
            lived.add((user, time_ms, video, *values))
        ended = ENDINGS["retention"](episodes, settings, rows, shown.left_R)
        rows = rows[~(ended.terminated_R | ended.truncated_R)]
    return lived


def test_an_episode_keyed_by_the_users_own_id_is_the_users_life_in_the_loop():
    people = population(SMALL, 0, USERS)
    count_U, _ = plan_day(SMALL, 0, people.shard.users, 0)
    # Whom the plan leaves at home on day 0 an episode lets come all the same.
    users = np.flatnonzero(count_U)
    assert len(users) >= USERS // 2
    expected = {row for row in lived_by_the_loop() if row[0] in set(users.tolist())}
    assert len(expected) > 100
    assert lived_by_episodes(users) == expected
