import httpx
import pytest
from lives import append_of
from serving_fakes import SETTINGS, LargestIdFirst, make_request, replica_of, transport_to

from ifa_ray.errors import ConfigError, RequestError, ServingError
from ifa_ray.schema import FROM_STORE
from ifa_ray.serving import wire
from ifa_ray.serving.client import RankClient
from ifa_ray.serving.http_api import build_http


class Clock:
    """Time that passes only by sleeping, and by `cost_s` for each attempt."""

    def __init__(self, cost_s=0.0):
        self.now_s, self.cost_s, self.naps = 0.0, cost_s, []

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds


def client_of(answers, *, clock=None, **kwargs):
    """A client whose server gives `answers` in turn: a status, an exception, or a response.

    Returns it, with the list of requests that reached the server.
    """
    clock = clock or Clock()
    seen = []
    script = iter(answers)

    def serve(request):
        seen.append(request)
        clock.now_s += clock.cost_s
        answer = next(script)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        if answer != 200:
            return httpx.Response(answer, json={"error": f"it is {answer}"})
        requests, wanted = wire.decode_requests(request.content, wire.ARROW, 100)
        content = wire.encode_responses(LargestIdFirst(4).rank(requests), wire.ARROW, wanted)
        return httpx.Response(200, content=content, headers={"content-type": wire.ARROW})

    transport = httpx.MockTransport(serve)
    made = RankClient(
        "http://ranker/ifa", transport=transport, clock=clock, sleep=clock.sleep, **kwargs
    )
    return made, seen


def test_requests_are_ranked_in_their_order_by_one_call():
    client, seen = client_of([200])
    with client:
        responses = client.rank(
            [make_request(8), make_request(2, candidates=[1, 6], k=1)],
            slot=1,
            min_version=4,
            probabilities=True,
        )
    assert [r.request_id for r in responses] == [8, 2]
    assert [r.ids_K.tolist() for r in responses] == [[9, 4], [6]]
    assert responses[0].probabilities_KL.shape == (2, 4)
    assert [str(r.url) for r in seen] == ["http://ranker/ifa/v1/rank?slot=1&min_version=4"]


@pytest.mark.parametrize("failure", [502, 503, 504, httpx.ConnectError("no"), httpx.ReadError("x")])
def test_what_may_pass_is_tried_again(failure):
    client, seen = client_of([failure, failure, 200])
    assert client.rank([make_request()])[0].model_version == 4
    assert len(seen) == 3


def test_a_call_tells_whose_it_is_unless_it_is_of_several_users():
    client, seen = client_of([200] * 2)
    for users in ((7, 7), (7, 8)):
        client.rank([make_request(user_id=user) for user in users])
    assert [request.headers.get("x-session-id") for request in seen] == ["7", None]


@pytest.mark.parametrize("status", [404, 413, 415, 422])
def test_a_refused_request_is_not_tried_again_and_has_the_servers_message(status):
    client, seen = client_of([status])
    with pytest.raises(RequestError, match=f"^it is {status}$"):
        client.rank([make_request()])
    assert len(seen) == 1


@pytest.mark.parametrize("status", [408, 409, 500])
def test_a_server_error_is_not_tried_again(status):
    client, seen = client_of([status])
    with pytest.raises(ServingError, match=f"status {status}: it is {status}"):
        client.rank([make_request()])
    assert len(seen) == 1


def test_a_proxys_404_is_not_the_requests_fault():
    client, _ = client_of([httpx.Response(404, text="Path '/nope' not found.")])
    with pytest.raises(ServingError, match="status 404: Path '/nope' not found"):
        client.rank([make_request()])


