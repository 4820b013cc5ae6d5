"""The gRPC face and its client, over a real socket; a replica in place of Serve's proxy."""

import asyncio
import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from lives import append_of
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.errors import CheckpointError, RequestError, ServingError
from ifa_ray.schema import FROM_STORE, MAX_CANDIDATES
from ifa_ray.serving import grpc_form
from ifa_ray.serving.grpc_bytes import add_ranking_to_server
from ifa_ray.serving.grpc_client import GrpcRankClient
from ifa_ray.serving.grpc_service import RankerService
from ifa_ray.serving.proto import ranking_pb2 as pb
from ifa_ray.serving.proto import ranking_pb2_grpc
from ifa_ray.serving.slots import Loaded, Slot

ROOT = Path(__file__).parents[3]
TOKEN = "a-token-of-some-length"


class Methods:
    """Runs a replica's methods as Serve's proxy does: by name, on an event loop."""

    def __init__(self, replica, loop):
        for rpc in pb.DESCRIPTOR.services_by_name["Ranking"].methods:
            setattr(self, rpc.name, self._run(getattr(replica, rpc.name), loop))

    @staticmethod
    def _run(method, loop):
        def run(call, context):
            return asyncio.run_coroutine_threadsafe(method(call, context), loop).result()

        return run


@contextmanager
def serving(servicer, add=ranking_pb2_grpc.add_RankingServicer_to_server):
    """A server on a free port, for any object with the service's methods."""
    server = grpc.server(ThreadPoolExecutor(8))
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def replica_at(monkeypatch, ranker=None, add=add_ranking_to_server, **settings):
    monkeypatch.setenv("RANKER_TOKEN", TOKEN)
    changed = {"grpc": True, "token_env": "RANKER_TOKEN", **settings}
    slot = Slot(Loaded(0, ranker or LargestIdFirst()), load_version)
    replica = RankerService(SETTINGS.model_copy(update=changed), [slot])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with serving(Methods(replica, loop), add) as target:
            yield target
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        replica.close()


def load_version(version):
    if version > 5:
        raise CheckpointError(f"version {version} is missing")
    return LargestIdFirst(version)


def client_of(target, **kwargs):
    return GrpcRankClient(target, application="fake", **{"token": TOKEN, **kwargs})


@pytest.fixture
def client(monkeypatch):
    with replica_at(monkeypatch) as target, client_of(target) as made:
        yield made


def assert_equal(one, other):
    """Dataclasses of arrays, deep."""
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        elif dataclasses.is_dataclass(left):
            assert_equal(left, right)
        else:
            assert left == right, field.name


@pytest.mark.parametrize("stored", [True, False])
def test_requests_survive_the_wire(stored):
    history = FROM_STORE if stored else ((5, 255, -10), (6, 0, 2**62))
    requests = [
        make_request(-(2**63), history=history, time_ms=2**63 - 1, user_id=2**63 - 1),
        make_request(2, [2**31 - 1], 1, channels_C=np.array([-128], np.int8)),
    ]
    call = grpc_form.encode_requests(requests, slot=3, min_version=4, probabilities=True)
    call = pb.RankCall.FromString(call.SerializeToString())
    found, wanted = grpc_form.decode_requests(call, 2, stored=stored)
    assert (call.slot, call.min_version, wanted) == (3, 4, [True, True])
    for one, other in zip(found, requests, strict=True):
        assert_equal(one, other)


def test_responses_survive_the_wire():
    responses = LargestIdFirst(7).rank([make_request(), make_request(2, k=1)])
    responses[1] = dataclasses.replace(
        responses[1], probabilities_KL=None, watermark=0, degraded=True
    )
    answer = grpc_form.encode_responses(responses, [True, True])
    answer = pb.RankAnswer.FromString(answer.SerializeToString())
    for one, other in zip(grpc_form.decode_responses(answer, 2), responses, strict=True):
        assert_equal(one, other)


def test_appends_survive_the_wire():
    appends = [append_of(7, 3, 9), append_of(2**40, 0, 1)]
    call = pb.AppendCall.FromString(grpc_form.encode_appends(appends).SerializeToString())
    for one, other in zip(grpc_form.decode_appends(call, 2), appends, strict=True):
        assert_equal(one, other)


