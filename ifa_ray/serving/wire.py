"""Requests, responses and appends as bytes from outside: Arrow streams; JSON goes to `json_form`.

Knows which media type means which form; no HTTP, no ranker, no store. No pickle crosses this
boundary, and sizes are checked before anything of that size is made. Whoever receives a body limits
its length.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ifa_ray.errors import RequestError, ServingError, shortened
from ifa_ray.schema import FROM_STORE, OBJECTIVES, History, RankRequest, RankResponse, StoredHistory
from ifa_ray.serving import json_form
from ifa_ray.serving.sequence_store import Append, Appended

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
MAX_DEADLINE_MS = 3_600_000
"""Of the header `deadline-ms`."""

REQUEST_SCHEMA = pa.schema(
    {
        "request_id": pa.int64(),
        "user_id": pa.int64(),
        "time_ms": pa.int64(),
        "candidates": pa.list_(pa.int32()),
        "channels": pa.list_(pa.int8()),  # null if unknown
        "history_ids": pa.list_(pa.int32()),  # these three null together: the service's is meant
        "history_actions": pa.list_(pa.uint8()),
        "history_times_ms": pa.list_(pa.int64()),
        "k": pa.int32(),
        "probabilities": pa.bool_(),
    }
)
_BEHAVIOURS = ("ids", "actions", "times_ms")
_HISTORY = tuple(f"history_{name}" for name in _BEHAVIOURS)

_PROBABILITIES = [f"p_{objective}" for objective in OBJECTIVES]
RESPONSE_SCHEMA = pa.schema(
    {
        "request_id": pa.int64(),
        "ids": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float32()),
        "model_version": pa.int32(),
        "rank_ms": pa.float64(),
        **{name: pa.list_(pa.float32()) for name in _PROBABILITIES},  # null if not asked for
    }
)
# Sent only where a response of the call has one; null where the request brought its history.
_WATERMARK = pa.field("watermark", pa.int64())

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

_LISTED_COLUMNS = 20  # in an error


# Columns that are a field of the dataclass, some under another name.
_FIELDS = {
    "candidates": "candidates_C",
    "channels": "channels_C",
    "ids": "ids_K",
    "scores": "scores_K",
}
_REQUEST = ("request_id", "user_id", "time_ms", "candidates", "channels", "k")
_RESPONSE = ("request_id", "ids", "scores", "model_version", "rank_ms", "watermark")


def encode_requests(requests: Sequence[RankRequest], *, probabilities: bool = False) -> bytes:
    """Requests as an Arrow stream."""
    return _write(REQUEST_SCHEMA, [_request_row(one, probabilities) for one in requests])


def decode_requests(
    body: bytes, media_type: str, max_requests: int, *, stored: bool = False
) -> tuple[list[RankRequest], list[bool]]:
    """Reads one body: the requests, one in JSON, and whether each wants probabilities.

    Types and sizes are checked here, everything else by `ifa_ray.schema.validate_request`. Where
    histories are `stored`, a request without one is read as of `FROM_STORE`.
    """
    if media_type == JSON:
        request, wanted = json_form.decode_request(body, stored=stored)
        return [request], [wanted]
    nullable = ("channels", *_HISTORY) if stored else ("channels",)
    rows = _read(body, REQUEST_SCHEMA, max_requests, nullable)
    return [_request(row) for row in rows], [row["probabilities"] for row in rows]


def encode_responses(
    responses: Sequence[RankResponse], media_type: str, probabilities: Sequence[bool]
) -> bytes:
    """Responses in the form of the body; `probabilities` says which of them carry theirs."""
    if media_type == JSON:
        return json_form.encode_response(responses[0], probabilities[0])
    schema = RESPONSE_SCHEMA
    if any(response.watermark is not None for response in responses):
        schema = schema.append(_WATERMARK)
    pairs = zip(responses, probabilities, strict=True)
    return _write(schema, [_response_row(one, wanted) for one, wanted in pairs])


def decode_responses(body: bytes, num_requests: int) -> list[RankResponse]:
    """Reads a server's answer to so many requests; raises `ServingError` if it is none."""
    nullable = [*_PROBABILITIES, "watermark"]
    return [_response(row) for row in _answers(body, RESPONSE_SCHEMA, num_requests, nullable)]


