"""Requests and responses as bytes from outside: Arrow streams for programs, JSON for people.

Knows which media type means which form; no HTTP, no ranker. No pickle crosses this boundary, and
sizes are checked before anything of that size is made. Whoever receives a body limits its length.
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

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"


def encode_requests(
    requests: Sequence[RankRequest], media_type: str = ARROW, *, probabilities: bool = False
) -> bytes:
    """Requests as one body. JSON holds exactly one request."""
    if media_type == JSON:
        (request,) = requests
        return json_form.encode_request(request, probabilities)
    return requests_to_arrow(requests, probabilities)


def decode_requests(
    body: bytes, media_type: str, max_requests: int, *, stored: bool = False
) -> tuple[list[RankRequest], list[bool]]:
    """Reads one body: the requests, and whether each wants probabilities.

    Types and sizes are checked here, everything else by `ifa_ray.schema.validate_request`.

    Args:
        body: from outside.
        media_type: its form.
        max_requests: at most.
        stored: True where the service keeps histories: a request may name its user alone, and is
            read as one whose history is `FROM_STORE`.

    Raises:
        RequestError: naming what is wrong.
    """
    if media_type == JSON:
        request, probabilities = json_form.decode_request(body, stored=stored)
        return [request], [probabilities]
    if media_type != ARROW:
        raise RequestError(f"content-type == {media_type!r}, must be {JSON!r} or {ARROW!r}.")
    pairs = requests_from_arrow(body, max_requests, stored=stored)
    return [request for request, _ in pairs], [wanted for _, wanted in pairs]


def encode_responses(
    responses: Sequence[RankResponse], media_type: str, probabilities: Sequence[bool]
) -> bytes:
    """Responses as one body; `probabilities` says which of them carry theirs."""
    if media_type == JSON:
        (response,), (wanted,) = responses, probabilities
        return json_form.encode_response(response, wanted)
    return responses_to_arrow(responses, probabilities)


def decode_responses(body: bytes, media_type: str, num_requests: int) -> list[RankResponse]:
    """Reads a server's answer to `num_requests` requests.

    Raises:
        ServingError: if it is not one.
    """
    if media_type == JSON:
        return [json_form.decode_response(body)]
    return responses_from_arrow(body, num_requests)


REQUEST_SCHEMA = pa.schema(
    {
        "request_id": pa.int64(),
        "user_id": pa.int64(),
        "time_ms": pa.int64(),
        "candidates": pa.list_(pa.int32()),
        "channels": pa.list_(pa.int8()),  # null if unknown
        "history_ids": pa.list_(pa.int32()),
        "history_actions": pa.list_(pa.uint8()),
        "history_times_ms": pa.list_(pa.int64()),
        "k": pa.int32(),
        "probabilities": pa.bool_(),
    }
)

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

# Sent only where a response of the call has one. A watermark is null where the request brought its
# history.
_OPTIONAL = (pa.field("watermark", pa.int64()), pa.field("degraded", pa.bool_()))
_RESPONSE_SCHEMAS = [
    RESPONSE_SCHEMA,
    RESPONSE_SCHEMA.append(_OPTIONAL[0]),
    RESPONSE_SCHEMA.append(_OPTIONAL[1]),
    RESPONSE_SCHEMA.append(_OPTIONAL[0]).append(_OPTIONAL[1]),
]

_LISTED_COLUMNS = 20  # in an error

_HISTORY = ("history_ids", "history_actions", "history_times_ms")


def requests_to_arrow(requests: Sequence[RankRequest], probabilities: bool) -> bytes:
    """Requests as a stream of one batch."""
    columns: dict[str, list[Any]] = {
        "request_id": [r.request_id for r in requests],
        "user_id": [r.user_id for r in requests],
        "time_ms": [r.time_ms for r in requests],
        "candidates": [r.candidates_C for r in requests],
        "channels": [r.channels_C for r in requests],
        **dict(zip(_HISTORY, _histories(requests), strict=True)),
        "k": [r.k for r in requests],
        "probabilities": [probabilities] * len(requests),
    }
    return write_batch(REQUEST_SCHEMA, columns)


def _histories(requests: Sequence[RankRequest]) -> tuple[list[Any], list[Any], list[Any]]:
    """The columns of histories; null where the server's is meant."""
    brought = [None if isinstance(r.history, StoredHistory) else r.history for r in requests]
    return (
        [None if history is None else history.ids_T for history in brought],
        [None if history is None else history.actions_T for history in brought],
        [None if history is None else history.times_ms_T for history in brought],
    )


def requests_from_arrow(
    body: bytes, max_requests: int, *, stored: bool = False
) -> list[tuple[RankRequest, bool]]:
    """Reads requests and whether each wants probabilities.

    Args:
        body: from outside.
        max_requests: rows at most.
        stored: True lets the three columns of a history be null together, for `FROM_STORE`.

    Raises:
        RequestError: on anything but a whole stream of `REQUEST_SCHEMA` with 1 to `max_requests`
            rows.
    """
    nullable = ("channels", *_HISTORY) if stored else ("channels",)
    batches = read_batches(body, [REQUEST_SCHEMA], max_requests, nullable)
    rows = [_request(batch, row) for batch in batches for row in range(batch.num_rows)]
    if not rows:
        raise RequestError("len(requests) == 0, must be >= 1.")
    return rows


