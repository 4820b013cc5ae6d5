"""Hypothesis strategies of binary bodies: right, nearly right, lying, and no streams at all."""

import struct

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from ifa_ray.serving.wire import APPEND_SCHEMA, REQUEST_SCHEMA

EDGES = [-(2**63), -(2**31), -1, 0, 1, 2, 7, 2**31 - 1, 2**31, 2**53, 2**62, 2**63 - 1]
# Times are near each other, near now, or at the ends of what an int64 holds.
times = st.one_of(st.integers(0, 50), st.integers(1_600_000_000_000, 1_700_000_000_000),
                  st.sampled_from(EDGES))  # fmt: skip


def within(low, high):
    """Integers of a type, mostly small ones, at times its ends."""
    edges = sorted({x for x in (*EDGES, low, high) if low <= x <= high})
    small = st.integers(max(low, -2), min(high, 45))
    return st.one_of(small, small, st.sampled_from(edges))


INT8, UINT8 = within(-128, 127), within(0, 255)
INT32, INT64 = within(-(2**31), 2**31 - 1), within(-(2**63), 2**63 - 1)


@st.composite
def lives(draw):
    """Ids, actions and times of a right history."""
    length = draw(st.integers(0, 6))
    ids, actions, at = (
        draw(st.lists(values, min_size=length, max_size=length))
        for values in (st.integers(0, 45), st.integers(0, 255), times)
    )
    return ids, actions, sorted(at)


@st.composite
def request_rows(draw):
    """A right request, of which half have one to two fields that may not be."""
    ids, actions, at = draw(lives())
    size = draw(st.integers(1, 12))
    row = {
        "request_id": draw(INT64),
        "user_id": draw(st.integers(0, 5)),
        "time_ms": max(at, default=draw(times)),
        "candidates": draw(st.lists(st.integers(0, 39), min_size=size, max_size=size, unique=True)),
        "channels": draw(st.sampled_from([None, [1] * size])),
        "history_ids": ids,
        "history_actions": actions,
        "history_times_ms": at,
        "k": draw(st.integers(1, size)),
        "probabilities": draw(st.booleans()),
    }
    if draw(st.booleans()):
        row.update(history_ids=None, history_actions=None, history_times_ms=None)
    return _spoiled(draw, row, REQUEST_SCHEMA)


@st.composite
def append_rows(draw):
    """As `request_rows`; whether impressions follow what is stored is another question."""
    ids, actions, at = draw(lives())
    row = {
        "user_id": draw(st.integers(0, 5)),
        "begin": draw(st.integers(0, 12)),
        "ids": ids or [3],
        "actions": actions or [1],
        "times_ms": at or [20],
    }
    return _spoiled(draw, row, APPEND_SCHEMA)


_VALUES = {
    pa.int64(): INT64,
    pa.int32(): INT32,
    pa.bool_(): st.booleans(),
    pa.list_(pa.int8()): st.lists(INT8, max_size=6),
    pa.list_(pa.uint8()): st.lists(UINT8, max_size=6),
    pa.list_(pa.int32()): st.lists(INT32, max_size=6),
    pa.list_(pa.int64()): st.lists(times, max_size=6),
}


def _spoiled(draw, row, schema):
    """Half of the rows with one or two fields of any value of their type, null, or with holes."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(row)))
        row[name] = draw(st.one_of(_VALUES[schema.field(name).type], st.none()))
        if isinstance(row[name], list) and draw(st.integers(0, 3)) == 0:
            row[name] = [*row[name], None]
    return row


def encoded(schema, rows, *, batches=1, options=None):
    """Rows as a stream of so many batches."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for start in range(batches):
            for batch in table.slice(start, None if start == batches - 1 else 1).to_batches():
                writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


@st.composite
def right_streams(draw, schema, rows):
    """Streams of the right columns; what they hold may break any rule."""
    some = draw(st.lists(rows, max_size=3))
    return encoded(schema, some, batches=draw(st.integers(1, 2)))


