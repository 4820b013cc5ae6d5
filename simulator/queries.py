"""Values between users and the retrieval stage: queries, candidate sets, channel names.

Knows arrays only; the search for candidates is in `simulator.retrieval`.

Letters: U users (queries), C candidates, D content width, R recent positives, M long interests,
A loved authors, S seen items.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt


class RowArrays:
    """Base of dataclasses whose fields are arrays over the same rows."""

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Copies some rows."""
        # Any: `fields` wants a dataclass, which this base is not.
        own: Any = self
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(own)})

    def put(self, rows: npt.NDArray[np.int64], other: Self) -> None:
        """Writes rows back that `take` took, in place."""
        own: Any = self
        for field in dataclasses.fields(own):
            getattr(self, field.name)[rows] = getattr(other, field.name)


class Channel(enum.IntEnum):
    """The retrieval channel that brought a candidate; logged, so never renumber."""

    RECENT = 0
    LONG = 1
    AUTHOR = 2
    POPULAR = 3
    FRESH = 4
    EXPLORE = 5
    RANDOM = 6
    """No retrieval channel: a slot that was filled at random (`is_rand`)."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalQuery:
    """The platform's knowledge of U users when they ask.

    Attributes:
        user_id_U, day_U, session_U, round_U: int32, keys of the random draws.
        time_ms_U: int64.
        recent_UR: int32, latest positives, -1 where there are fewer.
        long_UMD: float32, content vectors of long interests; zeros where there are fewer.
        authors_UA: int32, most loved authors first, -1 where there are fewer.
        seen_US: int32, all impressions, or the latest `seen_limit`: not to be shown again; -1 where
            there are fewer.
        num_candidates: C.
        stripes: 1 searches everything; with more the candidates are a sample of what C times as
            many would be, one in so many.
    """

    user_id_U: npt.NDArray[np.int32]
    day_U: npt.NDArray[np.int32]
    session_U: npt.NDArray[np.int32]
    round_U: npt.NDArray[np.int32]
    time_ms_U: npt.NDArray[np.int64]
    recent_UR: npt.NDArray[np.int32]
    long_UMD: npt.NDArray[np.float32]
    authors_UA: npt.NDArray[np.int32]
    seen_US: npt.NDArray[np.int32]
    num_candidates: int
    stripes: int = 1

    def __len__(self) -> int:
        return len(self.user_id_U)

    @property
    def keys(self) -> tuple[npt.NDArray[np.int32], ...]:
        """User, day, session and round as columns, [U, 1] each."""
        return tuple(
            key[:, None] for key in (self.user_id_U, self.day_U, self.session_U, self.round_U)
        )

    def take(self, rows: npt.NDArray[np.int64]) -> RetrievalQuery:
        """Some of the queries."""
        arrays = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name not in ("num_candidates", "stripes")
        }
        return RetrievalQuery(num_candidates=self.num_candidates, stripes=self.stripes, **arrays)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The candidate sets of U users.

    Attributes:
        ids_UC: int32, unique in a row, in order of video id: the order says nothing.
        channels_UC: int8, the first `Channel` that brought each.
    """

    ids_UC: npt.NDArray[np.int32]
    channels_UC: npt.NDArray[np.int8]


class Retrieval(Protocol):
    """A retrieval stage: `simulator.retrieval.ChannelRetrieval`, or a custom one."""

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """Exactly C unique, uploaded, unseen candidates for each user, from that user's query."""
