"""A request that names its user alone is answered as one that brings the whole history.

Tolerance with states: scores within 3e-5, slates equal but for candidates as near to each other;
without states, equal to the bit. See test_state_ranker.py for where the tolerance comes from.
"""

import asyncio
import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from lives import START_MS, append_of, life_of
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.checkpoints.format import load_model, save_checkpoint, version_folder
from ifa_ray.config import CROSS_FEATURES, ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_items
from ifa_ray.errors import ConfigError, RequestError
from ifa_ray.models import build_model
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_ranker import StatefulRanker
from ifa_ray.schema import FROM_STORE, RankRequest
from ifa_ray.serving.app import METRICS
from ifa_ray.serving.deployment import NoStoreError, RankerDeployment
from ifa_ray.serving.history_ranker import HistoryRanker, StoredHistories
from ifa_ray.serving.sequence_store import SequenceStore
from ifa_ray.serving.settings import AppSettings, SlotSettings
from ifa_ray.serving.versions import Loaded, Slot
from ifa_ray.training.learner import Learner

N, MAX_HISTORY, TOLERANCE = 200, 400, 3e-5
CONFIG = ModelConfig(
    name="ifa_plus", width=8, num_heads=2, top_k=5, tower_widths=(8,), id_buckets=300,
    author_buckets=30, user_buckets=10, max_history=MAX_HISTORY, cross_features=CROSS_FEATURES,
)  # fmt: skip
ITEMS = ItemTable(
    video_id_N=np.arange(N, dtype=np.int32),
    author_id_N=(np.arange(N) % 17).astype(np.int32),
    category_N=(np.arange(N) % 5).astype(np.int32),
    duration_ms_N=np.full(N, 9000, np.int32),
    upload_ms_N=np.zeros(N, np.int64),
    content_ND=np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32),
)


def make_model(seed):
    model = build_model(CONFIG, ITEMS, seed)
    with torch.no_grad():  # untrained towers say little; these say much
        model.towers.layers[-1].weight.mul_(30.0)
    return model


MODELS = {version: make_model(seed=version) for version in (1, 2, 3)}


def request_of(user_id, watermark, history=None, number=0):
    """A request between two behaviours; it brings them, or names its user alone."""
    life = life_of(user_id, watermark, items=N + 9)
    rng = np.random.default_rng([3, user_id, number])
    return RankRequest(
        request_id=number,
        user_id=user_id,
        time_ms=int(life.times_ms_T[-1]) if watermark else START_MS - 1,
        candidates_C=rng.permutation(N)[:40].astype(np.int32),
        channels_C=rng.integers(0, 5, 40).astype(np.int8),
        history=life if history is None else history,
        k=10,
    )


@pytest.fixture
def serve(tmp_path):
    """Makes replicas with histories, closed at the end."""
    made = []

    def start(state_bytes=10**7, ranker=None):
        settings = SETTINGS.replace(
            {"sequence_store": str(tmp_path / "store"), "state_bytes": state_bytes}
        )
        served = RankerDeployment(settings, [Slot(Loaded(1, LargestIdFirst(1)))])
        made.append(served)

        def load(version):
            if ranker is not None:
                return ranker
            model = copy.deepcopy(MODELS[version])
            if not state_bytes:
                return ModelRanker(model, ITEMS, version)
            return StatefulRanker(model, ITEMS, version, served._states[0])

        served._slots = [Slot(Loaded(1, load(1)), load)]
        return served

    yield start
    for served in made:
        served.close()


def ranked_alone(request, version=1):
    return ModelRanker(copy.deepcopy(MODELS[version]), ITEMS, version).rank([request])[0]


