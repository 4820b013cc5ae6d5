"""The JSON form of one request, one response and one append, typed, so that it documents itself.

Knows pydantic and the contract's sizes; no HTTP. Lists are bounded while they are read.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ifa_ray.errors import RequestError, shortened
from ifa_ray.schema import (
    FROM_STORE,
    MAX_CANDIDATES,
    MAX_HISTORY,
    OBJECTIVES,
    History,
    RankRequest,
    RankResponse,
)
from ifa_ray.serving.sequence_store import MAX_BATCH, MAX_LENGTH, Append

# Of a list no more than one error is made, be it a million long.
_FIRST = Field(fail_fast=True)
_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_UserId = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Byte = Annotated[int, Field(ge=0, le=255)]
_Channel = Annotated[int, Field(ge=-128, le=127)]

_HISTORY: dict[str, Any] = {"ids": [5, 6], "actions": [1, 3], "times_ms": [1_000, 2_000]}
_APPEND: dict[str, Any] = {"user_id": 7, "begin": 0, **_HISTORY}
_REQUEST: dict[str, Any] = {
    "request_id": 1,
    "user_id": 7,
    "time_ms": 3_000,
    "candidates": [1, 2, 3, 4],
    "history": _HISTORY,
    "k": 2,
    "probabilities": True,
}


class _Body(BaseModel):
    # strict: true is not 1 and "7" is not 7; what is mistyped is refused, not guessed.
    model_config = ConfigDict(extra="forbid", strict=True)


class HistoryBody(_Body):
    """The user's past impressions, oldest first: three lists of one length."""

    ids: Annotated[list[_Id], _FIRST] = Field(default=[], max_length=MAX_HISTORY)
    actions: Annotated[list[_Byte], _FIRST] = Field(
        default=[],
        max_length=MAX_HISTORY,
        description="One byte each: bit 0 is_click, 1 long_view, 2 is_like, 3 is_comment, "
        "4 is_follow, 5 is_forward, 6 is_hate.",
    )
    times_ms: Annotated[list[_Int64], _FIRST] = Field(default=[], max_length=MAX_HISTORY)


class RequestBody(_Body):
    """Rank these candidates for this user."""

    model_config = ConfigDict(json_schema_extra={"example": _REQUEST})

    request_id: _Int64
    user_id: _UserId
    time_ms: _Int64
    candidates: Annotated[list[_Id], _FIRST] = Field(min_length=1, max_length=MAX_CANDIDATES)
    channels: Annotated[list[_Channel], _FIRST] | None = Field(
        default=None, max_length=MAX_CANDIDATES
    )
    history: HistoryBody | None = Field(
        default=None, description="Left out: the one that the service keeps of the user, if any."
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
        default=None, description="By objective, of each id; null if the ranker gives none."
    )
    watermark: int | None = Field(
        default=None, description="Length of the service's history, where the request left it out."
    )


class AppendBody(HistoryBody):
    """These impressions, 1 to 10,000, follow the first `begin` ones of the user."""

    model_config = ConfigDict(json_schema_extra={"example": _APPEND})

    user_id: _UserId
    begin: int = Field(
        ge=0, le=MAX_LENGTH, description="Impressions before these; makes it safe to send twice."
    )


class AppendedBody(_Body):
    """They are on disk."""

    user_id: int
    watermark: int = Field(description="Impressions of the user that are stored now.")
    appended: int = Field(description="How many of those sent are new.")


class UserBody(_Body):
    """A user's stored history."""

    user_id: int
    watermark: int = Field(description="Impressions that are stored; the next append's `begin`.")
    last_ms: int | None = Field(description="When the last one happened; null if there is none.")


class ErasedBody(_Body):
    """Nothing is stored of the user any more."""

    user_id: int
    erased: int = Field(description="Impressions that were; 0 of a user who was unknown.")


class ErrorBody(_Body):
    """The mistake: field, value and rule."""

    error: str


def decode_request(body: bytes, *, stored: bool) -> tuple[RankRequest, bool]:
    """Reads one request and whether it wants probabilities; names the first field that is wrong.

    A history that is left out is `FROM_STORE` where they are `stored`, else empty.
    """
    read = _read(RequestBody, body, 2 * MAX_CANDIDATES + 3 * MAX_HISTORY + _MAX_NAMES)
    history = FROM_STORE if stored else History.empty()
    if read.history is not None:
        history = _history(read.history)
    elif "history" in read.model_fields_set:
        raise RequestError("history == None, must be an object or left out.")
    request = RankRequest(
        request_id=read.request_id,
        user_id=read.user_id,
        time_ms=read.time_ms,
        candidates_C=np.array(read.candidates, np.int32),
        channels_C=None if read.channels is None else np.array(read.channels, np.int8),
        history=history,
        k=read.k,
    )
    return request, read.probabilities


def decode_append(body: bytes) -> Append:
    """Reads one append; raises `RequestError`, naming the first field that is wrong."""
    # Three columns and a few names.
    read = _read(AppendBody, body, 4 * MAX_BATCH)
    return Append(user_id=read.user_id, begin=read.begin, history=_history(read))


def encode_response(response: RankResponse, probabilities: bool) -> bytes:
    """One response as JSON, with the probabilities if they are wanted."""
    p_KL = response.probabilities_KL if probabilities else None
    p = None if p_KL is None else dict(zip(OBJECTIVES, p_KL.T.tolist(), strict=True))
    values: dict[str, Any] = {
        "request_id": response.request_id,
        "ids": response.ids_K.tolist(),
        "scores": response.scores_K.tolist(),
        "model_version": response.model_version,
        "rank_ms": response.rank_ms,
        "probabilities": p,
    }
    if response.watermark is not None:
        values["watermark"] = response.watermark
    return json.dumps(values).encode()


_MAX_NAMES = 100
_SHOWN_BYTES = 2**20
_AnyBody = TypeVar("_AnyBody", bound=_Body)


def _read(kind: type[_AnyBody], body: bytes, max_values: int) -> _AnyBody:
    """Reads a body, unless it holds more names or values than any right one.

    Read, a value takes some hundred bytes, and each unknown name an error of its own.
    """
    for what, separator, limit in (("names", b":", _MAX_NAMES), ("values", b",", max_values)):
        found = body.count(separator)
        if found > limit:
            raise RequestError(f"body holds about {found} {what}, must be <= {limit}.")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        shows = len(body) <= _SHOWN_BYTES  # of a long body no value is made, which may be as long
        first = error.errors(include_url=False, include_context=False, include_input=shows)[0]
    field = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in first["loc"]).lstrip(".")
    value = f" == {shortened(repr(first['input']))}" if shows else ""
    raise RequestError(f"{shortened(field) or 'body'}{value}: {first['msg']}.")


def _history(read: HistoryBody) -> History:
    return History(
        ids_T=np.array(read.ids, np.int32),
        actions_T=np.array(read.actions, np.uint8),
        times_ms_T=np.array(read.times_ms, np.int64),
    )
