"""Hypothesis strategies of gRPC calls: right messages, nearly right, lying ones, none; metadata."""

import struct

from arrow_bodies import append_rows, request_rows, within
from hypothesis import strategies as st

from ifa_ray.serving.proto import ranking_pb2 as pb

METHODS = tuple(method.name for method in pb.DESCRIPTOR.services_by_name["Ranking"].methods)

INT32 = within(-(2**31), 2**31 - 1)


def _whole(values):
    """A list without the holes that other forms may have."""
    return [value for value in values or () if value is not None]


def _history(ids, actions, times_ms):
    return pb.History(ids=_whole(ids), actions=bytes(_whole(actions)), times_ms=_whole(times_ms))


def _request(row):
    present = {
        name: row[name] for name in ("request_id", "user_id", "time_ms", "k", "probabilities")
        if row[name] is not None
    }  # fmt: skip
    message = pb.RankRequest(candidates=_whole(row["candidates"]), **present)
    if row["channels"] is not None:
        channels = _whole(row["channels"])
        message.channels = struct.pack(f"<{len(channels)}b", *channels)
    columns = [row[f"history_{name}"] for name in ("ids", "actions", "times_ms")]
    if columns != [None, None, None]:
        message.history.CopyFrom(_history(*columns))
    return message


def _append(row):
    present = {name: row[name] for name in ("user_id", "begin") if row[name] is not None}
    return pb.Append(history=_history(row["ids"], row["actions"], row["times_ms"]), **present)


_slots = st.one_of(st.sampled_from([0, 0, 0, 0, 1]), INT32)
_versions = st.one_of(st.sampled_from([0, 0, 0, 0, 1, 2]), INT32)
rank_calls = st.builds(
    lambda rows, slot, version: pb.RankCall(
        requests=[_request(row) for row in rows], slot=slot, min_version=version
    ).SerializeToString(),
    st.lists(request_rows(), min_size=1, max_size=3), _slots, _versions,
)  # fmt: skip
_new_users = st.integers(10, 2**40).map(lambda user: {"user_id": user, "begin": 0})
append_calls = st.builds(
    lambda pairs: pb.AppendCall(
        appends=[_append({**row, **change}) for row, change in pairs]
    ).SerializeToString(),
    # Few impressions follow what is stored of users 0 to 5; what is sent of new ones does.
    st.lists(st.tuples(append_rows(), st.one_of(st.just({}), _new_users)), min_size=1, max_size=3),
)
user_calls = st.builds(
    lambda user: pb.UserCall(user_id=user).SerializeToString(),
    st.one_of(st.integers(0, 5), within(-(2**63), 2**63 - 1)),
)


def varint(value):
    """As protobuf writes it."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


_varints = st.one_of(
    st.integers(0, 2**64 - 1).map(varint),
    st.just(b"\xff" * 9 + b"\x01"),
    st.just(b"\xff" * 11),  # longer than any number
    st.just(b"\x80\x80\x80\x00"),  # a zero that is too long
)


@st.composite
def fields(draw, inner):
    """A field of any number and type; the length that it states may be a lie."""
    number = draw(st.one_of(st.integers(1, 9), st.sampled_from([0, 99, 2**29 - 1])))
    kind = draw(st.sampled_from([0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 7]))
    tag = varint(number << 3 | kind)
    if kind == 0:
        return tag + draw(_varints)
    if kind in (1, 5):
        return tag + draw(st.binary(max_size=8 if kind == 1 else 4))
    if kind == 2:
        held = draw(st.one_of(inner, inner, st.binary(max_size=24)))
        lies = [len(held) + 1, max(0, len(held) - 1), 2**31 - 1, 2**63, 2**64 - 1]
        stated = draw(st.sampled_from([len(held)] * 6 + lies))
        return tag + varint(stated) + held
    if kind == 3:
        return tag + draw(inner) + varint(number << 3 | draw(st.sampled_from([4, 4, 3])))
    return tag


wire_messages = st.recursive(
    st.just(b""),
    lambda inner: st.lists(fields(inner), max_size=4).map(b"".join),
    max_leaves=12,
)


def _deep(depth, kind):
    """Requests in requests, or groups in groups."""
    body = b""
    if kind == "group":
        return b"\x0b" * depth + b"\x0c" * depth
    for _ in range(depth):
        body = b"\x0a" + varint(len(body)) + body
    return body


@st.composite
def spoiled(draw, right):
    """Right calls that were cut, doubled, overwritten, or of which a piece was put elsewhere."""
    body = bytearray(draw(right))
    for _ in range(draw(st.integers(1, 3))):
        at, how = (
            draw(st.integers(0, len(body))),
            draw(
                st.sampled_from(
                    ["cut", "byte", "byte", "byte", "number", "insert", "move", "twice"]
                )
            ),
        )
        if how == "cut":
            del body[at:]
        elif how == "byte" and at < len(body):
            body[at] = draw(st.integers(0, 255))
        elif how == "number":
            body[at : at + draw(st.integers(0, 3))] = draw(_varints)
        elif how == "insert":
            body[at:at] = draw(st.one_of(st.binary(max_size=8), wire_messages))
        elif how == "move":
            body[at:at] = body[draw(st.integers(0, len(body))) :][:9]
        elif how == "twice":
            body += body[:at]
    return bytes(body)


nonsense = st.one_of(
    st.binary(max_size=40),
    wire_messages,
    wire_messages,
    st.builds(_deep, st.integers(1, 4_000), st.sampled_from(["message", "group"])),
)

rank_bodies = st.one_of(rank_calls, rank_calls, spoiled(rank_calls), spoiled(rank_calls), nonsense)
append_bodies = st.one_of(append_calls, append_calls, spoiled(append_calls), nonsense)
other_calls = st.tuples(
    st.sampled_from(METHODS),
    st.one_of(user_calls, user_calls, spoiled(user_calls), nonsense, rank_calls, append_calls),
)

_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
_numbers = st.sampled_from(
    ["", "0", "1", "1000", "-1", "x", "1.0", "nan", "3600000", "3600001", "9" * 30, "9" * 999]
)
_keys = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=9).map(
    lambda key: "x" + key.removesuffix("-bin")
)
metadata = st.lists(
    st.one_of(
        st.tuples(st.just("deadline-ms"), st.one_of(_numbers, _numbers, _texts)),
        st.tuples(st.sampled_from(["session_id", "authorization", "application"]), _texts),
        st.tuples(_keys, _texts),
        st.tuples(_keys.map(lambda key: f"{key}-bin"), st.binary(max_size=9)),
    ),
    max_size=3,
)
