import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from lives import append_of
from serving_fakes import LargestIdFirst, body_of, make_request

from ifa_ray.errors import RequestError, ServingError
from ifa_ray.schema import FROM_STORE, MAX_CANDIDATES, StoredHistory, validate_request
from ifa_ray.serving import wire

BOTH = pytest.mark.parametrize("media_type", [wire.ARROW, wire.JSON])
CHANNELS = np.array([0, 3, -1], np.int8)


def assert_same_request(left, right):
    for field in ("request_id", "user_id", "time_ms", "k"):
        assert getattr(left, field) == getattr(right, field)
    pairs = [
        (left.candidates_C, right.candidates_C),
        (left.history.ids_T, right.history.ids_T),
        (left.history.actions_T, right.history.actions_T),
        (left.history.times_ms_T, right.history.times_ms_T),
    ]
    assert (left.channels_C is None) == (right.channels_C is None)
    if left.channels_C is not None:
        pairs.append((left.channels_C, right.channels_C))
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


@BOTH
@pytest.mark.parametrize(
    "request_",
    [
        make_request(),
        make_request(channels_C=CHANNELS),
        make_request(history=()),
        make_request(request_id=-(2**63), user_id=2**63 - 1, time_ms=2**62),
        make_request(candidates=[2**31 - 1], k=1),
    ],
    ids=["plain", "channels", "no history", "extreme numbers", "one candidate"],
)
@pytest.mark.parametrize("probabilities", [True, False])
def test_a_request_survives_the_wire(media_type, request_, probabilities):
    body = body_of(request_, media_type, probabilities=probabilities)
    (decoded,), wanted = wire.decode_requests(body, media_type, 1)
    assert_same_request(decoded, request_)
    assert wanted == [probabilities]
    validate_request(decoded)


def test_an_arrow_body_holds_many_requests_some_with_channels():
    requests = [make_request(1), make_request(2, channels_C=CHANNELS), make_request(3, history=())]
    decoded, wanted = wire.decode_requests(wire.encode_requests(requests), wire.ARROW, 3)
    for one, other in zip(decoded, requests, strict=True):
        assert_same_request(one, other)
    assert wanted == [False] * 3


@pytest.mark.parametrize("optional", [{}, {"watermark": 50}, {"watermark": 0}])
@pytest.mark.parametrize("asked", [True, False])
def test_a_response_survives_the_wire_and_carries_what_is_asked_for_or_set(asked, optional):
    ranked = dataclasses.replace(LargestIdFirst(version=12).answer(make_request()), **optional)
    body = wire.encode_responses([ranked], wire.ARROW, [asked])
    (decoded,) = wire.decode_responses(body, 1)
    assert (decoded.request_id, decoded.model_version, decoded.rank_ms) == (1, 12, 1.5)
    assert (decoded.ids_K.tolist(), decoded.ids_K.dtype) == ([9, 4], np.int32)
    assert (decoded.scores_K.tolist(), decoded.scores_K.dtype) == ([9.0, 4.0], np.float32)
    assert decoded.watermark == optional.get("watermark")
    assert (decoded.probabilities_KL is not None) == asked
    if asked:
        assert decoded.probabilities_KL.tolist() == [[0.125, 0.25, 0.375, 0.5]] * 2
        assert decoded.probabilities_KL.dtype == np.float32
    values = json.loads(wire.encode_responses([ranked], wire.JSON, [asked]))
    p = {"impression": [0.125] * 2, "is_click": [0.25] * 2, "long_view": [0.375] * 2}
    assert values == {
        "request_id": 1,
        "ids": [9, 4],
        "scores": [9.0, 4.0],
        "model_version": 12,
        "rank_ms": 1.5,
        "probabilities": {**p, "is_like": [0.5] * 2} if asked else None,
        **optional,
    }
    assert (b"watermark" in body) == ("watermark" in optional)


def test_float_scores_keep_every_bit_in_json():
    ranked = LargestIdFirst().answer(make_request())
    scores = np.array([np.float32(1) / 3, np.nextafter(np.float32(0.1), np.float32(0))], np.float32)
    object.__setattr__(ranked, "scores_K", scores)
    values = json.loads(wire.encode_responses([ranked], wire.JSON, [False]))
    assert np.array(values["scores"], np.float32).tobytes() == scores.tobytes()


def json_body(**changes):
    values = json.loads(body_of(make_request(), wire.JSON))
    return json.dumps({**values, **changes}).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body == "),
        (b"[]", "body == "),
        (b"\x80\x04K\x01.", "body == "),  # a pickle
        (json_body(k=True), "k == True"),
        (json_body(k="2"), "k == '2'"),
        (json_body(k=2.5), "k == 2.5"),
        (json_body(user_id=-1), "user_id == -1"),
        (json_body(user_id=2**63), "user_id == "),
        (json_body(candidates=[1, 2**31]), r"candidates\[1\] == 2147483648"),
        (json_body(candidates=[1, None]), r"candidates\[1\] == None"),
        (json_body(candidates=[]), "candidates == "),
        (json_body(candidates=[1] * (MAX_CANDIDATES + 1)), "candidates == .*at most 50000"),
        (json_body(channels=[128, 0, 0]), r"channels\[0\] == 128"),
        (json_body(history={"ids": [1], "actions": [256]}), r"history.actions\[0\] == 256"),
        (json_body(canditates=[1]), r"canditates == \[1\]: Extra inputs"),
        (b"[" * 100_000, "body == "),
    ],
)
def test_malformed_json_is_refused_with_field_and_value(body, message):
    with pytest.raises(RequestError, match=message) as refused:
        wire.decode_requests(body, wire.JSON, 1)
    assert len(str(refused.value)) < 300  # never the whole body


