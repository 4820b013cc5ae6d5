"""The contract between processes: requests, responses and the log's columns, checked here, once.

Knows numpy and nothing else: no torch, no Arrow, no Ray. The Parquet form of the log is in
`ifa_ray.data.log`, the HTTP form of requests in `ifa_ray.serving.wire`.

Letters: C candidates, T history length, K slate size, L objectives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import RankerError, RequestError

SCHEMA_VERSION = 1

ACTIONS = (
    "is_click",
    "long_view",
    "is_like",
    "is_comment",
    "is_follow",
    "is_forward",
    "is_hate",
)
"""KuaiRand's feedback columns. The i-th is bit i of a history's action byte."""

OBJECTIVES = ("impression", "is_click", "long_view", "is_like")
"""Objectives of the towers. The first is p(imp|can); the others are given an impression (eq. 5)."""

IMPRESSION_COLUMNS: Mapping[str, str] = {
    "request_id": "int64",
    "user_id": "int32",
    "video_id": "int32",
    "time_ms": "int64",
    "position": "int16",
    **dict.fromkeys(ACTIONS, "int8"),
    "play_time_ms": "int32",
    "duration_ms": "int32",
    "is_rand": "int8",
    "channel": "int8",
    "model_version": "int32",
}
"""The `impressions` table: one row for each item that a user actually saw."""

REQUEST_COLUMNS: Mapping[str, str] = {
    "request_id": "int64",
    "user_id": "int32",
    "time_ms": "int64",
    "watermark": "int32",
    "candidates": "list<int32>",
    "channels": "list<int8>",
}
"""The `requests` table: the sampled requests with their whole candidate set.