def responses_to_arrow(responses: Sequence[RankResponse], probabilities: Sequence[bool]) -> bytes:
    """Responses as a stream of one batch; `probabilities` says which rows carry them."""
    p = [
        r.probabilities_KL if want else None
        for r, want in zip(responses, probabilities, strict=True)
    ]
    columns: dict[str, list[Any]] = {
        "request_id": [r.request_id for r in responses],
        "ids": [r.ids_K for r in responses],
        "scores": [r.scores_K for r in responses],
        "model_version": [r.model_version for r in responses],
        "rank_ms": [r.rank_ms for r in responses],
        **{
            name: [None if p_KL is None else p_KL[:, place] for p_KL in p]
            for place, name in enumerate(_PROBABILITIES)
        },
    }
    schema = RESPONSE_SCHEMA
    if any(r.watermark is not None for r in responses):
        columns["watermark"] = [r.watermark for r in responses]
        schema = schema.append(_OPTIONAL[0])
    if any(r.degraded for r in responses):
        columns["degraded"] = [r.degraded for r in responses]
        schema = schema.append(_OPTIONAL[1])
    return write_batch(schema, columns)


def responses_from_arrow(body: bytes, num_requests: int) -> list[RankResponse]:
    """Reads a server's responses.

    Raises:
        ServingError: on anything but a whole stream of `RESPONSE_SCHEMA` with `num_requests` rows.
    """
    try:
        nullable = [*_PROBABILITIES, "watermark"]
        batches = read_batches(body, _RESPONSE_SCHEMAS, num_requests, nullable)
    except RequestError as error:
        raise ServingError(f"not a rank response: {error}") from None
    rows = [_response(batch, row) for batch in batches for row in range(batch.num_rows)]
    if len(rows) != num_requests:
        raise ServingError(f"len(responses) == {len(rows)}, must be {num_requests}.")
    return rows


def write_batch(schema: pa.Schema, columns: dict[str, list[Any]]) -> bytes:
    """Columns, by name, as a stream of one batch."""
    arrays = [_column(columns[field.name], field.type) for field in schema]
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


def read_batches(
    body: bytes, schemas: Sequence[pa.Schema], max_rows: int, nullable: Collection[str]
) -> list[pa.RecordBatch]:
    """The batches of a whole stream from outside, fully checked but not copied.

    Args:
        body: from outside.
        schemas: what it may hold; errors name the first.
        max_rows: of all batches, and batches: an empty one costs memory too.
        nullable: columns whose rows may be null.

    Raises:
        RequestError: on anything else.
    """
    buffer = pa.py_buffer(body)
    try:
        _refuse_compression(buffer, max_rows)
        batches, rows = [], 0
        with pa.ipc.open_stream(buffer) as reader:
            if not any(reader.schema.equals(schema) for schema in schemas):
                raise RequestError(
                    f"columns == ({_listed(reader.schema)}), must be ({_listed(schemas[0])})."
                )
            for batch in reader:
                rows += batch.num_rows
                if rows > max_rows:
                    raise RequestError(f"len(rows) == {rows} or more, must be <= {max_rows}.")
                batch.validate(full=True)  # offsets and lengths come from outside too
                batches.append(batch)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise RequestError(f"body is not an Arrow stream: {shortened(str(error), 300)}") from None
    except UnicodeDecodeError:
        raise RequestError("body is not an Arrow stream: a column's name is not UTF-8.") from None
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            holes = column.flatten().null_count if pa.types.is_list(column.type) else 0
            if holes or (column.null_count and name not in nullable):
                raise RequestError(f"{name} holds null, must not.")
    return batches


def _listed(schema: pa.Schema) -> str:
    """Columns for a message, the first few of them: a body may be all columns."""
    fields = [schema.field(place) for place in range(min(len(schema), _LISTED_COLUMNS))]
    shown = [f"{shortened(field.name)}: {shortened(str(field.type))}" for field in fields]
    return ", ".join(shown if len(fields) == len(schema) else [*shown, "..."])


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


def numbers(column: pa.Array, row: int) -> Any:
    """A row of a column of lists, as numpy sees it; None where it is null."""
    values = column[row].values
    return None if values is None else values.to_numpy(zero_copy_only=True)


def _request(batch: pa.RecordBatch, row: int) -> tuple[RankRequest, bool]:
    request = RankRequest(
        request_id=batch["request_id"][row].as_py(),
        user_id=batch["user_id"][row].as_py(),
        time_ms=batch["time_ms"][row].as_py(),
        candidates_C=numbers(batch["candidates"], row),
        channels_C=numbers(batch["channels"], row),
        history=_history(batch, row),
        k=batch["k"][row].as_py(),
    )
    return request, batch["probabilities"][row].as_py()


def _history(batch: pa.RecordBatch, row: int) -> History:
    columns = [numbers(batch[name], row) for name in _HISTORY]
    absent = [column is None for column in columns]
    if all(absent):
        return FROM_STORE
    if any(absent):
        name = _HISTORY[absent.index(True)]
        raise RequestError(f"{name} holds null, must be null with all of {', '.join(_HISTORY)}.")
    ids_T, actions_T, times_ms_T = columns
    return History(ids_T=ids_T, actions_T=actions_T, times_ms_T=times_ms_T)


def _response(batch: pa.RecordBatch, row: int) -> RankResponse:
    columns = [numbers(batch[name], row) for name in _PROBABILITIES]
    p_KL = None if any(column is None for column in columns) else np.stack(columns, axis=1)
    return RankResponse(
        request_id=batch["request_id"][row].as_py(),
        ids_K=numbers(batch["ids"], row),
        scores_K=numbers(batch["scores"], row),
        model_version=batch["model_version"][row].as_py(),
        rank_ms=batch["rank_ms"][row].as_py(),
        probabilities_KL=p_KL,
        watermark=batch["watermark"][row].as_py() if "watermark" in batch.schema.names else None,
        degraded="degraded" in batch.schema.names and batch["degraded"][row].as_py(),
    )
