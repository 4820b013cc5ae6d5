"""Which replica a request is given, by Serve's own loop over replicas that are not there."""

import asyncio
import random
from collections import Counter

import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest

from ifa_ray.serving.placement import preferred
from ifa_ray.serving.user_router import UserRouter, ranks_of

APPLICATION = DeploymentID(name="Ranker", app_name="ifa")
NAMES = ["a", "b", "c"]
SESSIONS = [str(user) for user in range(60)]


class Replica:
    """As the router sees one: an id, how long its queue is and may be."""

    max_ongoing_requests = 2

    def __init__(self, name):
        self.replica_id = ReplicaID(unique_id=name, deployment_id=APPLICATION)
        self.queue = 0

    async def get_queue_len(self, *, deadline_s):
        assert deadline_s > 0
        return self.queue


def request_of(session, number=0):
    metadata = RequestMetadata(
        request_id=str(number), internal_request_id=str(number), session_id=session
    )
    return PendingRequest(args=[], kwargs={}, metadata=metadata)


async def started(replicas):
    router = UserRouter(APPLICATION, DeploymentHandleSource.PROXY, use_replica_queue_len_cache=True,
                        initial_backoff_s=1e-3, max_backoff_s=1e-3)  # fmt: skip
    router._handle_source = DeploymentHandleSource.REPLICA  # a proxy tells replicas who it is
    router.update_replicas(replicas)
    await asyncio.sleep(0)
    return router


async def chosen(router, request, timeout_s=10):
    replica = await asyncio.wait_for(router._choose_replica_for_request(request), timeout_s)
    return replica.replica_id.unique_id


def run(story):
    """A story over three idle replicas."""
    replicas = {name: Replica(name) for name in NAMES}

    async def told():
        return await story(await started(list(replicas.values())), replicas)

    return asyncio.run(told())


def test_a_user_is_given_the_preferred_replica_also_among_many_at_once():
    async def story(router, _):
        asked = [request_of(session, number) for number, session in enumerate(SESSIONS * 3)]
        return await asyncio.gather(*(chosen(router, one) for one in asked))

    assert run(story) == [preferred(session, NAMES)[0] for session in SESSIONS * 3]


def test_a_user_whose_replica_is_full_is_given_the_next():
    async def story(router, replicas):
        first, second, third = preferred("7", NAMES)
        found = []
        for full in ([], [first], [first, second]):
            for name, replica in replicas.items():
                replica.queue = 2 if name in full else 0
                router.on_new_queue_len_info(replica.replica_id, replica.queue)
            found.append(await chosen(router, request_of("7", len(found))))
        return found == [first, second, third]

    assert run(story)


def test_a_user_waits_while_all_are_full():
    async def story(router, replicas):
        for replica in replicas.values():
            replica.queue = 2
            router.on_new_queue_len_info(replica.replica_id, 2)
        waiting = asyncio.create_task(chosen(router, request_of("7")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        replicas["b"].queue = 0
        return await waiting

    assert run(story) == "b"


@pytest.mark.parametrize("reason", ["it died", "it was stopped"])
def test_a_user_whose_replica_is_gone_is_given_the_next(reason):
    async def story(router, replicas):
        first, second, _ = preferred("7", NAMES)
        if reason == "it died":
            router.on_replica_actor_died(replicas[first].replica_id)
        else:
            router.update_replicas([one for name, one in replicas.items() if name != first])
        return await chosen(router, request_of("7")) == second

    assert run(story)


def test_a_replica_that_comes_takes_users_from_all_and_the_others_stay():
    async def story(router, replicas):
        number = 0

        async def all_of():
            nonlocal number
            found = {}
            for session in SESSIONS:
                number += 1
                found[session] = await chosen(router, request_of(session, number))
            return found

        before = await all_of()
        router.update_replicas([*replicas.values(), Replica("d")])
        return before, await all_of()

    before, after = run(story)
    moved = [session for session in SESSIONS if before[session] != after[session]]
    assert {after[session] for session in moved} == {"d"}
    assert 0 < len(moved) < len(SESSIONS) / 2


def test_calls_on_behalf_of_one_request_are_all_answered():
    async def story(router, _):
        asked = [request_of(session, number=1) for session in SESSIONS[:20]]
        return await asyncio.gather(*(chosen(router, one) for one in asked))

    assert len(run(story)) == 20


def test_a_request_of_nobody_is_given_the_shorter_of_two_queues():
    async def story(router, replicas):
        replicas["a"].queue = 1
        for replica in replicas.values():
            router.on_new_queue_len_info(replica.replica_id, replica.queue)
        return Counter([await chosen(router, request_of("", number)) for number in range(60)])

    found = run(story)
    assert set(found) == {"b", "c"}  # whichever two are drawn, one of them is idle


def test_two_of_the_running_replicas_are_drawn_for_nobody():
    draw = random.Random(0)
    found = Counter(frozenset(names) for _ in range(300) for names in ranks_of("", NAMES, draw))
    assert {len(pair) for pair in found} == {2}
    assert len(found) == 3
    assert min(found.values()) > 60
    assert ranks_of("", ["a"], draw) == [["a"]]
