"""What any store of histories must do: ours, its shards, and the one that the document prints."""

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from lives import START_MS, append_of, assert_same_history, life_of
from serving_fakes import exchange, small_training

from ifa_ray import plugins
from ifa_ray.errors import ConfigError, IfaRayError, RequestError
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.sequence_store import (
    Append,
    ErasedMeanwhileError,
    HistoryStore,
    SequenceConflictError,
    SequenceStore,
    check_layout,
    joined,
    open_store,
    part,
)
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.sharded_histories import ShardActor, ShardedHistories, shard_of

DOCS = Path(__file__).parents[3] / "docs"
BLOCKS = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", (DOCS / "serving.md").read_text(), re.DOTALL))
SLOT = {"items": "items", "checkpoints": "models"}
SHARDS = 3


class ShardsHere(ShardedHistories):
    """Shards of this process, which any number of stores share."""

    def __init__(self, folder, shards=SHARDS):
        self.held = {}
        super().__init__(str(folder), 2**22, shards=shards)

    def _actor(self, shard):
        return self.held.setdefault(
            shard, ShardActor(self._folder, shard, self._count, self._max_bytes)
        )

    def _ask(self, calls):
        answers = [self._actors[shard].ask(method, given) for shard, method, given in calls]
        for answer in answers:
            if isinstance(answer, IfaRayError):
                raise answer
        return answers

    def close(self):
        for actor in self.held.values():
            if actor._store is not None:
                actor._store.close()


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


def opened(kind, folder):
    if kind == "shards":
        return ShardsHere(folder)
    values = {"name": "x", "slots": [SLOT], "sequence_store": str(folder)}
    values["store_class"] = {"ours": None, "printed": "shop_store:ShopStore"}[kind]
    return open_store(AppSettings.from_dict(values))


@pytest.fixture(params=["ours", "shards", "printed"])
def store(request, printed, tmp_path):  # noqa: ARG001 - on the path
    made = opened(request.param, tmp_path / "store")
    yield made
    made.close()


def test_a_history_is_read_as_it_was_appended(store):
    store.append([append_of(7, 0, 40)])
    store.append([append_of(7, 40, 41), append_of(8, 0, 3)])
    assert_same_history(store.read(7), life_of(7, 41))
    assert_same_history(store.read(7, 5, 25), part(life_of(7, 41), 5, 25))
    assert len(store.read(7, 41, 46)) == len(store.read(9)) == 0
    assert store.watermark(8)[:2] == (3, life_of(8, 3).times_ms_T[-1])
    assert store.watermark(9)[:2] == (0, None)


def test_an_append_may_be_repeated_and_an_overlap_adds_what_is_new(store):
    for appended in (10, 0):
        (done,) = store.append([append_of(7, 0, 10)])
        assert (done.watermark, done.appended) == (10, appended)
    (done,) = store.append([append_of(7, 5, 12)])
    assert (done.watermark, done.appended) == (12, 2)


@pytest.mark.parametrize("wrong", [append_of(7, 11, 12), append_of(8, 0, 5)])
def test_what_does_not_follow_is_a_conflict_and_nothing_of_the_call_is_stored(store, wrong):
    store.append([append_of(7, 0, 10)])
    wrong = Append(user_id=7, begin=wrong.begin, history=wrong.history)
    first = next(u for u in range(20) if u != 7 and shard_of(u, SHARDS) == shard_of(7, SHARDS))
    with pytest.raises(SequenceConflictError, match=f"begin == {wrong.begin}"):
        store.append([append_of(first, 0, 3), wrong])
    assert store.watermark(first).length == 0
    assert_same_history(store.read(7), life_of(7, 10))


def test_a_behaviour_before_the_last_one_is_refused(store):
    store.append([append_of(7, 0, 10)])
    early = life_of(7, 1)
    assert early.times_ms_T[0] < life_of(7, 10).times_ms_T[-1]
    with pytest.raises(RequestError, match="must be >="):
        store.append([Append(user_id=7, begin=10, history=early)])


def test_a_watermark_counts_what_had_happened_by_then(store):
    life = life_of(7, 800)
    store.append([append_of(7, 0, 800)])
    whole = store.watermark(7)
    for at_ms in (START_MS - 1, *life.times_ms_T[::97].tolist(), int(life.times_ms_T[-1]), 2**61):
        count = int((life.times_ms_T <= at_ms).sum())
        last_ms = life.times_ms_T[count - 1] if count else None
        assert store.watermark(7, at_ms) == (count, last_ms, whole.generation)
    assert whole.length == 800


def test_an_erased_user_begins_anew_in_another_generation(store):
    store.append([append_of(7, 0, 10)])
    before = store.watermark(7).generation
    assert_same_history(store.read(7, 0, 4, before), life_of(7, 4))
    assert (store.erase(7), store.erase(7)) == (10, 0)
    assert store.watermark(7)[:2] == (0, None)
    assert store.watermark(7).generation != before
    store.append([append_of(7, 0, 4)])
    after = store.watermark(7).generation
    assert after != before
    with pytest.raises(ErasedMeanwhileError, match="user 7 was erased"):
        store.read(7, 0, 4, before)
    for generation in (after, None):
        assert_same_history(store.read(7, 0, 4, generation), life_of(7, 4))