# Each makes another column of an array, or an error where it cannot.
_OTHER_TYPES = {
    "float": lambda column: pa.array([float("nan")] * len(column)),
    "float list": lambda column: pa.array([[float("nan"), 1.0]] * len(column)),
    "text": lambda column: pa.array(["\x00x"] * len(column)),
    "bytes": lambda column: pa.array([b"\xff" * 9] * len(column)),
    "large list": lambda column: column.cast(pa.large_list(column.type.value_type)),
    "list view": lambda column: pa.array(column.to_pylist(), pa.list_view(pa.int32())),
    "fixed list": lambda column: pa.array([[1, 2]] * len(column), pa.list_(pa.int32(), 2)),
    "list of lists": lambda column: pa.array([[[1]]] * len(column)),
    "struct": lambda column: pa.array([{"a": [1]}] * len(column)),
    "map": lambda column: pa.array([[(1, 2)]] * len(column), pa.map_(pa.int32(), pa.int32())),
    "dictionary": lambda column: column.dictionary_encode(),
    "dictionary list": lambda column: pa.array(
        [["a", "b"]] * len(column), pa.list_(pa.dictionary(pa.int8(), pa.string()))
    ),
    "runs": lambda column: pa.RunEndEncodedArray.from_arrays([max(1, len(column))], [3]),
    "union": lambda column: pa.UnionArray.from_sparse(
        pa.array([0] * len(column), pa.int8()), [column]
    ),
    "extension": lambda column: pa.ExtensionArray.from_storage(
        pa.json_(), pa.array(["{}"] * len(column))
    ),
    "tensor": lambda column: pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]),
        pa.array([[1, 2]] * len(column), pa.list_(pa.int32(), 2)),
    ),
    "null": lambda column: pa.nulls(len(column)),
    "decimal": lambda column: pa.array([1] * len(column), pa.decimal128(9)),
    "int16": lambda column: pa.array([1] * len(column), pa.int16()),
    "unsigned": lambda column: pa.array([2**64 - 1] * len(column), pa.uint64()),
    "time": lambda column: pa.array([1] * len(column), pa.timestamp("ms")),
}  # fmt: skip


@st.composite
def other_schemas(draw, schema, rows):
    """Streams whose columns are others: of another type or name, too few, twice, reordered."""
    batch = pa.Table.from_pylist([draw(rows)], schema).to_batches()[0]
    columns, fields = list(batch.columns), list(schema)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(fields) - 1))
        change = draw(
            st.sampled_from([*_OTHER_TYPES, "drop", "twice", "rename", "swap", "metadata"])
        )
        if change == "drop" and len(fields) > 1:
            del columns[place], fields[place]
        elif change == "twice":
            columns.append(columns[place])
            fields.append(fields[place])
        elif change == "rename":
            name = draw(st.one_of(st.text(max_size=9), st.just("x" * 20_000)))
            fields[place] = fields[place].with_name(name.encode(errors="replace").decode())
        elif change == "swap":
            columns.append(columns.pop(place))
            fields.append(fields.pop(place))
        elif change == "metadata":
            keys = {"ARROW:extension:name": "x.y", "ARROW:extension:metadata": "z" * 99}
            fields[place] = fields[place].with_metadata(keys)
        elif change in _OTHER_TYPES:
            try:
                columns[place] = _OTHER_TYPES[change](columns[place])
            except (pa.ArrowException, NotImplementedError, AttributeError):
                continue
            fields[place] = pa.field(fields[place].name, columns[place].type)
    changed = pa.schema(fields, metadata=draw(st.sampled_from([None, {"pandas": "{"}])))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, changed) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=changed))
    return sink.getvalue().to_pybytes()


_OPTIONS = [
    pa.ipc.IpcWriteOptions(compression="lz4"),
    pa.ipc.IpcWriteOptions(compression="zstd"),
    pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4),
    pa.ipc.IpcWriteOptions(use_legacy_format=True),
    pa.ipc.IpcWriteOptions(allow_64bit=True),
]


