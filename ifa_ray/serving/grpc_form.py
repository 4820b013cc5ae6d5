"""Requests and responses as the messages of `ranking.proto`; no server, no ranker.

Reading the 10,000 candidates of a request costs 5 microseconds, for packed fixed-width numbers lie
in the message as in an array; as varints it would be 60. Writing them from Python costs 0.3 ms, at
the client. Values are checked by whoever ranks or stores; what a message cannot say wrongly, its
types, was checked by protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import RequestError, ServingError
from ifa_ray.schema import (
    FROM_STORE,
    OBJECTIVES,
    History,
    RankRequest,
    RankResponse,
    StoredHistory,
)
from ifa_ray.serving.appends import Append, Appended
from ifa_ray.serving.proto import ranking_pb2 as pb

__all__ = [
    "decode_appended",
    "decode_appends",
    "decode_requests",
    "decode_responses",
    "encode_appended",
    "encode_appends",
    "encode_requests",
    "encode_responses",
]


def encode_requests(
    requests: Sequence[RankRequest], *, slot: int, min_version: int, probabilities: bool
) -> pb.RankCall:
    """Requests as one call."""
    call = pb.RankCall(slot=slot, min_version=min_version)
    for request in requests:
        message = call.requests.add(
            request_id=request.request_id,
            user_id=request.user_id,
            time_ms=request.time_ms,
            candidates=request.candidates_C.tolist(),  # quicker than the array itself
            k=request.k,
            probabilities=probabilities,
        )
        if request.channels_C is not None:
            message.channels = request.channels_C.astype(np.int8).tobytes()
        if not isinstance(request.history, StoredHistory):
            message.history.CopyFrom(_history_message(request.history))
    return call


def decode_requests(
    call: pb.RankCall, max_requests: int, *, stored: bool
) -> tuple[list[RankRequest], list[bool]]:
    """Reads the requests of a call, and whether each wants probabilities.

    Args:
        call: from outside.
        max_requests: at most.
        stored: True reads a history that is left out as `FROM_STORE`, else as an empty one.

    Raises:
        RequestError: on too few or too many.
    """
    _check_count("requests", len(call.requests), max_requests)
    absent = FROM_STORE if stored else History.empty()
    requests = [
        RankRequest(
            request_id=message.request_id,
            user_id=message.user_id,
            time_ms=message.time_ms,
            candidates_C=_array(message.candidates, np.int32),
            channels_C=np.frombuffer(message.channels, np.int8)
            if message.HasField("channels")
            else None,
            history=_history(message.history) if message.HasField("history") else absent,
            k=message.k,
        )
        for message in call.requests
    ]
    return requests, [message.probabilities for message in call.requests]


def encode_responses(
    responses: Sequence[RankResponse], probabilities: Sequence[bool]
) -> pb.RankAnswer:
    """Responses as one answer; `probabilities` says which of them carry theirs."""
    answer = pb.RankAnswer()
    for response, wanted in zip(responses, probabilities, strict=True):
        p_KL = response.probabilities_KL if wanted else None
        answer.responses.add(
            request_id=response.request_id,
            ids=response.ids_K.tolist(),
            scores=response.scores_K.tolist(),
            model_version=response.model_version,
            rank_ms=response.rank_ms,
            probabilities=[] if p_KL is None else p_KL.ravel().tolist(),
            watermark=response.watermark,
            degraded=response.degraded,
        )
    return answer


def decode_responses(answer: pb.RankAnswer, num_requests: int) -> list[RankResponse]:
    """Reads a server's answer to `num_requests` requests.

    Raises:
        ServingError: if it is not one.
    """
    if len(answer.responses) != num_requests:
        raise ServingError(f"len(responses) == {len(answer.responses)}, must be {num_requests}.")
    return [_response(message) for message in answer.responses]


def encode_appends(appends: Sequence[Append]) -> pb.AppendCall:
    """Appends as one call."""
    call = pb.AppendCall()
    for one in appends:
        call.appends.add(
            user_id=one.user_id, begin=one.begin, history=_history_message(one.history)
        )
    return call


def decode_appends(call: pb.AppendCall, max_appends: int) -> list[Append]:
    """Reads the appends of a call.

    Raises:
        RequestError: on too few or too many.
    """
    _check_count("appends", len(call.appends), max_appends)
    return [
        Append(user_id=one.user_id, begin=one.begin, history=_history(one.history))
        for one in call.appends
    ]


def encode_appended(done: Sequence[Appended]) -> pb.AppendAnswer:
    """What became of appends."""
    answer = pb.AppendAnswer()
    for one in done:
        answer.appended.add(user_id=one.user_id, watermark=one.watermark, appended=one.appended)
    return answer


def decode_appended(answer: pb.AppendAnswer, num_appends: int) -> list[Appended]:
    """Reads a server's answer to `num_appends` appends.

    Raises:
        ServingError: if it is not one.
    """
    if len(answer.appended) != num_appends:
        raise ServingError(f"len(appended) == {len(answer.appended)}, must be {num_appends}.")
    return [
        Appended(user_id=one.user_id, watermark=one.watermark, appended=one.appended)
        for one in answer.appended
    ]


def _response(message: pb.RankResponse) -> RankResponse:
    ids_K = _array(message.ids, np.int32)
    flat = _array(message.probabilities, np.float32)
    if len(flat) not in (0, len(ids_K) * len(OBJECTIVES)) or len(message.scores) != len(ids_K):
        raise ServingError(
            f"not a rank response: {len(ids_K)} ids, {len(message.scores)} scores and {len(flat)} "
            "probabilities."
        )
    return RankResponse(
        request_id=message.request_id,
        ids_K=ids_K,
        scores_K=_array(message.scores, np.float32),
        model_version=message.model_version,
        rank_ms=message.rank_ms,
        probabilities_KL=flat.reshape(-1, len(OBJECTIVES)) if len(flat) else None,
        watermark=message.watermark if message.HasField("watermark") else None,
        degraded=message.degraded,
    )


def _history(message: pb.History) -> History:
    return History(
        ids_T=_array(message.ids, np.int32),
        actions_T=np.frombuffer(message.actions, np.uint8),
        times_ms_T=_array(message.times_ms, np.int64),
    )


def _history_message(history: History) -> pb.History:
    return pb.History(
        ids=history.ids_T.tolist(),
        actions=history.actions_T.astype(np.uint8).tobytes(),
        times_ms=history.times_ms_T.tolist(),
    )


def _array(numbers: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.array(numbers, dtype)


def _check_count(field: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise RequestError(f"len({field}) == {count}, must be in [1, {most}].")
