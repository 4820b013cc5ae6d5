"""What any store of histories must do, of ours and of the one that docs/serving.md prints."""

import asyncio
import json
import re
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from lives import START_MS, append_of, assert_same_history, life_of
from serving_fakes import small_training

from ifa_ray.errors import ConfigError, RequestError
from ifa_ray.plugins import load_store_class
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.history_store import HistoryStore, open_store
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.sequence_store import SequenceConflictError, part
from ifa_ray.serving.settings import AppSettings

DOCS = Path(__file__).parents[3] / "docs"
BLOCKS = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", (DOCS / "serving.md").read_text(), re.DOTALL))
SLOT = {"items": "items", "checkpoints": "models"}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """A folder on the path with the classes that the documents print."""
    folder = tmp_path_factory.mktemp("printed")
    (folder / "shop_store.py").write_text(BLOCKS["shop_store.py"])
    (ranker,) = [
        text
        for text in re.findall(r"```python\n(.*?)```", (DOCS / "rankers.md").read_text(), re.DOTALL)
        if "class Newest" in text
    ]
    (folder / "newest.py").write_text(ranker)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(params=[None, "shop_store:ShopStore"], ids=["ours", "printed"])
def store(request, printed, tmp_path):  # noqa: ARG001 - on the path
    settings = AppSettings.from_dict(
        {"name": "x", "slots": [SLOT], "sequence_store": str(tmp_path / "store"),
         "store_class": request.param}
    )  # fmt: skip
    made = open_store(settings)
    yield made
    made.close()


def test_a_history_is_read_as_it_was_appended(store):
    store.append([append_of(7, 0, 40)])
    store.append([append_of(7, 40, 41), append_of(8, 0, 3)])
    assert_same_history(store.read(7), life_of(7, 41))
    assert_same_history(store.read(7, 5, 20), part(life_of(7, 41), 5, 25))
    assert len(store.read(7, 41, 5)) == len(store.read(9)) == 0
    assert store.extent(8) == (3, life_of(8, 3).times_ms_T[-1])
    assert store.extent(9) == (0, None)


def test_an_append_may_be_repeated(store):
    for appended in (10, 0):
        (done,) = store.append([append_of(7, 0, 10)])
        assert (done.watermark, done.appended) == (10, appended)
    (done,) = store.append([append_of(7, 5, 12)])
    assert (done.watermark, done.appended) == (12, 2)


@pytest.mark.parametrize("wrong", [append_of(7, 11, 12), append_of(8, 0, 5)])
def test_what_does_not_follow_is_a_conflict_and_nothing_of_the_call_is_stored(store, wrong):
    store.append([append_of(7, 0, 10)])
    wrong = type(wrong)(user_id=7, begin=wrong.begin, history=wrong.history)
    with pytest.raises(SequenceConflictError, match=f"begin == {wrong.begin}"):
        store.append([append_of(9, 0, 3), wrong])
    assert store.watermark(9) == 0
    assert_same_history(store.read(7), life_of(7, 10))


def test_a_behaviour_before_the_last_one_is_refused(store):
    store.append([append_of(7, 0, 10)])
    early = life_of(7, 1)
    assert early.times_ms_T[0] < life_of(7, 10).times_ms_T[-1]
    with pytest.raises(RequestError, match="must be >="):
        store.append([type(append_of(7, 0, 1))(user_id=7, begin=10, history=early)])


def test_a_watermark_counts_what_had_happened_by_then(store):
    life = life_of(7, 30)
    store.append([append_of(7, 0, 30)])
    for at_ms in (START_MS - 1, int(life.times_ms_T[11]), int(life.times_ms_T[-1]), 2**61):
        assert store.watermark(7, at_ms) == int((life.times_ms_T <= at_ms).sum())
    assert store.watermark(7) == 30


def test_an_erased_user_begins_anew(store):
    store.append([append_of(7, 0, 10)])
    assert (store.erase(7), store.erase(7)) == (10, 0)
    assert store.watermark(7) == 0
    store.append([append_of(7, 0, 4)])
    assert_same_history(store.read(7), life_of(7, 4))


