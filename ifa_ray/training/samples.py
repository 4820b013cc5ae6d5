"""From the log's tables to training samples: histories by watermark, labels by join.

Knows columns and histories; knows nothing of models or files. The whole candidate set of a
request is labelled, never-shown items included: they are part of the entire space (section 4.3).

Letters: R requests, I impressions, X candidates of all requests, C of one, L objectives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ifa_ray.data.history import HistoryStore
from ifa_ray.data.tables import ColumnsLike
from ifa_ray.errors import LogError, RequestError
from ifa_ray.schema import (
    OBJECTIVES,
    RankRequest,
    TrainingSample,
    pack_actions,
    validate_request,
)

SLATE_K = 100
"""`k` of a rebuilt request, or C where it has fewer candidates: a log does not say."""


class LogFollower:
    """Rebuilds each sampled request, with its history and its labels, from a log read in order.

    Of a history the latest `max_history` behaviours are given.
    """

    def __init__(self, *, max_history: int) -> None:
        self._histories, self._max_history = HistoryStore(), max_history

    def append(self, impressions: ColumnsLike) -> None:
        """Adds impressions to their users' histories: rows of a user in order of time."""
        users, times = np.asarray(impressions["user_id"]), np.asarray(impressions["time_ms"])
        order = np.argsort(users, kind="stable")
        sorted_users, sorted_times = users[order], times[order]
        is_first = np.diff(sorted_users, prepend=-1) != 0
        before = np.concatenate([sorted_times[:1], sorted_times[:-1]])
        for i in np.flatnonzero(is_first):
            stored = self._histories.view(int(sorted_users[i]), limit=1).times_ms_T
            before[i] = stored[0] if len(stored) else sorted_times[i]
        back = np.flatnonzero(sorted_times < before)
        if len(back):
            raise LogError(
                f"impressions.time_ms of user {sorted_users[back[0]]} goes back to "
                f"{sorted_times[back[0]]}, must never decrease."
            )
        videos = np.asarray(impressions["video_id"])
        self._histories.append_sorted(users, videos, pack_actions(impressions), times)

    def samples(self, requests: ColumnsLike, impressions: ColumnsLike) -> list[TrainingSample]:
        """The training samples of the sampled requests, in the order of `requests`.

        Their impressions must have been appended: a request's history is the first `watermark`
        impressions of its user, so later ones do no harm. Rows of other requests are passed over.

        Raises:
            LogError: if the two tables, or a request and its history, do not fit together.
        """
        return [
            TrainingSample(
                request=self._request(requests, row), labels_CL=labels_CL, positions_C=positions_C
            )
            for row, (labels_CL, positions_C) in enumerate(join_labels(requests, impressions))
        ]

    def _request(self, requests: ColumnsLike, row: int) -> RankRequest:
        candidates_C, user_id = requests["candidates"][row], int(requests["user_id"][row])
        watermark = int(requests["watermark"][row])
        request = RankRequest(
            request_id=int(requests["request_id"][row]),
            user_id=user_id,
            time_ms=int(requests["time_ms"][row]),
            candidates_C=candidates_C,
            channels_C=requests["channels"][row],
            history=self._histories.view(user_id, watermark=watermark, limit=self._max_history),
            k=min(SLATE_K, len(candidates_C)),
        )
        try:
            validate_request(request)
        except RequestError as error:
            raise LogError(f"request {request.request_id} of the log: {error}") from None
        return request


def join_labels(
    requests: ColumnsLike, impressions: ColumnsLike
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    """Labels [C, L] and positions [C] of every candidate of each of R requests.

    A slot filled at random (`is_rand`) may show an item that no channel retrieved. It labels
    nothing here, as it is no candidate, though it is part of its user's history.

    Raises:
        LogError: if an impression was neither a candidate nor random, is logged twice for one
            request, or belongs to another user than its request.
    """
    if len(requests["request_id"]) == 0:
        return []
    rows_I, shown = _of_these_requests(requests, impressions)
    keys_I = _keys(rows_I, shown["video_id"])
    order = np.argsort(keys_I, kind="stable")
    keys_I = keys_I[order]
    twice = np.flatnonzero(keys_I[1:] == keys_I[:-1])
    if len(twice):
        where = _name(shown, order[twice[0]])
        raise LogError(f"{where} is logged more than once, must be once per request.")

    lengths = np.array([len(candidates) for candidates in requests["candidates"]])
    labels_XL = np.zeros((lengths.sum(), len(OBJECTIVES)), np.uint8)
    positions_X = np.full(len(labels_XL), -1, np.int16)
    if len(keys_I):
        flat_X = np.concatenate(list(requests["candidates"]))
        keys_X = _keys(np.repeat(np.arange(len(lengths)), lengths), flat_X)
        place_X = np.minimum(np.searchsorted(keys_I, keys_X), len(keys_I) - 1)
        hit_X = keys_I[place_X] == keys_X
        hit_I = order[place_X[hit_X]]
        labels_XL[hit_X, 0] = 1
        for i, name in enumerate(OBJECTIVES[1:], 1):
            labels_XL[hit_X, i] = shown[name][hit_I] != 0
        positions_X[hit_X] = shown["position"][hit_I]
        is_lost_I = shown["is_rand"] == 0
        is_lost_I[hit_I] = False
        if is_lost_I.any():
            where = _name(shown, order[is_lost_I[order]][0])
            raise LogError(f"{where} was not a candidate, must be one unless is_rand == 1.")
    ends = np.cumsum(lengths)[:-1]
    return list(zip(np.split(labels_XL, ends), np.split(positions_X, ends), strict=True))


def _of_these_requests(
    requests: ColumnsLike, impressions: ColumnsLike
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The impressions of the R requests, and the row of each one's request."""
    ids_R, ids_I = np.asarray(requests["request_id"]), np.asarray(impressions["request_id"])
    order = np.argsort(ids_R, kind="stable")
    rows_I = order[np.minimum(np.searchsorted(ids_R[order], ids_I), len(order) - 1)]
    ours_I = ids_R[rows_I] == ids_I
    rows_I = rows_I[ours_I]
    shown = {name: np.asarray(values)[ours_I] for name, values in impressions.items()}
    users_I = np.asarray(requests["user_id"])[rows_I]
    foreign = np.flatnonzero(users_I != shown["user_id"])
    if len(foreign):
        raise LogError(
            f"{_name(shown, foreign[0])} is of user {shown['user_id'][foreign[0]]}, "
            f"must be of user {users_I[foreign[0]]}, who asked."
        )
    return rows_I, shown


def _keys(rows: np.ndarray, video_ids: np.ndarray) -> np.ndarray:
    """One int64 for each pair of a request's row and a video id >= 0."""
    return (rows.astype(np.int64) << 32) | video_ids.astype(np.int64)


def _name(shown: ColumnsLike, row: int) -> str:
    return f"video {shown['video_id'][row]} of request {shown['request_id'][row]}"
