"""Impressions to append, and what became of them, as bytes from outside: Arrow and JSON.

Knows the media types and the contract's sizes; no HTTP, no store. JSON holds one user's
impressions, an Arrow stream one user's a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ifa_ray.errors import RequestError, ServingError
from ifa_ray.schema import MAX_TIME_MS, MIN_TIME_MS, History
from ifa_ray.serving import wire
from ifa_ray.serving.json_form import FIRST_ERROR, check_numbers_of, first_error
from ifa_ray.serving.sequence_store import MAX_BATCH, MAX_LENGTH, Append, Appended
from ifa_ray.serving.wire import numbers, read_batches, write_batch

APPEND_SCHEMA = pa.schema(
    {
        "user_id": pa.int64(),
        "begin": pa.int64(),
        "ids": pa.list_(pa.int32()),
        "actions": pa.list_(pa.uint8()),
        "times_ms": pa.list_(pa.int64()),
    }
)

APPENDED_SCHEMA = pa.schema(
    {"user_id": pa.int64(), "watermark": pa.int64(), "appended": pa.int64()}
)

# Three columns and a few names; a text that holds more is refused before it is read.
_MAX_VALUES = 4 * MAX_BATCH

UserId = Annotated[int, Field(ge=0, le=2**63 - 1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AppendBody(_Body):
    """These impressions follow the first `begin` ones of the user; three lists of one length."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": 7,
                "begin": 0,
                "ids": [5, 6],
                "actions": [1, 3],
                "times_ms": [1_000, 2_000],
            }
        }
    )

    user_id: UserId
    begin: int = Field(
        ge=0,
        le=MAX_LENGTH,
        description="How many impressions of the user came before. Sent again, they are compared "
        "and not stored twice.",
    )
    ids: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], FIRST_ERROR] = Field(
        min_length=1, max_length=MAX_BATCH
    )
    actions: Annotated[list[Annotated[int, Field(ge=0, le=255)]], FIRST_ERROR] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        description="One byte each: bit 0 is_click, 1 long_view, 2 is_like, 3 is_comment, "
        "4 is_follow, 5 is_forward, 6 is_hate.",
    )
    times_ms: Annotated[
        list[Annotated[int, Field(ge=MIN_TIME_MS, le=MAX_TIME_MS)]], FIRST_ERROR
    ] = Field(min_length=1, max_length=MAX_BATCH)


class AppendedBody(_Body):
    """They are on disk."""

    user_id: int
    watermark: int = Field(description="Impressions of the user that are stored now.")
    appended: int = Field(description="How many of those sent are new.")


class UserBody(_Body):
    """What is stored of a user."""

    user_id: int
    watermark: int = Field(description="Impressions that are stored; the next append's `begin`.")
    last_ms: int | None = Field(description="When the last one happened; null if there is none.")


class ErasedBody(_Body):
    """Nothing is stored of the user any more."""

    user_id: int
    erased: int = Field(description="Impressions that were; 0 of a user who was unknown.")


def encode_appends(appends: Sequence[Append], media_type: str = wire.ARROW) -> bytes:
    """Appends as one body. JSON holds exactly one."""
    if media_type == wire.JSON:
        (one,) = appends
        values = {
            "user_id": one.user_id,
            "begin": one.begin,
            "ids": one.history.ids_T.tolist(),
            "actions": one.history.actions_T.tolist(),
            "times_ms": one.history.times_ms_T.tolist(),
        }
        return json.dumps(values).encode()
    columns: dict[str, list[Any]] = {
        "user_id": [one.user_id for one in appends],
        "begin": [one.begin for one in appends],
        "ids": [one.history.ids_T for one in appends],
        "actions": [one.history.actions_T for one in appends],
        "times_ms": [one.history.times_ms_T for one in appends],
    }
    return write_batch(APPEND_SCHEMA, columns)


def decode_appends(body: bytes, media_type: str, max_appends: int) -> list[Append]:
    """Reads one body; values are checked by the store.

    Raises:
        RequestError: naming the first field that is wrong.
    """
    if media_type == wire.JSON:
        return [_read_json(body)]
    batches = read_batches(body, [APPEND_SCHEMA], max_appends, nullable=())
    appends = [
        Append(
            user_id=batch["user_id"][row].as_py(),
            begin=batch["begin"][row].as_py(),
            history=History(
                ids_T=numbers(batch["ids"], row),
                actions_T=numbers(batch["actions"], row),
                times_ms_T=numbers(batch["times_ms"], row),
            ),
        )
        for batch in batches
        for row in range(batch.num_rows)
    ]
    if not appends:
        raise RequestError("len(rows) == 0, must be >= 1.")
    return appends


def encode_appended(done: Sequence[Appended], media_type: str) -> bytes:
    """What became of appends, in the form in which they came."""
    if media_type == wire.JSON:
        (one,) = done
        body = AppendedBody(user_id=one.user_id, watermark=one.watermark, appended=one.appended)
        return body.model_dump_json().encode()
    columns = {
        "user_id": [one.user_id for one in done],
        "watermark": [one.watermark for one in done],
        "appended": [one.appended for one in done],
    }
    return write_batch(APPENDED_SCHEMA, columns)


def decode_appended(body: bytes, media_type: str, num_appends: int) -> list[Appended]:
    """Reads a server's answer to `num_appends` appends.

    Raises:
        ServingError: if it is not one.
    """
    try:
        if media_type == wire.JSON:
            read = AppendedBody.model_validate_json(body)
            return [Appended(**read.model_dump())]
        batches = read_batches(body, [APPENDED_SCHEMA], num_appends, nullable=())
    except ValidationError as error:
        raise ServingError(f"not an answer to events: {first_error(error)}") from None
    except RequestError as error:
        raise ServingError(f"not an answer to events: {error}") from None
    done = [Appended(**row) for batch in batches for row in batch.to_pylist()]
    if len(done) != num_appends:
        raise ServingError(f"len(answers) == {len(done)}, must be {num_appends}.")
    return done


def read_user(body: bytes) -> UserBody:
    """Reads what a server says of a user.

    Raises:
        ServingError: if it says something else.
    """
    try:
        return UserBody.model_validate_json(body)
    except ValidationError as error:
        raise ServingError(f"not what is stored of a user: {first_error(error)}") from None


def read_erased(body: bytes) -> ErasedBody:
    """Reads what a server says of a user's erasure.

    Raises:
        ServingError: if it says something else.
    """
    try:
        return ErasedBody.model_validate_json(body)
    except ValidationError as error:
        raise ServingError(f"not an erasure: {first_error(error)}") from None


def _read_json(body: bytes) -> Append:
    check_numbers_of(body, _MAX_VALUES)
    try:
        read = AppendBody.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(first_error(error, len(body))) from None
    history = History(
        ids_T=np.array(read.ids, np.int32),
        actions_T=np.array(read.actions, np.uint8),
        times_ms_T=np.array(read.times_ms, np.int64),
    )
    return Append(user_id=read.user_id, begin=read.begin, history=history)