`watermark` is the number of the user's impressions before the request.
"""

# A request is checked against these before anything of its size is allocated.
MAX_CANDIDATES = 50_000
MAX_HISTORY = 1_000_000

# Ends of the clock, milliseconds: any two times are less than 2**63 apart, so that ages fit.
MIN_TIME_MS, MAX_TIME_MS = -(2**62) + 1, 2**62


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """A user's past impressions, oldest first.

    Attributes:
        ids_T: int32, the video ids.
        actions_T: uint8, bit i set where `ACTIONS[i]` happened.
        times_ms_T: int64, when each was seen; never decreasing.
    """

    ids_T: npt.NDArray[np.int32]
    actions_T: npt.NDArray[np.uint8]
    times_ms_T: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids_T)

    @classmethod
    def empty(cls) -> History:
        """The history of a user who has seen nothing yet."""
        return cls(
            ids_T=np.empty(0, np.int32),
            actions_T=np.empty(0, np.uint8),
            times_ms_T=np.empty(0, np.int64),
        )


class StoredHistory(History):
    """Stands in a request for the history that the service keeps of its user; holds nothing."""


FROM_STORE = StoredHistory.empty()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RankRequest:
    """One user asks, at `time_ms`, for the top `k` of a candidate set.

    Attributes:
        request_id: unique within a log.
        user_id: any int >= 0.
        time_ms: the clock of the request, milliseconds.
        candidates_C: int32, unique video ids, the unordered set to rank.
        channels_C: int8, the retrieval channel that brought each candidate; None if unknown.
        history: the user's past impressions, all of them before `time_ms`.
        k: how many to return, 1 <= k <= C.
    """

    request_id: int
    user_id: int
    time_ms: int
    candidates_C: npt.NDArray[np.int32]
    channels_C: npt.NDArray[np.int8] | None = None
    history: History
    k: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RankResponse:
    """The top-k set in order, best first.

    Attributes:
        request_id: that of the request.
        ids_K: int32, chosen candidates.
        scores_K: float32, never increasing.
        model_version: the one version that scored the whole request.
        rank_ms: what this request cost the ranker, milliseconds of CPU where one thread ranks, else
            of wall time; no queueing, no transport. 0 if the ranker does not say.
        probabilities_KL: float32, p of each of `OBJECTIVES` given the candidate; None where a
            ranker does not predict them.
        watermark: how many behaviours the history held that the service keeps of the user, 0 of one
            it does not know; None where the request brought its history.
    """

    request_id: int
    ids_K: npt.NDArray[np.int32]
    scores_K: npt.NDArray[np.float32]
    model_version: int
    rank_ms: float = 0.0
    probabilities_KL: npt.NDArray[np.float32] | None = None
    watermark: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSample:
    """A request and what became of its whole candidate set.

    Attributes:
        request: the request as the ranker saw it.
        labels_CL: uint8, column l is 1 where `OBJECTIVES[l]` happened. Never-shown candidates are
            rows of zeros: they are part of the entire space (section 4.3).
        positions_C: int16, the slot in which each was shown, 0 the top, -1 where it was not; None
            where the log has no order.
    """

    request: RankRequest
    labels_CL: npt.NDArray[np.uint8]
    positions_C: npt.NDArray[np.int16] | None = None


def pack_actions(columns: Mapping[str, npt.ArrayLike]) -> npt.NDArray[np.uint8]:
    """Packs the feedback columns of impressions into action bytes, uint8 of the same shape."""
    packed = np.zeros(np.shape(columns[ACTIONS[0]]), np.uint8)
    for bit, name in enumerate(ACTIONS):
        packed |= (np.asarray(columns[name]) != 0).astype(np.uint8) << bit
    return packed


def validate_request(request: RankRequest) -> None:
    """Checks a request against the contract, sizes first.

    Raises:
        RequestError: naming the field, its value and the rule.
    """
    candidates, history = request.candidates_C, request.history
    size = len(candidates)
    if not 1 <= size <= MAX_CANDIDATES:
        raise RequestError(f"len(candidates) == {size}, must be in [1, {MAX_CANDIDATES}].")
    if len(history) > MAX_HISTORY:
        raise RequestError(f"len(history) == {len(history)}, must be <= {MAX_HISTORY}.")
    if not 1 <= request.k <= size:
        raise RequestError(f"k == {request.k}, must be in [1, len(candidates)] == [1, {size}].")
    if request.user_id < 0:
        raise RequestError(f"user_id == {request.user_id}, must be >= 0.")
    if not MIN_TIME_MS <= request.time_ms <= MAX_TIME_MS:
        raise RequestError(
            f"time_ms == {request.time_ms}, must be in [{MIN_TIME_MS}, {MAX_TIME_MS}]."
        )
    _check_array("candidates", candidates, np.int32, size)
    if request.channels_C is not None:
        _check_array("channels", request.channels_C, np.int8, size)
    _check_array("history.ids", history.ids_T, np.int32, len(history))
    _check_array("history.actions", history.actions_T, np.uint8, len(history))
    _check_array("history.times_ms", history.times_ms_T, np.int64, len(history))
    if candidates.min() < 0:
        raise RequestError(f"min(candidates) == {candidates.min()}, must be >= 0.")
    unique, counts = np.unique(candidates, return_counts=True)
    if len(unique) != size:
        twice = unique[counts > 1][0]
        raise RequestError(f"candidates hold id {twice} more than once, must be unique.")
    if len(history):
        # Compared, not subtracted: a difference of two int64 may not be one.
        if (history.times_ms_T[1:] < history.times_ms_T[:-1]).any():
            raise RequestError("history.times_ms decreases, must be oldest first.")
        if history.times_ms_T[-1] > request.time_ms:
            raise RequestError(
                f"history.times_ms[-1] == {history.times_ms_T[-1]}, "
                f"must be <= time_ms == {request.time_ms}: the future is not a feature."
            )
        if history.times_ms_T[0] < MIN_TIME_MS:
            raise RequestError(
                f"history.times_ms[0] == {history.times_ms_T[0]}, must be >= {MIN_TIME_MS}."
            )


def validate_response(request: RankRequest, response: RankResponse) -> None:
    """Checks a ranker's answer against its request.

    Raises:
        RankerError: on too few or too many ids, ids that were not candidates, duplicates, NaN or
            infinite scores, or another request's answer.
    """
    ids, scores = response.ids_K, response.scores_K
    where = f"request {request.request_id}"
    if response.request_id != request.request_id:
        raise RankerError(f"{where}: the answer's request_id == {response.request_id}.")
    if len(ids) != request.k:
        raise RankerError(f"{where}: len(ids) == {len(ids)}, must be k == {request.k}.")
    if len(scores) != len(ids):
        raise RankerError(f"{where}: len(scores) == {len(scores)}, must be {len(ids)}.")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise RankerError(f"{where}: scores[{bad}] == {scores[bad]}, must be finite.")
    # The many are compared with the few: numpy would sort the many if asked the other way.
    known = request.candidates_C[np.isin(request.candidates_C, ids)]
    foreign = ids[~np.isin(ids, known)]
    if len(foreign):
        raise RankerError(f"{where}: id {foreign[0]} is returned but was not a candidate.")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise RankerError(f"{where}: id {unique[counts > 1][0]} is returned more than once.")
    if (np.diff(scores) > 0).any():
        raise RankerError(f"{where}: scores increase, must be best first.")


def _check_array(field: str, array: np.ndarray, dtype: type[np.generic], length: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = getattr(array, "dtype", type(array).__name__)
        raise RequestError(f"{field} has dtype {found}, must be {np.dtype(dtype)}.")
    if array.shape != (length,):
        raise RequestError(f"{field} has shape {array.shape}, must be ({length},).")


HOUR_MS = 3_600_000
DAY_MS = 86_400_000
