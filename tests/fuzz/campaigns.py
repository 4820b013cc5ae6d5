"""What is fuzzed, and how a number of cases of it is run."""

import dataclasses
import urllib.parse
from collections.abc import Callable

import arrow_bodies
import json_bodies
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ifa_ray.serving import wire


@dataclasses.dataclass(frozen=True)
class Campaign:
    """Cases of one kind.

    Attributes:
        name: for people.
        weight: its share of all cases, relative to the others'.
        cases: what a case is.
        send: asks the target with a case and checks the answer.
    """

    name: str
    weight: int
    cases: st.SearchStrategy
    send: Callable


def _of_user(target, case):
    method, user = case
    path = urllib.parse.quote(user.encode("utf-8", errors="replace"), safe="%")
    target.check(target.send(method, f"/v1/users/{path}"))


def _with_media_type(target, case):
    path, media_type, body = case
    target.check(target.post(path, body, media_type))


CAMPAIGNS = [
    Campaign("rank, Arrow", 9, arrow_bodies.rank_bodies,
             lambda target, body: target.rank(body, wire.ARROW)),
    Campaign("events, Arrow", 5, arrow_bodies.event_bodies,
             lambda target, body: target.append(body, wire.ARROW)),
    Campaign("rank, JSON", 6, st.tuples(json_bodies.rank_bodies, json_bodies.queries),
             lambda target, case: target.rank(case[0], wire.JSON, case[1])),
    Campaign("events, JSON", 3, json_bodies.event_bodies,
             lambda target, body: target.append(body, wire.JSON)),
    Campaign("users", 1, st.tuples(st.sampled_from(["GET", "DELETE"]), json_bodies.users),
             _of_user),
    Campaign("media types", 1,
             st.tuples(st.sampled_from(["/v1/rank", "/v1/events"]), json_bodies.media_types,
                       st.one_of(json_bodies.rank_bodies, arrow_bodies.rank_bodies)),
             _with_media_type),
]  # fmt: skip


def run(target, campaign, cases, number, every=1):
    """Runs cases of a campaign; returns how many there were. The first that fails raises, shrunk.

    Args:
        target: what is asked.
        campaign: of `CAMPAIGNS`.
        cases: at most; strategies that know fewer stop before.
        number: of the round: another one makes other cases, the same one the same.
        every: after how many cases good requests must be answered rightly too.
    """
    ran = 0

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(campaign.cases)
    def once(case):
        nonlocal ran
        ran += 1
        campaign.send(target, case)
        if ran % every == 0:
            target.check_still_right()

    once()
    target.check_still_right()
    return ran
