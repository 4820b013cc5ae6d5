"""The HTTP API of a replica, in process: ranking, histories, the token, and what is refused."""

import json

import httpx
import pyarrow as pa
import pytest
from lives import append_of, life_of
from serving_fakes import (
    SETTINGS,
    LargestIdFirst,
    body_of,
    exchange,
    make_request,
    replica_of,
    transport_to,
)

from ifa_ray.errors import CheckpointError, ConfigError, ServingError
from ifa_ray.schema import FROM_STORE
from ifa_ray.serving import wire
from ifa_ray.serving.client import RankClient
from ifa_ray.serving.http_api import build_http, read_token
from ifa_ray.serving.json_form import AppendBody, RequestBody
from ifa_ray.serving.sequence_store import MAX_BATCH, StoreCorruptError, StoreFullError

BOTH = pytest.mark.parametrize("media_type", [wire.JSON, wire.ARROW])
TOKEN = "a-token-of-some-length"


def load_version(version):
    if version > 5:
        raise CheckpointError(f"version {version} is missing")
    return LargestIdFirst(version)


def send(method, path, ranker=None, **kwargs):
    """One HTTP exchange with a fresh replica that keeps no histories."""
    api = build_http(replica_of(ranker, load_version=load_version))
    return exchange(api, method, path, **kwargs)


def rank(query="", media_type=wire.JSON, body=None, request=None, **kwargs):
    content = body_of(request or make_request(), media_type) if body is None else body
    headers = {"content-type": media_type}
    return send("POST", f"/v1/rank{query}", content=content, headers=headers, **kwargs)


class Served:
    """One replica with a store."""

    def __init__(self, folder):
        self.replica = replica_of(settings=SETTINGS.replace({"sequence_store": str(folder)}))
        self.api = build_http(self.replica)

    def send(self, method, path, **kwargs):
        return exchange(self.api, method, path, **kwargs)

    def post(self, path, body, media_type=wire.JSON):
        return self.send("POST", path, content=body, headers={"content-type": media_type})

    def append(self, one, media_type=wire.JSON):
        return self.post("/v1/events", body_of(one, media_type), media_type)


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path / "store")
    yield made
    made.replica.close()


def example_of(body):
    return dict(body.model_config["json_schema_extra"]["example"])


def test_the_answer_has_the_media_type_of_the_request():
    answer = rank(media_type=wire.ARROW)
    assert answer.headers["content-type"] == wire.ARROW
    assert wire.decode_responses(answer.content, 1)[0].ids_K.tolist() == [9, 4]
    answer = rank(
        media_type="application/json; charset=utf-8", body=body_of(make_request(), wire.JSON)
    )
    assert answer.headers["content-type"] == wire.JSON
    assert answer.json()["ids"] == [9, 4]


def test_the_example_of_the_documentation_is_a_request():
    answer = rank(body=json.dumps(example_of(RequestBody)))
    assert answer.status_code == 200
    assert answer.json()["ids"] == [4, 3]
    assert answer.json()["probabilities"]["is_click"] == [0.25, 0.25]


def test_a_minimum_version_is_loaded_and_answers():
    assert rank("?min_version=3").json()["model_version"] == 3


@pytest.mark.parametrize(
    ("query", "kwargs", "status", "message"),
    [
        ("?slot=1", {}, 404, "slot == 1, must be in [0, 0]."),
        ("?min_version=9", {}, 409, "version 9 is missing"),
        ("?slot=x", {}, 422, "slot == 'x': "),
        ("?min_version=-1", {}, 422, "min_version == '-1': "),
        ("", {"request": make_request(k=4)}, 422, "k == 4, must be in "),
        ("", {"body": b"{"}, 422, "body == "),
        ("", {"body": b"?", "media_type": wire.ARROW}, 422, "body is not an Arrow stream"),
        ("", {"body": b"x" * 100_001}, 413, "content-length == 100001, must be <= 100000."),
        ("", {"body": b"", "media_type": "application/x-pickle"}, 415, "content-type == "),
    ],
)
def test_errors_name_field_value_and_rule(query, kwargs, status, message):
    answer = rank(query, **kwargs)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(message)


def test_a_body_without_a_length_is_read_no_further_than_the_limit():
    sent = []

    async def endless():
        while True:
            sent.append(1)
            assert len(sent) < 1_000
            yield b"x" * 10_000

    answer = rank(body=endless())
    assert answer.status_code == 413
    assert answer.json()["error"] == "len(body) > 100000, must be <= 100000."
    assert len(sent) <= 12  # ten fill the limit


