import asyncio
import json

import httpx
import numpy as np
import pyarrow as pa
import pytest
from lives import append_of, life_of
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.errors import RequestError
from ifa_ray.schema import FROM_STORE
from ifa_ray.serving import events, wire
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.events import AppendBody
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.json_form import RequestBody
from ifa_ray.serving.sequence_store import (
    MAX_BATCH,
    SequenceConflictError,
    StoreCorruptError,
    StoreFullError,
)
from ifa_ray.serving.versions import Loaded, Slot

BOTH = pytest.mark.parametrize("media_type", [wire.JSON, wire.ARROW])


class Served:
    """One replica with a store, asked over HTTP in process."""

    def __init__(self, folder):
        settings = SETTINGS.replace({"sequence_store": folder and str(folder)})
        self.replica = RankerDeployment(settings, [Slot(Loaded(0, LargestIdFirst()))])
        self.api = build_http(self.replica)

    def send(self, method, path, **kwargs):
        async def exchange():
            transport = httpx.ASGITransport(self.api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(exchange())

    def post(self, path, body, media_type=wire.JSON):
        return self.send("POST", path, content=body, headers={"content-type": media_type})

    def append(self, *appends, media_type=wire.JSON):
        return self.post("/v1/events", events.encode_appends(appends, media_type), media_type)


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path / "store")
    yield made
    made.replica.close()


@BOTH
def test_impressions_are_appended_and_the_answer_says_where_the_next_begin(served, media_type):
    for _ in range(2):  # said again, it changes nothing
        answer = served.append(append_of(7, 0, 5), media_type=media_type)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == media_type
        (done,) = events.decode_appended(answer.content, media_type, 1)
        assert (done.user_id, done.watermark) == (7, 5)
    assert done.appended == 0
    last_ms = int(life_of(7, 5).times_ms_T[-1])
    shown = served.send("GET", "/v1/users/7").json()
    assert shown == {"user_id": 7, "watermark": 5, "last_ms": last_ms}


def test_an_arrow_body_holds_many_users_and_is_stored_whole_or_not_at_all(served):
    answer = served.append(append_of(1, 0, 5), append_of(2, 0, 9), media_type=wire.ARROW)
    done = events.decode_appended(answer.content, wire.ARROW, 2)
    assert [(one.user_id, one.watermark, one.appended) for one in done] == [(1, 5, 5), (2, 9, 9)]
    refused = served.append(append_of(1, 5, 6), append_of(2, 10, 11), media_type=wire.ARROW)
    assert refused.status_code == 409
    assert served.send("GET", "/v1/users/1").json()["watermark"] == 5


@BOTH
def test_a_request_may_name_its_user_alone(served, media_type):
    served.append(append_of(7, 0, 5))
    asked = make_request(history=FROM_STORE, time_ms=2**62)
    answer = served.post("/v1/rank", wire.encode_requests([asked], media_type), media_type)
    (response,) = wire.decode_responses(answer.content, media_type, 1)
    assert response.watermark == 5
    brought = make_request()
    answer = served.post("/v1/rank", wire.encode_requests([brought], media_type), media_type)
    assert b"watermark" not in answer.content


def test_the_documentations_examples_are_appended_and_then_ranked(served):
    example = AppendBody.model_config["json_schema_extra"]["example"]
    assert served.post("/v1/events", json.dumps(example)).json()["watermark"] == 2
    rank = RequestBody.model_config["json_schema_extra"]["example"]
    rank = {field: value for field, value in rank.items() if field != "history"}
    assert served.post("/v1/rank", json.dumps(rank)).json()["watermark"] == 2


def test_an_erased_user_is_unknown(served):
    served.append(append_of(7, 0, 5))
    assert served.send("DELETE", "/v1/users/7").json() == {"user_id": 7, "erased": 5}
    assert served.send("DELETE", "/v1/users/7").json() == {"user_id": 7, "erased": 0}
    unknown = {"user_id": 7, "watermark": 0, "last_ms": None}
    assert served.send("GET", "/v1/users/7").json() == unknown


