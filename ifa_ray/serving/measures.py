"""What a replica measures of itself: names and units of its metrics, and who records them.

`Measures` records nothing, as in tests and on a laptop; `ServeMeasures` hands everything to Ray,
which exports it for Prometheus with the labels application, deployment and replica. Knows no
deployment.
"""

from __future__ import annotations

from ifa_ray.ranking.state_cache import OUTCOMES, StateStats

PREFIX = "ifa_ray"
"""Of every name; Ray puts `ray_` before it."""

STAGES = ("wait", "rank", "append", "erase")
"""Where a call's time goes: waiting for the scoring thread; there, the store read included; storing
impressions, the wait for the disk included; erasing."""

_BOUNDARIES_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]


class Measures:
    """Records nothing."""

    def spent(self, stage: str, seconds: float) -> None:
        """Notes the wall time of one of `STAGES`."""

    def ranked(self, slot: int, version: int, requests: int, candidates: int) -> None:
        """Notes what one call ranked with which version."""

    def degraded(self, slot: int, requests: int) -> None:
        """Notes how many requests of a call had fewer candidates ranked than they hold."""

    def expired(self) -> None:
        """Notes a call that was not ranked, because its deadline had passed."""

    def appended(self, behaviours: int) -> None:
        """Notes how many impressions were new."""

    def waiting(self, calls: int) -> None:
        """Notes how many calls are at the replica, ranked or waiting for it."""

    def states(self, slot: int, stats: StateStats) -> None:
        """Notes what a slot's sequence states did so far and hold now."""


class ServeMeasures(Measures):
    """Records with Ray Serve; made in a replica.

    A histogram's `_sum` is made of bucket midpoints by Ray, so no mean may be taken from it.
    """

    def __init__(self) -> None:
        """Declares the metrics."""
        from ray.serve.metrics import Counter, Gauge, Histogram

        self._stage = Histogram(
            f"{PREFIX}_stage_ms",
            description="Wall time of one call by stage, milliseconds.",
            boundaries=_BOUNDARIES_MS,
            tag_keys=("stage",),
        )
        self._requests = Counter(
            f"{PREFIX}_ranked_requests", description="Ranked requests.", tag_keys=("slot",)
        )
        self._candidates = Counter(
            f"{PREFIX}_ranked_candidates", description="Ranked candidates.", tag_keys=("slot",)
        )
        self._version = Gauge(
            f"{PREFIX}_version", description="Version of the latest answer.", tag_keys=("slot",)
        )
        self._degraded = Counter(
            f"{PREFIX}_degraded_requests",
            description="Requests that had fewer candidates ranked than they hold.",
            tag_keys=("slot",),
        )
        self._expired = Counter(
            f"{PREFIX}_expired_calls", description="Calls not ranked: their deadline had passed."
        )
        self._appended = Counter(f"{PREFIX}_appended", description="Impressions stored.")
        self._waiting = Gauge(f"{PREFIX}_calls", description="Rank calls at the replica.")
        self._outcomes = Counter(
            f"{PREFIX}_state_outcomes",
            description="Requests by what became of their sequence state.",
            tag_keys=("slot", "outcome"),
        )
        self._hit_rate = Gauge(
            f"{PREFIX}_state_hit_rate",
            description="Share of requests since the start that a state answered.",
            tag_keys=("slot",),
        )
        self._state_bytes = Gauge(
            f"{PREFIX}_state_bytes", description="Of sequence states.", tag_keys=("slot",)
        )
        self._told: dict[int, dict[str, int]] = {}

    def spent(self, stage: str, seconds: float) -> None:
        """Notes the wall time of one of `STAGES`."""
        assert stage in STAGES, stage
        self._stage.observe(1e3 * seconds, {"stage": stage})

    def ranked(self, slot: int, version: int, requests: int, candidates: int) -> None:
        """Notes what one call ranked with which version."""
        tags = {"slot": str(slot)}
        self._requests.inc(requests, tags)
        self._candidates.inc(candidates, tags)
        self._version.set(version, tags)

    def degraded(self, slot: int, requests: int) -> None:
        """Notes how many requests of a call had fewer candidates ranked than they hold."""
        if requests:
            self._degraded.inc(requests, {"slot": str(slot)})

    def expired(self) -> None:
        """Notes a call that was not ranked, because its deadline had passed."""
        self._expired.inc()

    def appended(self, behaviours: int) -> None:
        """Notes how many impressions were new."""
        if behaviours:
            self._appended.inc(behaviours)

    def waiting(self, calls: int) -> None:
        """Notes how many calls are at the replica, ranked or waiting for it."""
        self._waiting.set(calls)

    def states(self, slot: int, stats: StateStats) -> None:
        """Notes what a slot's sequence states did so far and hold now."""
        tags = {"slot": str(slot)}
        told = self._told.get(slot, dict.fromkeys(OUTCOMES, 0))
        for outcome, count in stats.outcomes.items():
            if count > told[outcome]:
                self._outcomes.inc(count - told[outcome], {**tags, "outcome": outcome})
        self._told[slot] = stats.outcomes
        self._hit_rate.set(stats.hit_rate, tags)
        self._state_bytes.set(stats.state_bytes, tags)