def encode_appends(appends: Sequence[Append]) -> bytes:
    """Appends as an Arrow stream."""
    rows = [
        {"user_id": one.user_id, "begin": one.begin, **_columns(one.history, _BEHAVIOURS)}
        for one in appends
    ]
    return _write(APPEND_SCHEMA, rows)


def decode_appends(body: bytes, media_type: str, max_appends: int) -> list[Append]:
    """Reads one body, of one append in JSON; values are checked by the store."""
    if media_type == JSON:
        return [json_form.decode_append(body)]
    return [
        Append(user_id=row["user_id"], begin=row["begin"], history=_history(row, _BEHAVIOURS))
        for row in _read(body, APPEND_SCHEMA, max_appends, ())
    ]


def encode_appended(done: Sequence[Appended], media_type: str) -> bytes:
    """The outcome of appends, in the form in which they came."""
    if media_type == JSON:
        return json_form.AppendedBody(**vars(done[0])).model_dump_json().encode()
    return _write(APPENDED_SCHEMA, [vars(one) for one in done])


def decode_appended(body: bytes, num_appends: int) -> list[Appended]:
    """Reads a server's answer to so many appends; raises `ServingError` if it is none."""
    return [Appended(**row) for row in _answers(body, APPENDED_SCHEMA, num_appends, ())]


def _columns(history: History, names: Sequence[str]) -> dict[str, Any]:
    """A history under three names; None where the service's is meant."""
    if isinstance(history, StoredHistory):
        return dict.fromkeys(names)
    columns = (history.ids_T, history.actions_T, history.times_ms_T)
    return dict(zip(names, columns, strict=True))


def _history(row: dict[str, Any], names: Sequence[str]) -> History:
    ids_T, actions_T, times_ms_T = (row[name] for name in names)
    return History(ids_T=ids_T, actions_T=actions_T, times_ms_T=times_ms_T)


def _request_row(request: RankRequest, probabilities: bool) -> dict[str, Any]:
    row = {name: getattr(request, _FIELDS.get(name, name)) for name in _REQUEST}
    return {**row, **_columns(request.history, _HISTORY), "probabilities": probabilities}


def _request(row: dict[str, Any]) -> RankRequest:
    absent = [name for name in _HISTORY if row[name] is None]
    if 0 < len(absent) < len(_HISTORY):
        rule = f"must be null with all of {', '.join(_HISTORY)}"
        raise RequestError(f"{absent[0]} holds null, {rule}.")
    fields = {_FIELDS.get(name, name): row[name] for name in _REQUEST}
    return RankRequest(**fields, history=FROM_STORE if absent else _history(row, _HISTORY))


def _response_row(response: RankResponse, wanted: bool) -> dict[str, Any]:
    p_KL = response.probabilities_KL if wanted else None
    p = {name: None if p_KL is None else p_KL[:, at] for at, name in enumerate(_PROBABILITIES)}
    return {name: getattr(response, _FIELDS.get(name, name)) for name in _RESPONSE} | p


def _response(row: dict[str, Any]) -> RankResponse:
    p = [row[name] for name in _PROBABILITIES]
    fields = {_FIELDS.get(name, name): row[name] for name in _RESPONSE if name in row}
    p_KL = None if any(one is None for one in p) else np.stack(p, axis=1)
    return RankResponse(**fields, probabilities_KL=p_KL)