def body(**changes):
    values = {"user_id": 7, "begin": 0, "ids": [1, 2], "actions": [0, 1], "times_ms": [10, 20]}
    return json.dumps({**values, **changes})


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"begin": 1}, 409, "begin == 1, must be <= 0: "),
        ({"begin": -1}, 422, "begin == -1: "),
        ({"user_id": -1}, 422, "user_id == -1: "),
        ({"user_id": 2**63}, 422, "user_id == "),
        ({"ids": []}, 422, "ids == []: "),
        ({"ids": [1, -2]}, 422, "ids[1] == -2: "),
        ({"ids": [1, 2**31]}, 422, "ids[1] == 2147483648: "),
        ({"ids": [1, True]}, 422, "ids[1] == True: "),
        ({"ids": [1] * (MAX_BATCH + 1)}, 422, "ids == "),
        ({"actions": [0, 256]}, 422, "actions[1] == 256: "),
        ({"actions": [0]}, 422, "actions has shape (1,), must be (2,)."),
        ({"times_ms": [20, 10]}, 422, "times_ms decreases"),
        ({"times_ms": [20, "x"]}, 422, "times_ms[1] == 'x': "),
        ({"time_ms": [20, 10]}, 422, "time_ms == [20, 10]: Extra inputs"),
    ],
)
def test_impressions_that_break_a_rule_are_refused_with_the_field(served, changes, status, message):
    answer = served.post("/v1/events", body(**changes))
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(message)
    assert served.send("GET", "/v1/users/7").json()["watermark"] == 0


@pytest.mark.parametrize(
    ("content", "media_type", "status", "message"),
    [
        (b"{", wire.JSON, 422, "body == "),
        (b"?", wire.ARROW, 422, "body is not an Arrow stream"),
        (b"x" * 100_001, wire.JSON, 413, "content-length == 100001, must be <= 100000."),
        (b"", "application/x-pickle", 415, "content-type == "),
        (wire.encode_requests([make_request()]), wire.ARROW, 422, "columns == (request_id: "),
    ],
)
def test_bodies_that_are_none_are_refused(served, content, media_type, status, message):
    answer = served.post("/v1/events", content, media_type)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("ids", None, "ids holds null"),
        ("ids", [1, None], "ids holds null"),
        ("ids", [-1, 2], "min(ids) == -1"),
        ("actions", [1], "actions has shape (1,)"),
        ("user_id", -5, "user_id == -5"),
        ("begin", None, "begin holds null"),
        ("begin", 2**62, "begin == 4611686018427387904, must be in"),
    ],
)
def test_arrow_rows_that_break_a_rule_are_refused_with_the_field(served, column, value, message):
    values = {"user_id": 7, "begin": 0, "ids": [1, 2], "actions": [0, 1], "times_ms": [10, 20]}
    rows = [{**values, column: value}]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, events.APPEND_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, events.APPEND_SCHEMA))
    answer = served.post("/v1/events", sink.getvalue().to_pybytes(), wire.ARROW)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


def test_more_rows_than_the_limit_are_refused(served):
    rows = [append_of(user, 0, 1) for user in range(65)]
    answer = served.append(*rows, media_type=wire.ARROW)
    assert answer.status_code == 422
    assert "must be <= 64" in answer.json()["error"]


def test_damaged_streams_never_break_the_server(served):
    whole = events.encode_appends([append_of(7, 0, 9), append_of(8, 0, 3)])
    rng = np.random.default_rng(0)
    statuses = set()
    for _ in range(300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, len(whole), rng.integers(1, 5))
        damaged[places] = rng.integers(0, 256, len(places))
        cut = len(whole) if rng.random() < 0.5 else rng.integers(0, len(whole))
        content = damaged[:cut].tobytes()
        try:
            appends = events.decode_appends(content, wire.ARROW, 64)
            asyncio.run(served.replica.append(appends))
            statuses.add(200)
        except RequestError as error:
            statuses.add(409 if isinstance(error, SequenceConflictError) else 422)
    assert statuses >= {200, 422}


@pytest.mark.parametrize("user", ["x", "-1", str(2**63), "1.5"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_user_that_is_no_number_is_refused(served, method, user):
    answer = served.send(method, f"/v1/users/{user}")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"user_id == {user!r}: ")


@pytest.mark.parametrize(
    ("error", "status"), [(StoreFullError("it is full"), 507), (StoreCorruptError("broken"), 500)]
)
def test_errors_of_the_store_are_the_servers(served, monkeypatch, error, status):
    def fail(_):
        raise error

    monkeypatch.setattr(served.replica._store, "append", fail)
    answer = served.append(append_of(7, 0, 5))
    assert answer.status_code == status
    assert answer.json() == {"error": str(error)}


def test_without_a_store_there_are_no_histories():
    served = Served(None)
    answers = [
        served.append(append_of(7, 0, 5)),
        served.send("GET", "/v1/users/7"),
        served.send("DELETE", "/v1/users/7"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert answers[0].json()["error"].startswith("sequence_store == None")
