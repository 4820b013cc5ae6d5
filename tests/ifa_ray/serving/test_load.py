"""Calls that nobody waits for any more are not ranked."""

import asyncio
import threading
from collections import Counter

import httpx
import pytest
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.serving import wire
from ifa_ray.serving.deployment import DeadlineError, RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.versions import Loaded, Slot


class Gate(LargestIdFirst):
    """Ranks when it is let, and remembers whom, with how many candidates."""

    def __init__(self):
        super().__init__()
        self.open, self.busy, self.seen = threading.Event(), threading.Event(), []

    def rank(self, requests):
        self.busy.set()
        assert self.open.wait(10)
        self.seen += [(request.request_id, len(request.candidates_C)) for request in requests]
        return super().rank(requests)


def replica(ranker, settings=SETTINGS):
    made = RankerDeployment(settings, [Slot(Loaded(0, ranker))])
    made.noted = Counter()
    made.note = lambda name, value, **_: made.noted.update({name: value})
    return made


async def until(event):
    assert await asyncio.to_thread(event.wait, 10)


def test_a_call_whose_deadline_passes_while_it_waits_is_never_ranked():
    gate = Gate()
    served = replica(gate)

    async def story():
        first = asyncio.create_task(served.rank(0, [make_request(1)], deadline_ms=60_000))
        await until(gate.busy)
        late = asyncio.create_task(served.rank(0, [make_request(2)], deadline_ms=20))
        timely = asyncio.create_task(served.rank(0, [make_request(3)], deadline_ms=60_000))
        await asyncio.sleep(0.05)
        gate.open.set()
        with pytest.raises(DeadlineError):
            await late
        return [(await call)[0].request_id for call in (first, timely)]

    assert asyncio.run(story()) == [1, 3]
    assert [number for number, _ in gate.seen] == [1, 3]
    assert served.noted["expired_calls"] == 1


def test_a_call_that_is_cancelled_while_it_waits_is_never_ranked():
    gate = Gate()
    served = replica(gate)

    async def story():
        calls = [asyncio.create_task(served.rank(0, [make_request(i)])) for i in range(3)]
        await until(gate.busy)
        calls[1].cancel()
        await asyncio.sleep(0.01)
        gate.open.set()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(story())
    assert [number for number, _ in gate.seen] == [0, 2]


def ask(deadline, gate):
    api = build_http(replica(gate))

    async def story():
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body, headers = wire.encode_requests([make_request()]), {"content-type": wire.ARROW}
            first = asyncio.create_task(client.post("/v1/rank", content=body, headers=headers))
            await until(gate.busy)
            headers = {**headers, "deadline-ms": deadline}
            second = asyncio.create_task(client.post("/v1/rank", content=body, headers=headers))
            await asyncio.sleep(0.05)
            gate.open.set()
            assert (await first).status_code == 200
            return await second

    return asyncio.run(story())


def test_by_http_a_passed_deadline_is_408():
    answer = ask("10", Gate())
    assert answer.status_code == 408
    assert answer.json()["error"].startswith("deadline_ms passed after ")
    assert ask("10000", Gate()).status_code == 200


@pytest.mark.parametrize("deadline", ["0", "-5", "soon", "3600001"])
def test_a_deadline_that_is_none_is_refused_with_its_name(deadline):
    answer = ask(deadline, Gate())
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"deadline-ms == '{deadline}': ")