def test_retries_are_counted_and_waits_double_up_to_two_seconds():
    clock = Clock()
    client, seen = client_of([503] * 9, clock=clock, retries=8, timeout_s=100)
    with pytest.raises(ServingError, match=r"failed 9 time\(s\).*the last: it is 503"):
        client.rank([make_request()])
    assert len(seen) == 9
    assert clock.naps == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_the_server_may_ask_for_a_longer_wait():
    clock = Clock()
    client, _ = client_of(
        [httpx.Response(503, headers={"retry-after": "1"}), 200], clock=clock, timeout_s=100
    )
    client.rank([make_request()])
    assert clock.naps == [1.0]


def test_no_attempt_starts_after_the_deadline():
    clock = Clock(cost_s=0.4)  # attempts end at 0.4, 0.85, 1.35; the next would start at 1.55
    client, seen = client_of([503] * 99, clock=clock, retries=50, timeout_s=1.5)
    with pytest.raises(ServingError, match=r"within timeout_s == 1.5"):
        client.rank([make_request()])
    assert len(seen) == 3
    assert clock.now_s <= 1.5


def test_an_attempt_waits_no_longer_than_what_is_left_and_tells_the_server():
    clock = Clock(cost_s=0.4)
    client, seen = client_of([503, 200], clock=clock, timeout_s=2.0)
    client.rank([make_request()])
    assert [r.extensions["timeout"]["read"] for r in seen] == pytest.approx([2.0, 1.55])
    assert [r.headers["deadline-ms"] for r in seen] == ["2000", "1550"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>", headers={"content-type": "text/html"}),
        httpx.Response(200, content=b"junk", headers={"content-type": wire.ARROW}),
    ],
)
def test_an_answer_that_is_none_is_an_error(answer):
    client, _ = client_of([answer])
    with pytest.raises(ServingError):
        client.rank([make_request()])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"timeout_s": 0}, "timeout_s == 0, must be > 0"),
        ({"retries": -1}, "retries == -1, must be >= 0"),
    ],
)
def test_settings_are_checked(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        RankClient("http://ranker", **kwargs)


def test_the_models_of_a_server_are_told():
    client, seen = client_of([httpx.Response(200, json={"name": "ifa"})])
    assert client.models() == {"name": "ifa"}
    assert seen[0].url.path == "/ifa/v1/models"


@pytest.fixture
def keeping(tmp_path):
    """A client of a replica that keeps histories, whose every answer is lost once."""
    replica = replica_of(settings=SETTINGS.replace({"sequence_store": str(tmp_path)}))
    inner, heard = transport_to(build_http(replica)), []

    def serve(request):
        answer = inner.handler(request)
        heard.append(request)
        if len(heard) % 2:
            raise httpx.ReadError("the answer was lost")
        return answer

    clock, transport = Clock(), httpx.MockTransport(serve)
    with RankClient("http://test", transport=transport, clock=clock, sleep=clock.sleep) as client:
        yield client
    replica.close()


def test_histories_live_with_the_service_and_lost_answers_do_no_harm(keeping):
    assert keeping.watermark(7) == 0
    done = keeping.append([append_of(7, 0, 5), append_of(8, 0, 3)])
    assert [(one.user_id, one.watermark) for one in done] == [(7, 5), (8, 3)]
    keeping.append([append_of(7, 5, 9)])
    assert keeping.watermark(7) == 9
    (response,) = keeping.rank([make_request(history=FROM_STORE, time_ms=2**62)])
    assert response.watermark == 9
    keeping.erase(7)
    assert keeping.watermark(7) == 0
    assert keeping.watermark(8) == 3


def test_an_append_that_leaves_a_gap_is_refused_with_where_to_begin(keeping):
    with pytest.raises(RequestError, match="begin == 2, must be <= 0"):
        keeping.append([append_of(7, 2, 5)])


@pytest.mark.parametrize("call", ["watermark", "erase"])
@pytest.mark.parametrize("text", ["{}", "junk", '{"user_id": 7, "watermark": "x"}'])
def test_what_is_no_answer_about_a_user_is_an_error(call, text):
    client, _ = client_of([httpx.Response(200, text=text)])
    with pytest.raises(ServingError, match="not "):
        getattr(client, call)(7)
