"""From the log's tables to training samples: histories by watermark, labels by join.

Knows columns and histories; knows nothing of models or files. The whole candidate set of a
request is labelled, never-shown items included: they are part of the entire space (section 4.3).

Letters: R requests, I impressions, X candidates of all requests, C of one, L objectives.
"""

from __future__ import annotations

import numpy as np

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


class LogFollower:
    """Rebuilds each sampled request, with its history and its labels, from a log read in order.

    Args:
        max_history: behaviours beyond the latest so many are left out of a sample.
        slate_k: `k` of the rebuilt requests, or C where a request has fewer candidates.
    """

    def __init__(self, *, max_history: int, slate_k: int = 100) -> None:
        self._histories = HistoryStore()
        self._max_history = max_history
        self._slate_k = slate_k

    def append(self, impressions: ColumnsLike) -> None:
        """Adds impressions to their users' histories: rows of a user in order of time.

        Raises:
            LogError: if a user's time goes back, within these rows or from what was added before.
        """
        users = np.asarray(impressions["user_id"])
        times = np.asarray(impressions["time_ms"])
        order = np.argsort(users, kind="stable")
        sorted_users, sorted_times = users[order], times[order]
        firsts = np.ones(len(users), bool)
        firsts[1:] = sorted_users[1:] != sorted_users[:-1]
        back = np.zeros(len(users), bool)
        back[1:] = ~firsts[1:] & (np.diff(sorted_times) < 0)
        for i in np.flatnonzero(firsts):
            stored = self._histories.view(int(sorted_users[i]), limit=1).times_ms_T
            back[i] = len(stored) > 0 and stored[0] > sorted_times[i]
        if back.any():
            bad = int(np.flatnonzero(back)[0])
            raise LogError(
                f"impressions.time_ms of user {sorted_users[bad]} goes back to "
                f"{sorted_times[bad]}, must never decrease."
            )
        self._histories.append_sorted(
            users, np.asarray(impressions["video_id"]), pack_actions(impressions), times
        )

    def samples(
        self, requests: ColumnsLike, impressions: ColumnsLike, *, by_time: bool = False
    ) -> list[TrainingSample]:
        """The training samples of the sampled requests, in the order of `requests`.

        Their impressions must have been appended: a request's history is the first `watermark`
        impressions of its user, so later ones do no harm.

        Args:
            requests: columns of the `requests` table, R rows.
            impressions: columns of `impressions` that hold those of the R requests; rows of other
                requests are passed over.
            by_time: whether histories end where a request was asked, and not at its watermark: for
                a log of which impressions are lost.

        Raises:
            LogError: if the two tables, or a request and its history, do not fit together.
        """
        joined = _join(requests, impressions)
        return [
            TrainingSample(
                request=self._request(requests, row, by_time),
                labels_CL=labels_CL,
                positions_C=positions_C,
            )
            for row, (labels_CL, positions_C) in enumerate(joined)
        ]

    def _request(self, requests: ColumnsLike, row: int, by_time: bool) -> RankRequest:
        candidates_C, user_id = requests["candidates"][row], int(requests["user_id"][row])
        watermark = int(requests["watermark"][row])
        if by_time:
            # Strictly before, so that no request can find its own impressions in its history.
            times_ms_T = self._histories.view(user_id).times_ms_T
            watermark = int(np.searchsorted(times_ms_T, requests["time_ms"][row], side="left"))
        request = RankRequest(
            request_id=int(requests["request_id"][row]),
            user_id=user_id,
            time_ms=int(requests["time_ms"][row]),
            candidates_C=candidates_C,
            channels_C=requests["channels"][row],
            history=self._histories.view(user_id, watermark=watermark, limit=self._max_history),
            k=min(self._slate_k, len(candidates_C)),
        )
        try:
            validate_request(request)
        except RequestError as error:
            raise LogError(f"request {request.request_id} of the log: {error}") from None
        return request


