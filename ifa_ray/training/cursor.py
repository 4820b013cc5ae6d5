"""How much of a stream a version has learned, and proof that the stream is still the same one.

Knows samples' bytes, not models. A log may grow at its end between two trainings; what lies before
the cursor may not change, or requests would be learned twice or never.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ifa_ray.errors import LogError
from ifa_ray.schema import TrainingSample

MAX_SKEW_MS = 6 * 3_600_000
"""How far a log's clock may go back between requests: a run's files are by day, and sessions of
different users cross midnight. A user's own clock must never go back (`LogFollower`)."""


@dataclasses.dataclass(frozen=True)
class Cursor:
    """The place after the last learned request.

    Attributes:
        requests: learned so far.
        last_ms: the latest moment at which one of them was asked; 0 before the first.
        digest: of all of them, in order.
    """

    requests: int = 0
    last_ms: int = 0
    digest: str = ""

    def after(self, samples: Sequence[TrainingSample]) -> Cursor:
        """The cursor once these were learned too.

        Raises:
            LogError: if the clock goes back by more than `MAX_SKEW_MS`.
        """
        last_ms, digest = self.last_ms, self.digest
        for place, sample in enumerate(samples, self.requests):
            request = sample.request
            if place > 0 and request.time_ms < last_ms - MAX_SKEW_MS:
                raise LogError(
                    f"request {request.request_id}: time_ms == {request.time_ms}, must be >= "
                    f"{last_ms} - {MAX_SKEW_MS} of those before: the clock goes back."
                )
            last_ms = max(last_ms, request.time_ms) if place > 0 else request.time_ms
            digest = hashlib.sha256(digest.encode() + _bytes_of(sample)).hexdigest()
        return Cursor(self.requests + len(samples), last_ms, digest)

    def check(self, samples: Sequence[TrainingSample]) -> None:
        """Refuses a stream that does not begin with what was learned.

        Raises:
            LogError: saying how it differs.
        """
        if len(samples) < self.requests:
            raise LogError(
                f"the log has {len(samples):,} requests, must have the {self.requests:,} that the "
                "newest version has learned: it was shortened."
            )
        if Cursor().after(samples[: self.requests]).digest != self.digest:
            raise LogError(
                f"the first {self.requests:,} requests of the log are not those that the newest "
                "version has learned: it may grow at its end, but not change before."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of_watermark(cls, watermark: Mapping[str, Any]) -> Cursor:
        """The cursor of a version's log watermark."""
        return cls(watermark["requests"], watermark["last_ms"], watermark["digest"])


def _bytes_of(sample: TrainingSample) -> bytes:
    request = sample.request
    numbers = (request.request_id, request.user_id, request.time_ms, len(request.history))
    parts = [np.array(numbers, np.int64), request.candidates_C, sample.labels_CL]
    # The latest behaviours stand for the history: all of them would be read once per request.
    parts += [request.history.ids_T[-16:], request.history.actions_T[-16:]]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