def assert_same_slate(response, request, version=1):
    expected = ranked_alone(request, version)
    assert response.model_version == version
    np.testing.assert_allclose(response.scores_K, expected.scores_K, rtol=0, atol=TOLERANCE)
    if response.ids_K.tolist() != expected.ids_K.tolist():
        whole = ranked_alone(dataclasses.replace(request, k=len(request.candidates_C)), version)
        score = dict(zip(whole.ids_K.tolist(), whole.scores_K.tolist(), strict=True))
        ours = [score[i] for i in response.ids_K.tolist()]
        np.testing.assert_allclose(ours, expected.scores_K, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("state_bytes", [0, 10**7, 60_000])
def test_any_course_of_events_is_ranked_as_with_the_history_in_the_request(serve, state_bytes):
    """Appends, repeated ones, late requests, three versions, evictions, erasures."""
    draw = random.Random(state_bytes)
    served = serve(state_bytes)
    length = dict.fromkeys(range(4), 0)

    async def story():
        for number in range(150):
            user = draw.randrange(4)
            step = draw.random()
            if step < 0.45:
                begin = max(0, length[user] - draw.choice([0, 0, 5]))
                stop = begin + draw.randrange(1, 60)
                (done,) = await served.append([append_of(user, begin, stop, items=N + 9)])
                length[user] = max(length[user], stop)
                assert done.watermark == length[user]
            elif step < 0.48:
                assert await served.erase(user) == length[user]
                length[user] = 0
            else:
                past = draw.choice([0, 0, 0, 7])
                wanted = max(0, length[user] - past)
                version = draw.choice([1, 2, 2, 3]) if number > 40 else 1
                asked = request_of(user, wanted, FROM_STORE, number)
                (response,) = await served.rank(0, [asked], version, exact=True)
                # Behaviours of the same millisecond as the last have happened by then too.
                life = life_of(user, length[user], items=N + 9)
                watermark = int((life.times_ms_T <= asked.time_ms).sum())
                assert response.watermark == watermark
                whole = dataclasses.replace(
                    request_of(user, watermark, number=number), time_ms=asked.time_ms
                )
                assert_same_slate(response, whole, version)
                if not state_bytes:
                    alone = ranked_alone(whole, version)
                    assert response.scores_K.tobytes() == alone.scores_K.tobytes()
        return (await served.models()).get("states")

    states = asyncio.run(story())
    if state_bytes:
        (stats,) = states
        assert stats["outcomes"]["gap"] == 0
        assert 0 < stats["hit_rate"] <= 1
        assert stats["state_bytes"] <= state_bytes
        assert (stats["evictions"] > 0) == (state_bytes < 10**6)


def test_a_request_with_its_own_history_is_ranked_to_the_bit_and_leaves_states_alone(serve):
    served = serve()

    async def story():
        await served.append([append_of(7, 0, 100, items=N)])
        await served.rank(0, [request_of(7, 100, FROM_STORE)])
        before = served._states[0].stats()
        request = request_of(7, 30)
        (response,) = await served.rank(0, [request])
        assert served._states[0].stats() == before
        return request, response

    request, response = asyncio.run(story())
    alone = ranked_alone(request)
    assert response.watermark is None
    assert response.ids_K.tobytes() == alone.ids_K.tobytes()
    assert response.scores_K.tobytes() == alone.scores_K.tobytes()
    assert response.probabilities_KL.tobytes() == alone.probabilities_KL.tobytes()


def test_a_replica_measures_what_it_does(serve):
    noted = []

    def note(name, value, **labels):
        assert set(labels) == set(METRICS[name][2])
        if name == "stage_ms":
            assert 0 <= value < 60_000
            noted.append(labels["stage"])
        elif name in ("calls", "appended", "ranked_candidates", "version"):
            noted.append((name, value))
        elif labels.get("outcome") in ("hit", "missing"):
            noted.append((labels["outcome"], value))

    served = serve()
    served.note = note

    async def story():
        for _ in range(2):
            await served.append([append_of(7, 0, 100, items=N)])
            await served.rank(0, [request_of(7, 100, FROM_STORE)])
        with pytest.raises(RequestError):
            await served.rank(0, [dataclasses.replace(request_of(7, 0, FROM_STORE), k=41)])
        await served.erase(7)

    asyncio.run(story())
    first, second = (
        [("calls", 1), "wait", "rank", ("ranked_candidates", 40), ("version", 1), ("hit", hits),
         ("missing", 1), ("calls", 0)]
        for hits in (0, 1)
    )  # fmt: skip
    refused = [("calls", 1), "wait", ("calls", 0)]
    appended = ["append", ("appended", 100), *first, "append", ("appended", 0), *second]
    assert noted == [*appended, *refused, "erase"]


def test_an_erased_user_begins_anew_whatever_a_state_held(serve):
    served = serve()

    async def story():
        await served.append([append_of(7, 0, 100, items=N)])
        await served.rank(0, [request_of(7, 100, FROM_STORE)])
        assert await served.erase(7) == 100
        assert await served.user(7) == (0, None)
        other = append_of(8, 0, 120, items=N)  # another life under the same id, and a longer one
        await served.append([dataclasses.replace(other, user_id=7)])
        asked = dataclasses.replace(
            request_of(7, 0, FROM_STORE), time_ms=int(other.history.times_ms_T[-1])
        )
        (response,) = await served.rank(0, [asked])
        assert response.watermark == 120
        assert_same_slate(response, dataclasses.replace(asked, history=other.history))

    asyncio.run(story())


@pytest.mark.parametrize("meanwhile", [False, True])
def test_no_state_of_before_an_erasure_by_another_replica_is_used(tmp_path, meanwhile):
    store, states = SequenceStore(tmp_path), SequenceStates(10**7)
    cached = StatefulRanker(copy.deepcopy(MODELS[1]), ITEMS, 1, states)
    ranker = HistoryRanker(cached, StoredHistories(store, states))
    store.append([append_of(7, 0, 100, items=N)])
    ranker.rank([request_of(7, 100, FROM_STORE)])
    other, read = append_of(8, 0, 120, items=N), store.read

    def begin_anew(*_):
        """As another replica does, at once or between the watermark and the read."""
        store.read = read
        store.erase(7)
        store.append([dataclasses.replace(other, user_id=7)])
        return read(*_) if _ else None

    if meanwhile:
        store.read = begin_anew
    else:
        begin_anew()
    last_ms = int(other.history.times_ms_T[-1])
    asked = dataclasses.replace(request_of(7, 0, FROM_STORE), time_ms=last_ms)
    (response,) = ranker.rank([asked])
    assert response.watermark == 120
    assert_same_slate(response, dataclasses.replace(asked, history=other.history))
    assert states.stats().outcomes["missing"] == 2
    store.close()


def test_any_ranker_is_given_the_history(serve):
    seen = []

    class Seeing(LargestIdFirst):
        def rank(self, requests):
            seen.extend(requests)
            return super().rank(requests)

    served = serve(0, Seeing())

    async def story():
        await served.append([append_of(7, 0, 3)])
        asked = [make_request(history=FROM_STORE, time_ms=2**62), make_request()]
        return await served.rank(0, asked)

    responses = asyncio.run(story())
    assert [response.watermark for response in responses] == [3, None]
    assert [len(request.history) for request in seen] == [3, 2]
    assert seen[0].history.ids_T.tolist() == life_of(7, 3).ids_T.tolist()


def test_without_a_store_nobody_has_a_history():
    served = RankerDeployment(SETTINGS, [Slot(Loaded(0, LargestIdFirst()))])
    with pytest.raises(NoStoreError, match="history is the service's, must be given"):
        asyncio.run(served.rank(0, [make_request(history=FROM_STORE)]))
    for call in (served.append([append_of(7, 0, 1)]), served.user(7), served.erase(7)):
        with pytest.raises(NoStoreError, match="sequence_store == None"):
            asyncio.run(call)


def test_slots_from_files_keep_states_of_the_versions_in_memory(tmp_path):
    write_items(tmp_path / "items.parquet", ITEMS)

    def publish(version, name="ifa"):
        learner = Learner(
            dataclasses.replace(CONFIG, name=name), TrainingConfig(), ITEMS, seed=version
        )
        folder = version_folder(tmp_path / name, version)
        save_checkpoint(folder, learner, version=version, log_watermark={}, metrics={})

    for version in range(3):
        publish(version)
    publish(0, name="twin")

    def settings(name):
        slot = SlotSettings(items=str(tmp_path / "items.parquet"), checkpoints=str(tmp_path / name))
        return AppSettings(
            name=name, slots=(slot, slot), sequence_store=str(tmp_path / "store"), state_bytes=10**6
        )

    with pytest.raises(ConfigError, match="'twin' keeps no sequence state"):
        RankerDeployment(settings("twin"))
    served = RankerDeployment(settings("ifa"))

    async def story():
        await served.append([append_of(7, 0, 100, items=N)])
        asked = request_of(7, 100, FROM_STORE)
        whole = dataclasses.replace(asked, history=life_of(7, 100, N))
        for version in (2, 1, 0, 0):  # two are in memory at most
            (response,) = await served.rank(1, [asked], version, exact=True)
            model = load_model(version_folder(tmp_path / "ifa", version), ITEMS)
            (expected,) = ModelRanker(model, ITEMS, version).rank([whole])
            np.testing.assert_allclose(response.scores_K, expected.scores_K, rtol=0, atol=TOLERANCE)
        return (await served.models())["states"]

    try:
        idle, used = asyncio.run(story())
    finally:
        served.close()
    assert idle["states"] == 0
    assert used["states"] == 2  # of versions 2 and 0
    assert used["max_bytes"] == 500_000
    assert used["outcomes"]["missing"] == 3
    assert used["outcomes"]["hit"] == 1
