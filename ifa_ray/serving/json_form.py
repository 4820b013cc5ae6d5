"""The JSON form of one request and one response, for people; typed, so that it documents itself.

Knows pydantic and the contract's sizes; no HTTP. Lists are bounded while they are read.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ifa_ray.errors import RequestError, ServingError, shortened
from ifa_ray.schema import (
    FROM_STORE,
    MAX_CANDIDATES,
    MAX_HISTORY,
    OBJECTIVES,
    History,
    RankRequest,
    RankResponse,
    StoredHistory,
)

FIRST_ERROR = Field(fail_fast=True)
"""Of a list: no more than one error is made of it, be it a million long."""

_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Byte = Annotated[int, Field(ge=0, le=255)]
_Channel = Annotated[int, Field(ge=-128, le=127)]


class _Body(BaseModel):
    # strict: true is not 1 and "7" is not 7; what is mistyped is refused, not guessed.
    model_config = ConfigDict(extra="forbid", strict=True)


def check_numbers_of(body: bytes, numbers: int) -> None:
    """Refuses a text that holds more names or values than any right one, before it is read.

    Read, a value takes some hundred bytes, and each unknown name an error of its own.

    Raises:
        RequestError: saying how many there are.
    """
    for what, separator, limit in (("names", b":", _MAX_NAMES), ("values", b",", numbers)):
        found = body.count(separator)
        if found > limit:
            raise RequestError(f"body holds about {found} {what}, must be <= {limit}.")


_MAX_NAMES = 100
_MAX_VALUES = 2 * MAX_CANDIDATES + 3 * MAX_HISTORY + _MAX_NAMES
_SHOWN_BYTES = 2**20


class HistoryBody(_Body):
    """The user's past impressions, oldest first: three lists of one length."""

    ids: Annotated[list[_Id], FIRST_ERROR] = Field(default=[], max_length=MAX_HISTORY)
    actions: Annotated[list[_Byte], FIRST_ERROR] = Field(
        default=[],
        max_length=MAX_HISTORY,
        description="One byte each: bit 0 is_click, 1 long_view, 2 is_like, 3 is_comment, "
        "4 is_follow, 5 is_forward, 6 is_hate.",
    )
    times_ms: Annotated[list[_Int64], FIRST_ERROR] = Field(default=[], max_length=MAX_HISTORY)


