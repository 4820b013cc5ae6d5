import asyncio
import threading

import pytest
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.errors import RequestError
from ifa_ray.serving.deployment import RankerDeployment, UnknownSlotError
from ifa_ray.serving.versions import Loaded, Slot


def replica(slots=1, first=0, load_version=LargestIdFirst):
    return RankerDeployment(
        SETTINGS,
        [Slot(Loaded(first, LargestIdFirst(first)), load_version) for _ in range(slots)],
    )


def test_a_replica_that_is_behind_pulls_the_version_it_is_asked_for():
    async def story():
        served = replica()
        (before,) = await served.rank(0, [make_request()])
        (after,) = await served.rank(0, [make_request()], min_version=3)
        (then,) = await served.rank(0, [make_request()])
        return [response.model_version for response in (before, after, then)]

    assert asyncio.run(story()) == [0, 3, 3]


def test_slots_have_versions_of_their_own():
    async def story():
        served = replica(slots=3)
        await served.load(1, 4)
        return (await served.models())["slots"]

    assert asyncio.run(story()) == [
        {"slot": 0, "version": 0, "in_memory": [0]},
        {"slot": 1, "version": 4, "in_memory": [4, 0]},
        {"slot": 2, "version": 0, "in_memory": [0]},
    ]


@pytest.mark.parametrize("slot", [-1, 1])
def test_an_unknown_slot_is_refused_with_field_value_and_rule(slot):
    with pytest.raises(UnknownSlotError, match=rf"slot == {slot}, must be in \[0, 0\]"):
        asyncio.run(replica().rank(slot, [make_request()]))


def test_a_request_that_breaks_the_contract_reaches_no_ranker():
    class Untouchable:
        def rank(self, requests):
            raise AssertionError(f"ranked {requests}")

    served = RankerDeployment(SETTINGS, [Slot(Loaded(0, Untouchable()))])
    with pytest.raises(RequestError, match="k == 4"):
        asyncio.run(served.rank(0, [make_request(k=4)]))


def test_the_event_loop_stays_live_while_a_request_is_scored():
    release = threading.Event()

    class Slow(LargestIdFirst):
        def rank(self, requests):
            assert release.wait(10)
            return super().rank(requests)

    async def story():
        served = RankerDeployment(SETTINGS, [Slot(Loaded(0, Slow()))])
        ranking = asyncio.create_task(served.rank(0, [make_request()]))
        await asyncio.sleep(0.05)
        await served.models()  # answers although the scoring thread is busy
        assert not ranking.done()
        release.set()
        return await ranking

    assert asyncio.run(story())[0].ids_K.tolist() == [9, 4]


def test_old_versions_answer_while_a_new_one_loads():
    release = threading.Event()

    def slowly(version):
        assert release.wait(10)
        return LargestIdFirst(version)

    async def story():
        served = replica(load_version=slowly)
        loading = asyncio.create_task(served.load(0, 1))
        (meanwhile,) = await served.rank(0, [make_request()])
        assert not loading.done()
        release.set()
        await loading
        (after,) = await served.rank(0, [make_request()])
        return meanwhile.model_version, after.model_version

    assert asyncio.run(story()) == (0, 1)


def test_one_thread_scores_so_that_requests_never_share_a_core():
    names = set()

    class Named(LargestIdFirst):
        def rank(self, requests):
            names.add(threading.current_thread().name)
            return super().rank(requests)

    async def story():
        served = RankerDeployment(SETTINGS, [Slot(Loaded(0, Named()))])
        await asyncio.gather(*(served.rank(0, [make_request(i)]) for i in range(20)))

    asyncio.run(story())
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_the_scoring_thread_has_the_configured_number_of_torch_threads():
    import torch

    counts = []

    class Counting(LargestIdFirst):
        def rank(self, requests):
            counts.append(torch.get_num_threads())
            return super().rank(requests)

    before = torch.get_num_threads()
    try:
        settings = SETTINGS.replace({"num_threads": 3})
        served = RankerDeployment(settings, [Slot(Loaded(0, Counting()))])
        asyncio.run(served.rank(0, [make_request()]))
    finally:
        torch.set_num_threads(before)
    assert counts == [3]