def stream(schema=wire.REQUEST_SCHEMA, compression=None, rows=1, **columns):
    """A request stream with some columns replaced, as another program might write it."""
    values = {
        "request_id": [1] * rows,
        "user_id": [7] * rows,
        "time_ms": [100] * rows,
        "candidates": [[3, 9, 4]] * rows,
        "channels": [None] * rows,
        "history_ids": [[5]] * rows,
        "history_actions": [[1]] * rows,
        "history_times_ms": [[10]] * rows,
        "k": [2] * rows,
        "probabilities": [False] * rows,
        **columns,
    }
    table = pa.table({name: values[name] for name in schema.names}, schema=schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_a_stream_that_another_program_wrote_is_read():
    (request,), _ = wire.decode_requests(stream(), wire.ARROW, 1)
    assert_same_request(request, make_request(history=[(5, 1, 10)]))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_streams_are_refused_before_they_unfold(codec):
    bomb = stream(candidates=[[0] * 1_000_000], compression=codec)
    assert len(bomb) < 100_000  # passes a limit on the body's length
    with pytest.raises(RequestError, match="compressed"):
        wire.decode_requests(bomb, wire.ARROW, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not an Arrow stream"),
        (b"{}", "not an Arrow stream"),
        (b"\x80\x04K\x01.", "not an Arrow stream"),
        (stream()[:-300], "not an Arrow stream"),
        (stream(rows=3), r"len\(rows\) == 3 or more, must be <= 2"),
        (stream(rows=0), r"len\(rows\) == 0, must be >= 1"),
        (stream(k=[None]), "k holds null"),
        (stream(candidates=[None]), "candidates holds null"),
        (stream(candidates=[[1, None]]), "candidates holds null"),
        (stream(channels=[[1, None, 3]]), "channels holds null"),
        (stream(wire.REQUEST_SCHEMA.remove(0)), "columns == "),
        (
            stream(wire.REQUEST_SCHEMA.set(8, pa.field("k", pa.int64()))),
            "k: int64.* must be .*k: int32",
        ),
    ],
)
def test_malformed_streams_are_refused(body, message):
    with pytest.raises(RequestError, match=message):
        wire.decode_requests(body, wire.ARROW, 2)


@pytest.mark.parametrize(
    ("whole", "decode"),
    [
        (wire.encode_requests([make_request(channels_C=CHANNELS)]), wire.decode_requests),
        (wire.encode_appends([append_of(7, 0, 9), append_of(8, 0, 3)]), wire.decode_appends),
    ],
)
def test_a_damaged_stream_is_refused_or_read_but_never_crashes(whole, decode):
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(1_000):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(len(whole), size=rng.integers(1, 4))
        damaged[places] = rng.integers(256, size=len(places))
        try:
            decode(damaged.tobytes(), wire.ARROW, 2)
        except RequestError:
            refused += 1
    assert refused > 200


def test_decoded_arrays_are_views_of_the_body():
    long = make_request(candidates=np.arange(1000), history=[(1, 1, t) for t in range(90)], k=1)
    body = wire.encode_requests([long])
    base = np.frombuffer(body, np.uint8)
    (request,), _ = wire.decode_requests(body, wire.ARROW, 1)
    for array in (request.candidates_C, request.history.ids_T, request.history.times_ms_T):
        assert np.shares_memory(array, base)


@pytest.mark.parametrize("decode", [wire.decode_responses, wire.decode_appended])
def test_a_client_refuses_what_is_not_an_answer(decode):
    for body in (b"", b"<html>", wire.encode_requests([make_request()])):
        with pytest.raises(ServingError, match="not an answer"):
            decode(body, 1)


def test_a_client_refuses_too_few_responses():
    body = wire.encode_responses([LargestIdFirst().answer(make_request())], wire.ARROW, [False])
    with pytest.raises(ServingError, match=r"len\(answers\) == 1, must be 2"):
        wire.decode_responses(body, 2)


@BOTH
def test_a_history_left_out_is_the_services_where_it_keeps_one(media_type):
    body = body_of(make_request(history=FROM_STORE), media_type)
    (decoded,), _ = wire.decode_requests(body, media_type, 1, stored=True)
    assert isinstance(decoded.history, StoredHistory)
    brought = body_of(make_request(history=()), media_type)
    (decoded,), _ = wire.decode_requests(brought, media_type, 1, stored=True)
    assert not isinstance(decoded.history, StoredHistory)
    assert len(decoded.history) == 0


def test_a_history_left_out_of_json_is_empty_where_none_is_kept():
    body = body_of(make_request(history=FROM_STORE), wire.JSON)
    assert b"history" not in body
    (decoded,), _ = wire.decode_requests(body, wire.JSON, 1)
    assert not isinstance(decoded.history, StoredHistory)
    assert len(decoded.history) == 0
    for stored in (True, False):
        with pytest.raises(RequestError, match="history == None, must be an object or left out"):
            wire.decode_requests(json_body(history=None), wire.JSON, 1, stored=stored)


def test_null_histories_are_refused_where_none_is_kept_and_half_null_ones_always():
    body = wire.encode_requests([make_request(history=FROM_STORE)])
    with pytest.raises(RequestError, match="history_ids holds null, must not"):
        wire.decode_requests(body, wire.ARROW, 1)
    body = stream(history_actions=[None])
    with pytest.raises(RequestError, match="history_actions holds null, must be null with all of"):
        wire.decode_requests(body, wire.ARROW, 1, stored=True)