@st.composite
def other_forms(draw, schema, rows):
    """The right columns in another form of Arrow: compressed, of an older version, as a file."""
    some = draw(st.lists(rows, min_size=1, max_size=2))
    if draw(st.integers(0, 5)) == 0:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(some, schema))
        return sink.getvalue().to_pybytes()
    return encoded(schema, some, options=draw(st.sampled_from(_OPTIONS)))


@st.composite
def lying_streams(draw, schema, rows):
    """Right streams of which numbers were overwritten: sizes, offsets, lengths, tags, values."""
    body = bytearray(encoded(schema, draw(st.lists(rows, min_size=1, max_size=2))))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from("bhiqb"))
        width = struct.calcsize(kind)
        at = draw(st.integers(0, (len(body) - width) // width)) * width
        low, high = -(1 << (8 * width - 1)), (1 << (8 * width - 1)) - 1
        value = draw(st.one_of(within(low, high), st.integers(low, high)))
        struct.pack_into(f"<{kind}", body, at, value)
    return bytes(body)


def big_endian(body):
    """A stream that says that its numbers are big-endian; None if the schema leaves no room for it.

    Field 0 of the table Schema in Schema.fbs is absent where numbers are little-endian. It is made
    to lie where the metadata holds a 1 of two bytes by chance.
    """
    (length,) = struct.unpack_from("<i", body, 4)
    metadata = bytearray(body[8 : 8 + length])
    (root,) = struct.unpack_from("<I", metadata, 0)
    vtable = root - struct.unpack_from("<i", metadata, root)[0]
    (header,) = struct.unpack_from("<H", metadata, vtable + 4 + 2 * 2)
    (step,) = struct.unpack_from("<I", metadata, root + header)
    schema = root + header + step
    schema_vtable = schema - struct.unpack_from("<i", metadata, schema)[0]
    for at in range(schema + 4, min(len(metadata) - 2, schema + 65_000), 2):
        if metadata[at : at + 2] == b"\x01\x00":
            struct.pack_into("<H", metadata, schema_vtable + 4, at - schema)
            return body[:8] + bytes(metadata) + body[8 + length :]
    return None


@st.composite
def damaged_streams(draw, schema, rows):
    """Right streams cut, joined, turned to big-endian, with messages left out, or longer."""
    body = encoded(schema, draw(st.lists(rows, min_size=1, max_size=2)))
    other = encoded(schema, [draw(rows)])
    cut = draw(st.integers(0, len(body)))
    return draw(
        st.sampled_from(
            [
                body[:cut],
                body[cut:],
                body + other,
                body[:cut] + other,
                body + b"\x00" * 99,
                body[:-8],
                body[:-8] + other,
                big_endian(body) or body,
            ]
        )
    )


nonsense = st.one_of(
    st.binary(max_size=64),
    st.builds(lambda size, tail: struct.pack("<Ii", 0xFFFFFFFF, size) + tail,
              st.integers(-(2**31), 2**31 - 1), st.binary(max_size=40)),
)  # fmt: skip


def bodies(schema, rows):
    """All of them."""
    return st.one_of(
        right_streams(schema, rows),
        lying_streams(schema, rows),
        lying_streams(schema, rows),
        other_schemas(schema, rows),
        other_forms(schema, rows),
        damaged_streams(schema, rows),
        nonsense,
    )


rank_bodies = bodies(REQUEST_SCHEMA, request_rows())
event_bodies = bodies(APPEND_SCHEMA, append_rows())


def many_empty_batches(schema, size):
    """A body of about `size` bytes that holds as many batches as fit, and no row."""
    empty = pa.RecordBatch.from_pylist([], schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        while sink.tell() < size - 2_000:
            writer.write_batch(empty)
    return sink.getvalue().to_pybytes()


def many_columns(size):
    """A body of about `size` bytes that is all schema."""
    names = [f"column {i:06}" + "x" * 80 for i in range(size // 320)]
    schema = pa.schema([pa.field(name, pa.list_(pa.int32())) for name in names])
    return schema.serialize().to_pybytes() + np.array([-1, 0], np.int32).tobytes()