def test_the_printed_ranker_and_store_serve(printed, tmp_path):  # noqa: ARG001
    folder, items = tmp_path, small_training(tmp_path, versions=1)
    args = yaml.safe_load(BLOCKS["args"])
    args["slots"][0]["items"] = str(folder / "items.parquet")
    replica = RankerDeployment(AppSettings.from_dict({"name": "shop", **args}))
    api = build_http(replica)

    async def story():
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            event = {"user_id": 7, "begin": 0, "ids": [6], "actions": [1], "times_ms": [5]}
            asked = {"request_id": 1, "user_id": 7, "time_ms": 9, "candidates": [3, 9, 4], "k": 2}
            headers = {"content-type": "application/json"}
            return [
                (await client.post(path, content=json.dumps(body), headers=headers)).json()
                for path, body in (("/v1/events", event), ("/v1/rank", asked))
            ] + [(await client.delete("/v1/users/7")).json()]

    appended, answer, erased = asyncio.run(story())
    replica.close()
    assert appended["watermark"] == 1
    newest = sorted([3, 9, 4], key=lambda i: -items.upload_ms_N[i])[:2]
    assert (answer["ids"], answer["watermark"]) == (newest, 1)
    assert erased["erased"] == 1


def test_a_store_of_ones_own_has_every_method_of_the_protocol():
    methods = {name for name in vars(HistoryStore) if not name.startswith("_")}
    from ifa_ray import plugins

    assert set(plugins._OF_STORES) == methods


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ShopStore", "must be written package.module:Class"),
        ("ifa_ray.ranking.ranker:RandomRanker", "has no method append, must have one"),
        ("ifa_ray.ranking.ranker:NoStore", "store_class of ifa_ray.ranking.ranker == 'NoStore'"),
        ("ifa_ray.ranking.ranker:top_k", "is a function, must be a class"),
    ],
)
def test_a_wrong_name_of_a_store_says_what_is_wrong(spec, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_store_class(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_store": None}, "sequence_store == None, must be set"),
        ({"store_class": None, "num_replicas": 2}, "num_replicas == 2, must be 1"),
    ],
)
def test_settings_that_would_lose_histories_are_refused(change, message):
    settings = {"name": "x", "slots": [SLOT], "sequence_store": "x", "store_class": "a:B"}
    AppSettings.from_dict({**settings, "num_replicas": 3})
    with pytest.raises(ValueError, match=message):
        AppSettings.from_dict({**settings, **change})


def test_states_of_several_replicas_need_a_store_that_tells_of_erasures(tmp_path, printed):  # noqa: ARG001
    settings = AppSettings.from_dict(
        {"name": "x", "slots": [SLOT], "sequence_store": str(tmp_path), "num_replicas": 2,
         "store_class": "shop_store:ShopStore", "state_bytes": 99}
    )  # fmt: skip
    with pytest.raises(ConfigError, match="state_bytes == 99, must be 0 with num_replicas == 2"):
        open_store(settings)


def test_both_stores_read_alike(tmp_path, printed):  # noqa: ARG001
    made = [
        open_store(
            AppSettings.from_dict(
                {"name": "x", "slots": [SLOT], "sequence_store": str(tmp_path), "store_class": name}
            )
        )
        for name in (None, "shop_store:ShopStore")
    ]
    rng = np.random.default_rng(0)
    stored = 0
    for _ in range(60):
        begin = int(rng.integers(0, stored + 1))
        stop = begin + int(rng.integers(1, 20))
        answers = [one.append([append_of(7, begin, stop)]) for one in made]
        assert answers[0] == answers[1]
        stored = answers[0][0].watermark
        since, limit = (int(x) for x in rng.integers(0, 80, 2))
        assert_same_history(*(one.read(7, since, limit) for one in made))
        at_ms = int(START_MS + rng.integers(-5, 500) * 1000)
        assert len({one.watermark(7, at_ms) for one in made}) == 1
    for one in made:
        one.close()
