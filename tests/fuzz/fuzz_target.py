"""A real replica in this process, and what every answer of it must obey.

Real are the routes, the decoders, the scoring thread, the model with its states, the checkpoints
and the store of histories; of a deployment only Serve's proxies are missing.
"""

import asyncio
import collections
import resource

import httpx
import numpy as np

from ifa_ray.checkpoints.format import load_model, save_checkpoint, version_folder
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_items
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import FROM_STORE, History, RankRequest, RankResponse, validate_response
from ifa_ray.serving import wire
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.sequence_store import Append
from ifa_ray.serving.settings import AppSettings
from ifa_ray.training.learner import Learner

NUM_ITEMS = 40
VERSIONS = 3
MAX_BODY = 1 << 18
PATIENCE_S = 20
MAX_ERROR = 4_000
KEPT_USER = 2**61 + 7  # no strategy makes it but by a miracle
# An error names one of these: a field of a body, a parameter, or what a body is as a whole.
FIELDS = (
    *RankRequest.__dataclass_fields__, "candidate", "channels", "ids", "actions", "times_ms",
    "probabilities", "begin", "body", "columns", "content-type", "content-length", "rows",
    "requests", "batches", "slot", "min_version", "deadline-ms", "version", "call", "appends",
    "Extra inputs are not permitted",
)  # fmt: skip


def make_items():
    rng = np.random.default_rng(0)
    return ItemTable(
        video_id_N=np.arange(NUM_ITEMS, dtype=np.int32),
        author_id_N=rng.integers(0, 9, NUM_ITEMS).astype(np.int32),
        category_N=rng.integers(0, 5, NUM_ITEMS).astype(np.int32),
        duration_ms_N=rng.integers(2_000, 90_000, NUM_ITEMS).astype(np.int32),
        upload_ms_N=np.arange(NUM_ITEMS, dtype=np.int64) * 3_600_000,
        content_ND=rng.normal(size=(NUM_ITEMS, 4)).astype(np.float32),
    )


def good_request(history=None):
    rng = np.random.default_rng(1)
    return RankRequest(
        request_id=11,
        user_id=KEPT_USER,
        time_ms=1_700_000_000_000,
        candidates_C=rng.permutation(NUM_ITEMS)[:20].astype(np.int32),
        history=good_history() if history is None else history,
        k=5,
    )


def good_history():
    rng = np.random.default_rng(2)
    return History(
        ids_T=rng.integers(0, NUM_ITEMS, 30).astype(np.int32),
        actions_T=rng.integers(0, 128, 30).astype(np.uint8),
        times_ms_T=1_600_000_000_000 + np.arange(30, dtype=np.int64),
    )


def _responses(answer, media_type, count):
    if media_type == wire.ARROW:
        return wire.decode_responses(answer.content, count)
    read = answer.json()
    return [
        RankResponse(
            request_id=read["request_id"],
            ids_K=np.array(read["ids"], np.int32),
            scores_K=np.array(read["scores"], np.float32),
            model_version=read["model_version"],
        )
    ]


class Target:
    """The replica, and counts of what it answered."""

    def __init__(self, folder):
        items = make_items()
        write_items(folder / "items.parquet", items)
        model = ModelConfig(name="ifa", width=8, num_heads=2, tower_widths=(8,))
        for version in range(VERSIONS):
            learner = Learner(model, TrainingConfig(), items, version)
            save_checkpoint(
                version_folder(folder / "models", version), learner,
                version=version, log_watermark={}, metrics={},
            )  # fmt: skip
        slot = {"items": str(folder / "items.parquet"), "checkpoints": str(folder / "models")}
        settings = AppSettings.from_dict(
            {
                "name": "fuzzed",
                "slots": [slot, {**slot, "version": 0}],
                "max_body_bytes": MAX_BODY,
                "max_requests": 8,
                "sequence_store": str(folder / "histories"),
                "state_bytes": 10**6,
            }
        )
        self.replica = RankerDeployment(settings)
        self.api = build_http(self.replica)
        self.statuses = collections.Counter()
        self._loop = asyncio.Runner()
        transport = httpx.ASGITransport(self.api, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")
        newest = VERSIONS - 1
        here = ModelRanker(
            load_model(version_folder(folder / "models", newest), items), items, newest
        )
        (self._expected,) = here.rank([good_request()])
        append = Append(user_id=KEPT_USER, begin=0, history=good_history())
        assert self.post("/v1/events", wire.encode_appends([append])).status_code == 200

    def close(self):
        """Ends the replica."""
        self._loop.run(self._client.aclose())
        self._loop.close()
        self.replica.close()

    def send(self, method, path, **kwargs):
        """One exchange; an answer that takes longer than `PATIENCE_S` is an error."""

        async def exchange():
            async with asyncio.timeout(PATIENCE_S):
                return await self._client.request(method, path, **kwargs)

        return self._loop.run(exchange())

    def post(self, path, body, media_type=wire.ARROW):
        return self.send("POST", path, content=body, headers={"content-type": media_type})

    def check(self, answer):
        """No answer is an error of the server's; one of the caller's says what is wrong."""
        self.statuses[answer.status_code] += 1
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text[:500]
        if answer.status_code == 200:
            return
        if answer.status_code == 405:  # the router's own: there is no field
            return
        assert list(answer.json()) == ["error"]
        error = answer.json()["error"]
        assert len(error) <= MAX_ERROR, f"{len(error)} characters of error: {error[:200]}..."
        assert any(field in error for field in FIELDS), error

    def rank(self, body, media_type, query=""):
        """A body of whatever bytes; an answer of 200 must be one to what was asked."""
        answer = self.post(f"/v1/rank{query}", body, media_type)
        self.check(answer)
        if answer.status_code == 200:
            requests, _ = wire.decode_requests(body, media_type, 8, stored=True)
            found = _responses(answer, media_type, len(requests))
            for request, response in zip(requests, found, strict=True):
                validate_response(request, response)
        return answer

    def append(self, body, media_type):
        answer = self.post("/v1/events", body, media_type)
        self.check(answer)
        return answer

    def check_still_right(self):
        """The next good requests are answered as if nothing had been before."""
        brought = self.rank(wire.encode_requests([good_request()]), wire.ARROW)
        (response,) = wire.decode_responses(brought.content, 1)
        assert response.model_version == VERSIONS - 1
        assert response.ids_K.tolist() == self._expected.ids_K.tolist()
        np.testing.assert_array_equal(response.scores_K, self._expected.scores_K)
        asked = good_request(FROM_STORE)
        stored = self.rank(wire.encode_requests([asked]), wire.ARROW)
        (response,) = wire.decode_responses(stored.content, 1)
        assert response.watermark == len(good_history())
        np.testing.assert_allclose(response.scores_K, self._expected.scores_K, rtol=0, atol=3e-5)


def peak_mb():
    """The most memory that this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