def join_labels(requests: ColumnsLike, impressions: ColumnsLike) -> list[np.ndarray]:
    """Labels of every candidate of every request, R arrays uint8 [C, L].

    A slot filled at random (`is_rand`) may show an item that no channel retrieved. It labels
    nothing here, as it is no candidate, though it is part of its user's history.

    Raises:
        LogError: if an impression was neither a candidate nor random, is logged twice for one
            request, or belongs to another user than its request.
    """
    return [labels_CL for labels_CL, _ in _join(requests, impressions)]


def _join(requests: ColumnsLike, impressions: ColumnsLike) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `join_labels`, with the positions of every request's candidates, int16 [C]."""
    request_ids = np.asarray(requests["request_id"])
    lengths = np.fromiter((len(c) for c in requests["candidates"]), np.int64, len(request_ids))
    rows_I, shown = _of_these_requests(request_ids, requests, impressions)
    keys_I = _keys(rows_I, shown["video_id"])
    order = np.argsort(keys_I, kind="stable")
    keys_I = keys_I[order]
    twice = np.flatnonzero(keys_I[1:] == keys_I[:-1])
    if len(twice):
        where = _name(shown, order[twice[0]])
        raise LogError(f"{where} is logged more than once, must be once per request.")

    labels_XL = np.zeros((int(lengths.sum()), len(OBJECTIVES)), np.uint8)
    positions_X = np.full(len(labels_XL), -1, np.int16)
    if len(keys_I):
        flat_X = np.concatenate(list(requests["candidates"]))
        keys_X = _keys(np.repeat(np.arange(len(lengths)), lengths), flat_X)
        place_X = np.minimum(np.searchsorted(keys_I, keys_X), len(keys_I) - 1)
        hit_X = keys_I[place_X] == keys_X
        labels_XL[hit_X] = _labels(shown)[order[place_X[hit_X]]]
        positions_X[hit_X] = np.asarray(shown["position"])[order[place_X[hit_X]]]
        found_I = np.zeros(len(keys_I), bool)
        found_I[place_X[hit_X]] = True
        lost = order[~found_I & (np.asarray(shown["is_rand"])[order] == 0)]
        if len(lost):
            where = _name(shown, lost[0])
            raise LogError(f"{where} was not a candidate, must be one unless is_rand == 1.")
    if len(lengths) == 0:
        return []
    ends = np.cumsum(lengths)[:-1]
    return list(zip(np.split(labels_XL, ends), np.split(positions_X, ends), strict=True))


def _of_these_requests(
    request_ids: np.ndarray, requests: ColumnsLike, impressions: ColumnsLike
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The impressions of the R requests, and the row of each one's request."""
    ids_I = np.asarray(impressions["request_id"])
    if len(request_ids) == 0:
        return np.empty(0, np.int64), {name: v[:0] for name, v in impressions.items()}
    order = np.argsort(request_ids, kind="stable")
    place = np.minimum(np.searchsorted(request_ids[order], ids_I), len(order) - 1)
    rows_I = order[place]
    ours = request_ids[rows_I] == ids_I
    shown = {name: np.asarray(values)[ours] for name, values in impressions.items()}
    rows_I = rows_I[ours]
    foreign = np.flatnonzero(np.asarray(requests["user_id"])[rows_I] != shown["user_id"])
    if len(foreign):
        raise LogError(
            f"{_name(shown, foreign[0])} is of user {shown['user_id'][foreign[0]]}, "
            f"must be of user {requests['user_id'][rows_I[foreign[0]]]}, who asked."
        )
    return rows_I, shown


def _keys(rows: np.ndarray, video_ids: np.ndarray) -> np.ndarray:
    """One int64 for each pair of a request's row and a video id >= 0."""
    return (rows.astype(np.int64) << 32) | video_ids.astype(np.int64)


def _labels(shown: ColumnsLike) -> np.ndarray:
    """uint8 [I, L]: an impression, and what its viewer did."""
    columns = [np.ones(len(shown["video_id"]), np.uint8)]
    columns += [(np.asarray(shown[name]) != 0).astype(np.uint8) for name in OBJECTIVES[1:]]
    return np.stack(columns, axis=1)


def _name(shown: ColumnsLike, row: int) -> str:
    return f"video {shown['video_id'][row]} of request {shown['request_id'][row]}"