def test_an_array_lies_in_the_message_as_in_memory():
    ids = np.array([1, -2, 2**31 - 1], "<i4")
    message = pb.RankRequest(candidates=ids.tolist()).SerializeToString()
    assert message == b"\x22\x0c" + ids.tobytes()  # field 4, 12 bytes


def test_requests_are_ranked_in_their_order_with_one_version(client):
    requests = [make_request(8), make_request(2, candidates=[1, 6], k=1)]
    responses = client.rank(requests, min_version=4, probabilities=True)
    assert [(r.request_id, r.ids_K.tolist()) for r in responses] == [(8, [9, 4]), (2, [6])]
    assert {r.model_version for r in responses} == {4}
    assert responses[0].probabilities_KL.tolist() == [[0.125, 0.25, 0.375, 0.5]] * 2
    assert client.rank(requests)[0].probabilities_KL is None


def test_models_and_versions_are_told(client):
    assert client.models()["name"] == "fake"
    assert client.versions() == [0]


@pytest.mark.parametrize(
    ("requests", "kwargs", "message"),
    [
        ([], {}, r"len\(requests\) == 0, must be in \[1, 64\]"),
        ([make_request()] * 65, {}, r"len\(requests\) == 65"),
        ([make_request()], {"slot": 1}, r"slot == 1, must be in \[0, 0\]"),
        ([make_request()], {"min_version": -1}, "min_version == -1, must be >= 0"),
        ([make_request(k=4)], {}, "k == 4, must be in"),
        ([make_request(k=-1)], {}, "k == -1, must be in"),
        ([make_request(candidates=[])], {}, r"len\(candidates\) == 0"),
        ([make_request(candidates=[1, 1])], {}, "candidates hold id 1 more than once"),
        ([make_request(candidates=[-1, 1])], {}, r"min\(candidates\) == -1"),
        ([make_request(candidates=[0] * (MAX_CANDIDATES + 1))], {}, r"len\(call\) == 2000"),
        ([make_request(user_id=-1)], {}, "user_id == -1"),
        ([make_request(channels_C=np.zeros(2, np.int8))], {}, "channels has shape"),
        ([make_request(history=((1, 1, 1000),))], {}, r"history.times_ms\[-1\] == 1000"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_field_value_and_rule(
    client, requests, kwargs, message
):
    with pytest.raises(RequestError, match=message):
        client.rank(requests, **kwargs)


def test_arrays_of_unequal_length_are_refused(client):
    call = pb.RankCall()
    call.requests.add(candidates=[1], k=1, history=pb.History(ids=[1], times_ms=[1, 2]))
    with pytest.raises(RequestError, match=r"history.actions has shape \(0,\), must be \(1,\)"):
        client._send("Rank", call)


@pytest.mark.parametrize("deadline", ["0", "-1", "x", "3600001", "9" * 99, "\u0663"])
def test_a_deadline_that_is_none_is_refused(monkeypatch, deadline):
    with replica_at(monkeypatch) as target, grpc.insecure_channel(target) as channel:
        metadata = [("authorization", f"Bearer {TOKEN}"), ("deadline-ms", deadline)]
        if not deadline.isascii():
            metadata[1] = ("deadline-ms", "1 0")
        with pytest.raises(grpc.RpcError) as refused:
            ranking_pb2_grpc.RankingStub(channel).Rank(pb.RankCall(), metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith("deadline-ms == ")


def test_a_server_that_reads_messages_itself_is_answered_too(monkeypatch):
    generated = ranking_pb2_grpc.add_RankingServicer_to_server
    with replica_at(monkeypatch, add=generated) as target, client_of(target) as client:
        assert client.rank([make_request()])[0].ids_K.tolist() == [9, 4]


def test_the_token_is_asked_for_before_a_call_is_read(monkeypatch):
    def status_of(method, body, metadata):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/ifa_ray.v1.Ranking/{method}")(body, metadata=metadata)
        return refused.value.code().name

    token = [("authorization", f"Bearer {TOKEN}")]
    with replica_at(monkeypatch) as target, grpc.insecure_channel(target) as channel:
        for method in ("Rank", "AppendEvents", "GetUser", "EraseUser", "Models"):
            assert status_of(method, b"\xff", []) == "UNAUTHENTICATED"
            assert status_of(method, b"\xff", token) == "INVALID_ARGUMENT"
        assert status_of("Health", b"\xff", []) == "INVALID_ARGUMENT"


def test_the_client_tells_whose_a_call_is(monkeypatch):
    told, plain = [], Methods._run

    class Noting(Methods):
        @staticmethod
        def _run(method, loop):
            run = plain(method, loop)

            def note(call, context):
                told.append(dict(context.invocation_metadata()).get("session_id"))
                return run(call, context)

            return note

    monkeypatch.setattr(sys.modules[__name__], "Methods", Noting)
    with replica_at(monkeypatch) as target, client_of(target) as client:
        client.rank([make_request(user_id=7), make_request(2, user_id=7)])
        client.rank([make_request(user_id=7), make_request(2, user_id=8)])
        for refused in (lambda: client.append([append_of(9, 0, 1)]), lambda: client.erase(10)):
            with pytest.raises(RequestError, match="sequence_store == None"):
                refused()
    assert told == ["7", None, "9", "10"]


def test_a_version_that_does_not_exist_is_not_found(client):
    with pytest.raises(ServingError, match="Rank: status NOT_FOUND: version 9 is missing"):
        client.rank([make_request()], min_version=9)


@pytest.mark.parametrize("token", [None, "another-token-of-some-length", TOKEN[:-1], TOKEN + "x"])
def test_without_the_token_only_health_answers(monkeypatch, token):
    with replica_at(monkeypatch) as target, client_of(target, token=token) as client:
        assert client.versions() == [0]
        calls = [
            lambda: client.rank([make_request()]), lambda: client.append([append_of(7, 0, 1)]),
            client.models, lambda: client.watermark(7), lambda: client.erase(7),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(ServingError, match="UNAUTHENTICATED: authorization == "):
                call()


def test_an_application_that_did_not_ask_for_it_cannot_be_reached(monkeypatch):
    with replica_at(monkeypatch, grpc=False) as target, client_of(target) as client:
        for call in (client.models, client.versions, lambda: client.rank([make_request()])):
            with pytest.raises(ServingError, match="UNIMPLEMENTED: grpc == False"):
                call()


def test_a_port_on_every_address_needs_a_token():
    values = SETTINGS.model_dump() | {"grpc": True}
    with pytest.raises(ValueError, match="token_env == None, must name a variable with grpc"):
        type(SETTINGS).model_validate(values)


def test_what_goes_wrong_inside_is_not_told(monkeypatch):
    class Broken(LargestIdFirst):
        def rank(self, requests):
            raise KeyError("/secret/path", requests)

    with (
        replica_at(monkeypatch, Broken()) as target,
        client_of(target) as client,
        pytest.raises(ServingError, match=r"INTERNAL: Internal error\.$") as error,
    ):
        client.rank([make_request()])
    assert "secret" not in str(error.value)


def test_histories_are_kept_extended_and_erased(monkeypatch, tmp_path):
    with (
        replica_at(monkeypatch, sequence_store=str(tmp_path)) as target,
        client_of(target) as client,
    ):
        assert client.watermark(7) == 0
        done = client.append([append_of(7, 0, 5), append_of(8, 0, 3)])
        assert [(one.user_id, one.watermark, one.appended) for one in done] == [
            (7, 5, 5), (8, 3, 3)
        ]  # fmt: skip
        assert client.append([append_of(7, 0, 5)])[0].appended == 0
        (response,) = client.rank([make_request(history=FROM_STORE, time_ms=2**62)])
        assert response.watermark == 5
        with pytest.raises(RequestError, match="begin == 9, must be <= 5"):
            client.append([append_of(7, 9, 12)])
        with pytest.raises(RequestError, match="user_id == -1"):
            client.watermark(-1)
        assert client.erase(7) == 5
        assert (client.watermark(7), client.watermark(8)) == (0, 3)


def test_without_a_store_there_are_no_histories(client):
    with pytest.raises(RequestError, match="sequence_store == None"):
        client.watermark(7)


class Scripted:
    """A server that gives statuses in turn, then ranks."""

    def __init__(self, codes):
        self.codes, self.metadata, self.left_s = list(codes), [], []

    def Rank(self, call, context):
        self.metadata.append(dict(context.invocation_metadata()))
        self.left_s.append(context.time_remaining())
        if self.codes:
            context.abort(self.codes.pop(0), "it is so")
        requests, wanted = grpc_form.decode_requests(call, 9, stored=False)
        return grpc_form.encode_responses(LargestIdFirst().rank(requests), wanted)

    AppendEvents = GetUser = EraseUser = Models = Health = Rank


class Clock:
    def __init__(self):
        self.now_s, self.naps = 0.0, []

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds


@pytest.mark.parametrize("name", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_what_may_pass_is_tried_again_with_longer_waits(name):
    scripted, clock = Scripted([grpc.StatusCode[name]] * 3), Clock()
    with (
        serving(scripted) as target,
        client_of(target, clock=lambda: clock.now_s, sleep=clock.sleep, timeout_s=5) as client,
    ):
        assert client.rank([make_request()])[0].ids_K.tolist() == [9, 4]
    assert clock.naps == [0.05, 0.1, 0.2]
    assert [m["deadline-ms"] for m in scripted.metadata] == ["5000", "4950", "4850", "4650"]
    assert scripted.metadata[0]["application"] == "fake"
    assert max(scripted.left_s) < 5.5  # the server is told by gRPC too


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("INVALID_ARGUMENT", RequestError), ("ABORTED", RequestError),
        ("FAILED_PRECONDITION", RequestError), ("NOT_FOUND", ServingError),
        ("INTERNAL", ServingError), ("DEADLINE_EXCEEDED", ServingError),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_not_tried_again(name, kind):
    scripted = Scripted([grpc.StatusCode[name]])
    with (
        serving(scripted) as target,
        client_of(target) as client,
        pytest.raises(kind, match="it is so"),
    ):
        client.rank([make_request()])
    assert len(scripted.metadata) == 1


def test_retries_end():
    scripted, clock = Scripted([grpc.StatusCode.UNAVAILABLE] * 9), Clock()
    with (
        serving(scripted) as target,
        client_of(
            target, clock=lambda: clock.now_s, sleep=clock.sleep, retries=2, timeout_s=5
        ) as client,
        pytest.raises(ServingError, match=r"Rank failed 3 time\(s\).*UNAVAILABLE: it is so"),
    ):
        client.rank([make_request()])


def test_what_is_committed_is_what_protoc_writes(tmp_path):
    pytest.importorskip("grpc_tools")
    source = "ifa_ray/serving/proto/ranking.proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--python_out", tmp_path,
         "--pyi_out", tmp_path, "--grpc_python_out", tmp_path, source],
        cwd=ROOT, check=True, timeout=60,
    )  # fmt: skip
    for name in ("ranking_pb2.py", "ranking_pb2.pyi", "ranking_pb2_grpc.py"):
        written = (tmp_path / source).with_name(name).read_text()
        assert (ROOT / source).with_name(name).read_text() == written


def test_a_call_whose_deadline_passes_while_it_waits_is_not_ranked(monkeypatch):
    busy, release, ranked = threading.Event(), threading.Event(), []

    class Gate(LargestIdFirst):
        def rank(self, requests):
            busy.set()
            assert release.wait(10)
            ranked.extend(request.request_id for request in requests)
            return super().rank(requests)

    def call(number):
        return grpc_form.encode_requests(
            [make_request(number)], slot=0, min_version=0, probabilities=False
        )

    token = ("authorization", f"Bearer {TOKEN}")
    with replica_at(monkeypatch, Gate()) as target, grpc.insecure_channel(target) as channel:
        stub = ranking_pb2_grpc.RankingStub(channel)
        first = stub.Rank.future(call(1), metadata=[token])
        assert busy.wait(10)
        late = stub.Rank.future(call(2), metadata=[token, ("deadline-ms", "1")])
        with pytest.raises(grpc.FutureTimeoutError):
            late.result(timeout=0.3)  # the thread that would refuse it is at the first
        release.set()
        assert len(first.result().responses) == 1
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "not ranked" in late.exception().details()
    assert ranked == [1]