def test_a_ranker_that_breaks_the_contract_is_a_server_error_with_its_reason():
    class Empty(LargestIdFirst):
        def rank(self, requests):
            return super().rank(requests)[:0]

    answer = rank(ranker=Empty())
    assert answer.status_code == 500
    assert answer.json() == {"error": "len(responses) == 0, must be 1."}


def test_an_unexpected_error_tells_the_client_nothing():
    class Broken(LargestIdFirst):
        def rank(self, requests):
            raise KeyError("/secret/path", requests)

    answer = rank(ranker=Broken())
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_health_readiness_and_models_answer():
    assert send("GET", "/healthz").json() == {"status": "ok"}
    assert send("GET", "/readyz").json() == {"status": "ready", "versions": [0]}
    models = send("GET", "/v1/models").json()
    assert models["name"] == "fake"
    assert models["slots"] == [{"slot": 0, "version": 0, "in_memory": [0]}]
    assert models["settings"]["max_body_bytes"] == 100_000


def test_the_openapi_document_resolves_and_holds_the_example():
    document = send("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/rank"]["post"]["requestBody"]["content"]
    assert set(body) == {wire.JSON, wire.ARROW}
    assert schemas["RequestBody"]["example"]["candidates"] == [1, 2, 3, 4]

    def references(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    yield value
                else:
                    yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    used = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert {"RequestBody", "AppendBody"} <= used <= set(schemas)


@BOTH
def test_impressions_are_appended_and_the_answer_says_where_the_next_begin(served, media_type):
    for appended in (5, 0):  # said again, it changes nothing
        answer = served.append(append_of(7, 0, 5), media_type)
        assert answer.headers["content-type"] == media_type
        if media_type == wire.ARROW:
            (done,) = [vars(one) for one in wire.decode_appended(answer.content, 1)]
        else:
            done = answer.json()
        assert done == {"user_id": 7, "watermark": 5, "appended": appended}
    shown = served.send("GET", "/v1/users/7").json()
    assert shown == {"user_id": 7, "watermark": 5, "last_ms": int(life_of(7, 5).times_ms_T[-1])}


def test_an_arrow_body_holds_many_users_and_is_stored_whole_or_not_at_all(served):
    def append(*appends):
        return served.post("/v1/events", wire.encode_appends(appends), wire.ARROW)

    done = wire.decode_appended(append(append_of(1, 0, 5), append_of(2, 0, 9)).content, 2)
    assert [(one.user_id, one.watermark, one.appended) for one in done] == [(1, 5, 5), (2, 9, 9)]
    assert append(append_of(1, 5, 6), append_of(2, 10, 11)).status_code == 409
    assert served.send("GET", "/v1/users/1").json()["watermark"] == 5
    refused = append(*[append_of(user, 0, 1) for user in range(65)])
    assert refused.status_code == 422
    assert "must be <= 64" in refused.json()["error"]


def test_a_request_may_name_its_user_alone(served):
    append, asked = example_of(AppendBody), example_of(RequestBody)
    assert served.post("/v1/events", json.dumps(append)).json()["watermark"] == 2
    assert "watermark" not in served.post("/v1/rank", json.dumps(asked)).json()
    del asked["history"]
    assert served.post("/v1/rank", json.dumps(asked)).json()["watermark"] == 2
    request = make_request(history=FROM_STORE, time_ms=2**62)
    answer = served.post("/v1/rank", wire.encode_requests([request]), wire.ARROW)
    assert wire.decode_responses(answer.content, 1)[0].watermark == 2


def test_an_erased_user_is_unknown(served):
    served.append(append_of(7, 0, 5))
    assert served.send("DELETE", "/v1/users/7").json() == {"user_id": 7, "erased": 5}
    assert served.send("DELETE", "/v1/users/7").json() == {"user_id": 7, "erased": 0}
    unknown = {"user_id": 7, "watermark": 0, "last_ms": None}
    assert served.send("GET", "/v1/users/7").json() == unknown


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"begin": 1}, 409, "begin == 1, must be <= 0: "),
        ({"begin": -1}, 422, "begin == -1: "),
        ({"user_id": 2**63}, 422, "user_id == "),
        ({"ids": []}, 422, "len(ids) == 0, must be in"),
        ({"ids": [1, -2]}, 422, "ids[1] == -2: "),
        ({"ids": [1, True]}, 422, "ids[1] == True: "),
        ({"ids": [1] * (MAX_BATCH + 1)}, 422, "len(ids) == 10001, must be in"),
        ({"actions": [0, 256]}, 422, "actions[1] == 256: "),
        ({"actions": [0]}, 422, "actions has type and shape uint8 (1,), must be uint8 (2,)."),
        ({"times_ms": [20, 10]}, 422, "times_ms decreases"),
        ({"time_ms": [20, 10]}, 422, "time_ms == [20, 10]: Extra inputs"),
    ],
)
def test_impressions_that_break_a_rule_are_refused_with_the_field(served, changes, status, message):
    values = {"user_id": 7, "begin": 0, "ids": [1, 2], "actions": [0, 1], "times_ms": [10, 20]}
    answer = served.post("/v1/events", json.dumps({**values, **changes}))
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(message)
    assert served.send("GET", "/v1/users/7").json()["watermark"] == 0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("ids", None, "ids holds null"),
        ("ids", [1, None], "ids holds null"),
        ("ids", [-1, 2], "min(ids) == -1"),
        ("actions", [1], "actions has type and shape uint8 (1,)"),
        ("user_id", -5, "user_id == -5"),
        ("begin", 2**62, "begin == 4611686018427387904, must be in"),
    ],
)
def test_arrow_rows_that_break_a_rule_are_refused_with_the_field(served, column, value, message):
    values = {"user_id": 7, "begin": 0, "ids": [1, 2], "actions": [0, 1], "times_ms": [10, 20]}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, wire.APPEND_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist([{**values, column: value}], wire.APPEND_SCHEMA))
    answer = served.post("/v1/events", sink.getvalue().to_pybytes(), wire.ARROW)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


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
    headers = {"content-type": wire.JSON}
    answers = [
        send("POST", "/v1/events", content=body_of(append_of(7, 0, 5), wire.JSON), headers=headers),
        send("GET", "/v1/users/7"),
        send("DELETE", "/v1/users/7"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert answers[0].json()["error"].startswith("sequence_store == None")


@pytest.fixture
def transport(monkeypatch):
    """To a replica that asks for the token."""
    monkeypatch.setenv("RANKER_TOKEN", TOKEN)
    settings = SETTINGS.replace({"token_env": "RANKER_TOKEN"})
    return transport_to(build_http(replica_of(settings=settings)))


def test_the_token_lets_in(transport):
    with RankClient("http://ranker", transport=transport, token=TOKEN) as client:
        assert client.rank([make_request()])[0].ids_K.tolist() == [9, 4]
        assert client.models()["settings"]["token_env"] == "RANKER_TOKEN"
        assert TOKEN not in str(client.models())
    with (
        RankClient("http://ranker", transport=transport) as client,
        pytest.raises(ServingError, match="status 401: authorization"),
    ):
        client.rank([make_request()])


@pytest.mark.parametrize(
    "header",
    [None, "Bearer ", "Bearer another", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer " + 20 * "é"],
)
def test_nothing_else_does(transport, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    with httpx.Client(transport=transport, base_url="http://ranker", headers=headers) as client:
        for method, path in [
            ("POST", "/v1/rank"),
            ("POST", "/v1/rank?slot=x"),
            ("GET", "/v1/models"),
            ("POST", "/v1/events"),
            ("GET", "/v1/users/7"),
            ("DELETE", "/v1/users/7"),
        ]:
            answer = client.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"].startswith("authorization == ..., must be 'Bearer '")


def test_health_and_documentation_are_open(transport):
    with httpx.Client(transport=transport, base_url="http://ranker") as client:
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        document = client.get("/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert scheme["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for described in methods.values():
            assert ("security" in described) == path.startswith("/v1/")


@pytest.mark.parametrize("token", [None, "", "too-short", "with a space in it", "\u00e9" * 20])
def test_a_token_that_is_none_ends_the_start_and_is_not_shown(token):
    environment = {} if token is None else {"RANKER_TOKEN": token}
    with pytest.raises(ConfigError, match="token_env == 'RANKER_TOKEN', must be the name") as bad:
        read_token("RANKER_TOKEN", environment)
    assert not token or token not in str(bad.value)
