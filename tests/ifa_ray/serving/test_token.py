import asyncio

import httpx
import pytest
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.errors import ConfigError, ServingError
from ifa_ray.serving.client import RankClient
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http, read_token
from ifa_ray.serving.versions import Loaded, Slot

TOKEN = "a-token-of-some-length"


@pytest.fixture
def transport(monkeypatch):
    """To a replica that asks for the token."""
    monkeypatch.setenv("RANKER_TOKEN", TOKEN)
    settings = SETTINGS.replace({"token_env": "RANKER_TOKEN"})
    api = build_http(RankerDeployment(settings, [Slot(Loaded(0, LargestIdFirst()))]))

    async def ask(request):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api)) as server:
            return await server.request(
                request.method, request.url, content=request.content, headers=request.headers
            )

    def serve(request):
        answer = asyncio.run(ask(request))
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    return httpx.MockTransport(serve)


def test_the_token_lets_in(transport):
    with RankClient("http://ranker", transport=transport, token=TOKEN) as client:
        assert client.rank([make_request()])[0].ids_K.tolist() == [9, 4]
        assert client.models()["settings"]["token_env"] == "RANKER_TOKEN"
        assert TOKEN not in str(client.models())


@pytest.mark.parametrize("token", [None, "", "another", TOKEN + "x", TOKEN[:-1], "\u00e9" * 20])
def test_nothing_else_does(transport, token):
    header = None if token is None else f"Bearer {token}".encode("latin-1")
    with httpx.Client(transport=transport, base_url="http://ranker") as client:
        for method, path in [
            ("POST", "/v1/rank"), ("POST", "/v1/rank?slot=x"), ("GET", "/v1/models"),
            ("POST", "/v1/events"), ("GET", "/v1/users/7"), ("DELETE", "/v1/users/7"),
        ]:  # fmt: skip
            headers = {} if header is None else {"authorization": header}
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"].startswith("authorization == ..., must be 'Bearer '")


def test_another_scheme_does_not(transport):
    with httpx.Client(transport=transport, base_url="http://ranker") as client:
        headers = {"authorization": f"Basic {TOKEN}"}
        assert client.get("/v1/models", headers=headers).status_code == 401


def test_a_client_without_it_says_so(transport):
    with (
        RankClient("http://ranker", transport=transport) as client,
        pytest.raises(ServingError, match="status 401: authorization"),
    ):
        client.rank([make_request()])


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
    with pytest.raises(ConfigError, match="token_env == 'RANKER_TOKEN': the variable holds") as bad:
        read_token("RANKER_TOKEN", environment)
    assert not token or token not in str(bad.value)


def test_without_the_setting_nobody_is_asked():
    api = build_http(RankerDeployment(SETTINGS, [Slot(Loaded(0, LargestIdFirst()))]))
    assert "securitySchemes" not in api.openapi()["components"]
