import asyncio
import json

import httpx
import pytest
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.errors import CheckpointError
from ifa_ray.serving import wire
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.json_form import RequestBody
from ifa_ray.serving.versions import Loaded, Slot


def load_version(version):
    if version > 5:
        raise CheckpointError(f"version {version} is missing")
    return LargestIdFirst(version)


def send(method, path, ranker=None, **kwargs):
    """One HTTP exchange with a fresh replica, in process."""
    slot = Slot(Loaded(0, ranker or LargestIdFirst()), load_version)
    api = build_http(RankerDeployment(SETTINGS, [slot]))

    async def exchange():
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(exchange())


def rank(query="", media_type=wire.JSON, body=None, requests=None, **kwargs):
    if body is None:
        body = wire.encode_requests(requests or [make_request()], media_type)
    headers = {"content-type": media_type}
    return send("POST", f"/v1/rank{query}", content=body, headers=headers, **kwargs)


@pytest.mark.parametrize("media_type", [wire.JSON, wire.ARROW])
def test_the_answer_has_the_media_type_of_the_request(media_type):
    answer = rank(media_type=media_type)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    (response,) = wire.decode_responses(answer.content, media_type, 1)
    assert response.ids_K.tolist() == [9, 4]


def test_parameters_of_the_media_type_are_allowed():
    assert rank(media_type="application/json; charset=utf-8", body=json_example()).is_success


def json_example():
    return json.dumps(RequestBody.model_config["json_schema_extra"]["example"]).encode()


def test_the_example_of_the_documentation_is_a_request():
    answer = rank(body=json_example())
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
        ("", {"requests": [make_request(k=4)]}, 422, "k == 4, must be in "),
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

    used = set(references(document))
    assert "#/components/schemas/RequestBody" in used
    assert "#/components/schemas/AppendBody" in used
    for reference in used:
        assert reference.removeprefix("#/components/schemas/") in schemas
