"""Requests, and rankers whose answers can be told by hand, for tests of serving."""

import asyncio
import json

import httpx
import numpy as np

from ifa_ray.checkpoints.format import save_checkpoint, version_folder
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_items
from ifa_ray.schema import History, RankRequest, RankResponse, StoredHistory
from ifa_ray.serving import wire
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.settings import AppSettings, SlotSettings
from ifa_ray.serving.versions import Loaded, Slot
from ifa_ray.training.learner import Learner

SETTINGS = AppSettings(
    name="fake", slots=(SlotSettings(items="items", checkpoints="models"),), max_body_bytes=100_000
)


def make_request(request_id=1, candidates=(3, 9, 4), k=2, history=((5, 1, 10), (6, 3, 20)), **kw):
    if not isinstance(history, History):
        ids, actions, times = zip(*history, strict=True) if history else ((), (), ())
        history = History(
            ids_T=np.array(ids, np.int32),
            actions_T=np.array(actions, np.uint8),
            times_ms_T=np.array(times, np.int64),
        )
    return RankRequest(
        request_id=request_id,
        user_id=kw.pop("user_id", 7),
        time_ms=kw.pop("time_ms", 100),
        candidates_C=np.array(candidates, np.int32),
        history=history,
        k=k,
        **kw,
    )


def body_of(one, media_type=wire.ARROW, *, probabilities=False):
    """A request or an append as a body."""
    is_request = isinstance(one, RankRequest)
    if media_type == wire.ARROW:
        if is_request:
            return wire.encode_requests([one], probabilities=probabilities)
        return wire.encode_appends([one])
    history = one.history
    columns = {"ids": history.ids_T, "actions": history.actions_T, "times_ms": history.times_ms_T}
    columns = {name: column.tolist() for name, column in columns.items()}
    if not is_request:
        return json.dumps({"user_id": one.user_id, "begin": one.begin, **columns}).encode()
    values = {name: getattr(one, name) for name in ("request_id", "user_id", "time_ms", "k")}
    values |= {"candidates": one.candidates_C.tolist(), "probabilities": probabilities}
    if one.channels_C is not None:
        values["channels"] = one.channels_C.tolist()
    if not isinstance(history, StoredHistory):
        values["history"] = columns
    return json.dumps(values).encode()


def replica_of(ranker=None, settings=SETTINGS, load_version=None):
    """A replica of one slot."""
    return RankerDeployment(settings, [Slot(Loaded(0, ranker or LargestIdFirst()), load_version)])


def exchange(api, method, path, **kwargs):
    """One HTTP exchange, in process."""

    async def ask():
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(ask())


def transport_to(api):
    """The way of a client to an application in this process."""

    def serve(request):
        url, content, headers = str(request.url), request.content, request.headers
        answer = exchange(api, request.method, url, content=content, headers=headers)
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    return httpx.MockTransport(serve)


def small_training(folder, versions):
    """A catalogue in `items.parquet` and that many versions in `models`; returns the catalogue."""
    rng = np.random.default_rng(0)
    items = ItemTable(
        video_id_N=np.arange(20, dtype=np.int32),
        author_id_N=rng.integers(0, 4, 20).astype(np.int32),
        category_N=rng.integers(0, 4, 20).astype(np.int32),
        duration_ms_N=rng.integers(2_000, 90_000, 20).astype(np.int32),
        upload_ms_N=np.arange(20, dtype=np.int64),
        content_ND=rng.normal(size=(20, 4)).astype(np.float32),
    )
    write_items(folder / "items.parquet", items)
    model = ModelConfig(name="ifa", width=8, num_heads=2, tower_widths=(8,))
    for version in range(versions):
        learner = Learner(model, TrainingConfig(), items, version)
        save_checkpoint(version_folder(folder / "models", version), learner, version=version,
                        log_watermark={}, metrics={})  # fmt: skip
    return items


class LargestIdFirst:
    """Ranks by id; score = id; p of objective l = (l + 1) / 8. Version v says so."""

    def __init__(self, version=0):
        self.version = version

    def rank(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        ids = np.sort(request.candidates_C)[::-1][: request.k].astype(np.int32)
        return RankResponse(
            request_id=request.request_id,
            ids_K=ids,
            scores_K=ids.astype(np.float32),
            model_version=self.version,
            rank_ms=1.5,
            probabilities_KL=np.tile(np.arange(1, 5, dtype=np.float32) / 8, (len(ids), 1)),
        )