def test_all_stores_read_alike(tmp_path, printed):  # noqa: ARG001
    made = [opened(kind, tmp_path / kind) for kind in ("ours", "shards", "printed")]
    rng = np.random.default_rng(0)
    stored = 0
    for _ in range(60):
        begin = int(rng.integers(0, stored + 1))
        stop = begin + int(rng.integers(1, 20))
        answers = [one.append([append_of(7, begin, stop)]) for one in made]
        assert answers[0] == answers[1] == answers[2]
        stored = answers[0][0].watermark
        begin, stop = (int(x) for x in rng.integers(0, 80, 2))
        first, *others = [one.read(7, begin, stop) for one in made]
        for other in others:
            assert_same_history(first, other)
        at_ms = int(START_MS + rng.integers(-5, 500) * 1000)
        assert len({one.watermark(7, at_ms)[:2] for one in made}) == 1
    for one in made:
        one.close()


def test_no_reader_mixes_the_life_before_an_erasure_with_the_one_after(store):
    """Two lives under one id take turns; whatever a reader makes of them is the start of one."""
    lives = [life_of(8 + turn, 60) for turn in range(2)]
    begins = [[part(one, 0, length).ids_T.tolist() for one in lives] for length in range(61)]
    stop, turns = threading.Event(), 0

    def write():
        nonlocal turns
        while not stop.is_set():
            turns += 1
            for begin in (0, 30):
                new = part(lives[turns % 2], begin, begin + 30)
                store.append([Append(user_id=7, begin=begin, history=new)])
            store.erase(7)

    state, of, found = life_of(7, 0), None, set()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            while turns < 40 or len(found) < 3:
                assert not writing.done()
                end = store.watermark(7)
                if end.generation != of or len(state) > end.length:
                    state = life_of(7, 0)
                try:
                    new = store.read(7, len(state), end.length, end.generation)
                except ErasedMeanwhileError:
                    continue
                state, of = joined([state, new]), end.generation
                assert state.ids_T.tolist() in begins[len(state)]
                found.add(len(state))
        finally:
            stop.set()
        writing.result(timeout=60)


def test_users_lie_in_their_shards_and_answers_keep_the_order_of_the_call(tmp_path):
    store, users = ShardsHere(tmp_path), list(range(20))
    done = store.append([append_of(user, 0, user + 1) for user in users])
    assert [(one.user_id, one.watermark) for one in done] == [(user, user + 1) for user in users]
    for user in users:
        lengths = [actor.ask("watermark", (user,)).length for actor in store._actors]
        assert lengths == [(user + 1) * (at == shard_of(user, SHARDS)) for at in range(SHARDS)]
    store.close()


def test_a_rule_that_is_broken_stores_nothing_and_a_conflict_what_other_shards_hold(tmp_path):
    store = ShardsHere(tmp_path)
    broken = append_of(5, 0, 3)
    broken.history.ids_T[1] = -1
    with pytest.raises(RequestError, match=r"min\(ids\) == -1"):
        store.append([append_of(user, 0, 2) for user in range(5)] + [broken])
    assert {store.watermark(user).length for user in range(6)} == {0}
    with pytest.raises(SequenceConflictError, match="begin == 7, must be <= 0"):
        store.append([append_of(user, 0, 2) for user in range(5)] + [append_of(5, 7, 9)])
    stored = {user for user in range(6) if store.watermark(user).length}
    assert stored == {user for user in range(5) if shard_of(user, SHARDS) != shard_of(5, SHARDS)}
    done = store.append([append_of(user, 0, 2) for user in range(6)])  # the call, corrected
    assert {one.watermark for one in done} == {2}
    store.close()


def test_histories_are_not_taken_for_those_of_another_number_of_shards(tmp_path):
    ShardsHere(tmp_path).close()
    with pytest.raises(ConfigError, match=r"shards == 2, must be 3: .* not moved"):
        ShardsHere(tmp_path, 2)
    with pytest.raises(ConfigError, match="shards == None, must be 3"):
        check_layout(tmp_path, None)
    SequenceStore(tmp_path / "plain").close()
    with pytest.raises(ConfigError, match="shards == 2, must be None"):
        ShardsHere(tmp_path / "plain", 2)


def test_the_printed_ranker_and_store_serve(printed, tmp_path):  # noqa: ARG001
    items, args = small_training(tmp_path, versions=1), yaml.safe_load(BLOCKS["args"])
    args["slots"][0]["items"] = str(tmp_path / "items.parquet")
    replica = RankerDeployment(AppSettings.from_dict({"name": "shop", **args}))
    api, headers = build_http(replica), {"content-type": "application/json"}

    def post(path, **body):
        return exchange(api, "POST", path, content=json.dumps(body), headers=headers).json()

    appended = post("/v1/events", user_id=7, begin=0, ids=[6], actions=[1], times_ms=[5])
    assert appended["watermark"] == 1
    answer = post("/v1/rank", request_id=1, user_id=7, time_ms=9, candidates=[3, 9, 4], k=2)
    newest = sorted([3, 9, 4], key=lambda i: -items.upload_ms_N[i])[:2]
    assert (answer["ids"], answer["watermark"]) == (newest, 1)
    assert exchange(api, "DELETE", "/v1/users/7").json()["erased"] == 1
    replica.close()


def test_a_store_of_ones_own_has_every_method_of_the_protocol():
    methods = {name for name in vars(HistoryStore) if not name.startswith("_")}
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
        plugins.load_store_class(spec)