def _write(schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a stream of one batch."""
    arrays = [_column([row[field.name] for row in rows], field.type) for field in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return sink.getvalue().to_pybytes()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    # pa.array would walk a list of numpy arrays one number at a time.
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([0 if value is None else len(value) for value in values], out=offsets[1:])
    present = [value for value in values if value is not None]
    flat: Any = np.concatenate(present) if present else []
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(flat, kind.value_type),
        type=kind,
        mask=pa.array([value is None for value in values]),
    )


def _answers(
    body: bytes, schema: pa.Schema, count: int, nullable: Collection[str]
) -> list[dict[str, Any]]:
    try:
        rows = _read(body, schema, count, nullable)
    except RequestError as error:
        raise ServingError(f"not an answer: {error}") from None
    if len(rows) != count:
        raise ServingError(f"len(answers) == {len(rows)}, must be {count}.")
    return rows


def _read(
    body: bytes, schema: pa.Schema, max_rows: int, nullable: Collection[str]
) -> list[dict[str, Any]]:
    """The rows, at least one, of a whole stream, fully checked; lists are views of the body.

    It may hold `max_rows` batches too: an empty one costs memory. Rows of `nullable` columns may be
    null.
    """
    buffer = pa.py_buffer(body)
    try:
        _refuse_compression(buffer, max_rows)
        batches, count = [], 0
        with pa.ipc.open_stream(buffer) as reader:
            if schema is RESPONSE_SCHEMA and _WATERMARK.name in reader.schema.names:
                schema = schema.append(_WATERMARK)
            if not reader.schema.equals(schema):
                raise RequestError(
                    f"columns == ({_listed(reader.schema)}), must be ({_listed(schema)})."
                )
            for batch in reader:
                count += batch.num_rows
                if count > max_rows:
                    raise RequestError(f"len(rows) == {count} or more, must be <= {max_rows}.")
                batch.validate(full=True)  # offsets and lengths come from outside too
                batches.append(batch)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise RequestError(f"body is not an Arrow stream: {shortened(str(error), 300)}") from None
    except UnicodeDecodeError:
        raise RequestError("body is not an Arrow stream: a column's name is not UTF-8.") from None
    if not count:
        raise RequestError("len(rows) == 0, must be >= 1.")
    return [row for batch in batches for row in _rows(batch, nullable)]


def _rows(batch: pa.RecordBatch, nullable: Collection[str]) -> list[dict[str, Any]]:
    named = list(zip(batch.schema.names, batch.columns, strict=True))
    for name, column in named:
        holes = column.flatten().null_count if pa.types.is_list(column.type) else 0
        if holes or (column.null_count and name not in nullable):
            raise RequestError(f"{name} holds null, must not.")
    return [{name: _value(column[row]) for name, column in named} for row in range(batch.num_rows)]


def _value(scalar: pa.Scalar) -> Any:
    """A number, or a list as numpy sees it; None where it is null."""
    if not isinstance(scalar, pa.ListScalar):
        return scalar.as_py()
    return None if scalar.values is None else scalar.values.to_numpy(zero_copy_only=True)


def _listed(schema: pa.Schema) -> str:
    """Columns for a message, the first few of them: a body may be all columns."""
    fields = [schema.field(place) for place in range(min(len(schema), _LISTED_COLUMNS))]
    shown = [f"{shortened(field.name)}: {shortened(str(field.type))}" for field in fields]
    return ", ".join(shown + ["..."] * (len(schema) > len(fields)))


def _refuse_compression(buffer: pa.Buffer, max_batches: int) -> None:
    """Reads messages' metadata alone, before anything is made of them."""
    for batches, message in enumerate(pa.ipc.MessageReader.open_stream(buffer)):
        if batches > max_batches:  # the first is the schema
            raise RequestError(f"len(batches) == {batches} or more, must be <= {max_batches}.")
        if message.type != "schema" and _is_compressed(message.metadata.to_pybytes()):
            raise RequestError("body holds compressed buffers, must be uncompressed.")


def _is_compressed(metadata: bytes) -> bool:
    """True if a record batch message names a codec: field 3 of table RecordBatch in Message.fbs.

    Read by hand because pyarrow shows it only after having decompressed. The layout: a table
    starts with the distance back to its vtable, which lists where each field lies (0: absent).
    """

    def field(table: int, index: int) -> int:
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        place = 4 + 2 * index
        if place >= struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, vtable + place)[0]
        return table + offset if offset else 0

    def follow(position: int) -> int:
        offset: int = struct.unpack_from("<I", metadata, position)[0]
        return position + offset

    header = field(follow(0), 2)
    return bool(header and field(follow(header), 3))