class RequestBody(_Body):
    """Rank these candidates for this user."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "request_id": 1,
                "user_id": 7,
                "time_ms": 3_000,
                "candidates": [1, 2, 3, 4],
                "history": {"ids": [5, 6], "actions": [1, 3], "times_ms": [1_000, 2_000]},
                "k": 2,
                "probabilities": True,
            }
        }
    )

    request_id: _Int64
    user_id: Annotated[int, Field(ge=0, le=2**63 - 1)]
    time_ms: _Int64
    candidates: Annotated[list[_Id], FIRST_ERROR] = Field(min_length=1, max_length=MAX_CANDIDATES)
    channels: Annotated[list[_Channel], FIRST_ERROR] | None = Field(
        default=None, max_length=MAX_CANDIDATES
    )
    history: HistoryBody | None = Field(
        default=None,
        description="Left out: the one that the service keeps of the user; none where it keeps "
        "none.",
    )
    k: int = Field(ge=1, le=MAX_CANDIDATES)
    probabilities: bool = False


class ResponseBody(_Body):
    """The best k candidates, best first."""

    request_id: int
    ids: list[_Id]
    scores: list[float]
    model_version: int
    rank_ms: float
    probabilities: dict[str, list[float]] | None = Field(
        default=None,
        description="By objective: of each id, its p given the candidate; null if the ranker "
        "gives none.",
    )
    watermark: int | None = Field(
        default=None,
        description="Behaviours in the history that the service keeps of the user, 0 of one it "
        "does not know; only where the request left its history out.",
    )
    degraded: bool = Field(
        default=False,
        description="Whether fewer candidates were ranked than the request holds, because many "
        "calls waited; left out where all were.",
    )


class ErrorBody(_Body):
    """What was wrong: field, value and rule."""

    error: str


def encode_request(request: RankRequest, probabilities: bool) -> bytes:
    """One request as JSON."""
    history = request.history
    values: dict[str, Any] = {  # in the order of RequestBody
        "request_id": request.request_id,
        "user_id": request.user_id,
        "time_ms": request.time_ms,
        "candidates": request.candidates_C.tolist(),
        "channels": None if request.channels_C is None else request.channels_C.tolist(),
        "history": {
            "ids": history.ids_T.tolist(),
            "actions": history.actions_T.tolist(),
            "times_ms": history.times_ms_T.tolist(),
        },
        "k": request.k,
        "probabilities": probabilities,
    }
    if isinstance(history, StoredHistory):
        del values["history"]
    return json.dumps(values).encode()


def decode_request(body: bytes, *, stored: bool = False) -> tuple[RankRequest, bool]:
    """Reads one request and whether it wants probabilities.

    Args:
        body: from outside.
        stored: True reads a history that is left out as `FROM_STORE`, else as an empty one.

    Raises:
        RequestError: naming the first field that is wrong.
    """
    check_numbers_of(body, _MAX_VALUES)
    try:
        read = RequestBody.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(first_error(error, len(body))) from None
    request = RankRequest(
        request_id=read.request_id,
        user_id=read.user_id,
        time_ms=read.time_ms,
        candidates_C=np.array(read.candidates, np.int32),
        channels_C=None if read.channels is None else np.array(read.channels, np.int8),
        history=_history(read, stored),
        k=read.k,
    )
    return request, read.probabilities


def _history(read: RequestBody, stored: bool) -> History:
    if read.history is None:
        if "history" in read.model_fields_set:
            raise RequestError("history == None, must be an object or left out.")
        return FROM_STORE if stored else History.empty()
    return History(
        ids_T=np.array(read.history.ids, np.int32),
        actions_T=np.array(read.history.actions, np.uint8),
        times_ms_T=np.array(read.history.times_ms, np.int64),
    )


def encode_response(response: RankResponse, probabilities: bool) -> bytes:
    """One response as JSON."""
    p_KL = response.probabilities_KL if probabilities else None
    values: dict[str, Any] = {
        "request_id": response.request_id,
        "ids": response.ids_K.tolist(),
        "scores": response.scores_K.tolist(),
        "model_version": response.model_version,
        "rank_ms": response.rank_ms,
        "probabilities": None
        if p_KL is None
        else dict(zip(OBJECTIVES, p_KL.T.tolist(), strict=True)),
    }
    if response.watermark is not None:
        values["watermark"] = response.watermark
    if response.degraded:
        values["degraded"] = True
    return json.dumps(values).encode()


def decode_response(body: bytes) -> RankResponse:
    """Reads one response.

    Raises:
        ServingError: naming the first field that is wrong.
    """
    try:
        read = ResponseBody.model_validate_json(body)
        p_KL = None
        if read.probabilities is not None:
            rows = [read.probabilities[objective] for objective in OBJECTIVES]
            p_KL = np.ascontiguousarray(np.array(rows, np.float32).T)
    except ValidationError as error:
        raise ServingError(f"not a rank response: {first_error(error)}") from None
    except (KeyError, ValueError) as error:
        raise ServingError(f"not a rank response: probabilities: {error}") from None
    return RankResponse(
        request_id=read.request_id,
        ids_K=np.array(read.ids, np.int32),
        scores_K=np.array(read.scores, np.float32),
        model_version=read.model_version,
        rank_ms=read.rank_ms,
        probabilities_KL=p_KL,
        watermark=read.watermark,
        degraded=read.degraded,
    )


def first_error(error: ValidationError, body_bytes: int = 0) -> str:
    """The first field that is wrong, its value and the rule.

    Args:
        error: of a body.
        body_bytes: its length: of a long one no value is made, which may be as long.
    """
    shows = body_bytes <= _SHOWN_BYTES
    first = error.errors(include_url=False, include_context=False, include_input=shows)[0]
    field = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in first["loc"]).lstrip(".")
    value = f" == {shortened(repr(first['input']))}" if shows else ""
    return f"{shortened(field) or 'body'}{value}: {first['msg']}."
