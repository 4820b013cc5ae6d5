import asyncio
import json
import logging
import threading

import numpy as np
import pytest
from lives import append_of, life_of
from serving_fakes import LargestIdFirst, make_request, small_training

from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.ranker import ModelRanker
from ifa_ray.schema import FROM_STORE, RankResponse
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.history_chunks import part
from ifa_ray.serving.sequence_store import SequenceStore
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.shadow import Shadow
from ifa_ray.serving.shadow_files import LineLog
from ifa_ray.serving.slots import Loaded
from ifa_ray.training.checkpoint import load_model, version_folder


class SmallestIdFirst:
    """Ranks by id, score = -id, once it is let; what it was asked is in `asked`."""

    def __init__(self):
        self.let, self.asked = threading.Event(), []
        self.let.set()

    def rank(self, requests):
        self.asked += requests
        assert self.let.wait(10)
        return [
            RankResponse(
                request_id=request.request_id,
                ids_K=np.sort(request.candidates_C)[: request.k],
                scores_K=-np.sort(request.candidates_C)[: request.k].astype(np.float32),
                model_version=0,
            )
            for request in requests
        ]


class Watched:
    """A shadow, its lines and its counts; `settled` waits for an end of so many answers."""

    def __init__(self, ranker=None, version=4, **kwargs):
        self.ranker = ranker or SmallestIdFirst()
        self.lines, self.counts = [], {}
        self._changed = threading.Condition()
        self.shadow = Shadow(
            Loaded(version, self.ranker),
            write=lambda line: self.lines.append(json.loads(line)),
            count=self._count,
            **{"share": 1.0, "queue": 3, **kwargs},
        )

    def _count(self, outcome, answers):
        with self._changed:
            self.counts[outcome] = self.counts.get(outcome, 0) + answers
            self._changed.notify_all()

    def settled(self, answers):
        with self._changed:
            assert self._changed.wait_for(lambda: sum(self.counts.values()) >= answers, 10)
        return self.counts

    def offer(self, *requests):
        self.shadow.offer(requests, LargestIdFirst(3).rank(requests))


@pytest.fixture
def watched():
    made = []

    def make(*args, **kwargs):
        made.append(Watched(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.ranker.let.set()
        one.shadow.close()


def test_a_line_holds_what_was_answered_and_what_the_shadow_says(watched):
    one = watched()
    one.offer(make_request(11))
    assert one.settled(1) == {"logged": 1}
    (line,) = one.lines
    assert line.pop("shadow_rank_ms") >= 0
    assert line == {
        "request_id": 11,
        "version": 3,
        "ids": [9, 4],
        "scores": [9.0, 4.0],
        "rank_ms": 1.5,
        "shadow_version": 4,
        "shadow_ids": [3, 4],
        "shadow_scores": [-3.0, -4.0],
    }
    assert one.shadow.outcomes == {"logged": 1}


def test_a_line_names_no_user(watched):
    one = watched()
    one.offer(make_request(user_id=987_654_321))
    one.settled(1)
    assert "987654321" not in json.dumps(one.lines)


def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(watched):
    one = watched(queue=3)
    one.ranker.let.clear()
    one.offer(make_request(0))
    while not one.ranker.asked:  # it is at the first
        pass
    one.offer(*(make_request(i) for i in range(1, 10)))
    assert one.counts == {"dropped": 6}
    one.ranker.let.set()
    assert one.settled(10) == {"dropped": 6, "logged": 4}
    assert [line["request_id"] for line in one.lines] == [0, 1, 2, 3]


def test_long_histories_fill_the_queue_before_it_is_full(watched, monkeypatch):
    monkeypatch.setattr("ifa_ray.serving.shadow._MAX_NUMBERS", 25)
    one = watched(queue=100)
    one.ranker.let.clear()
    one.offer(make_request(0))
    while not one.ranker.asked:
        pass
    one.offer(*(make_request(i) for i in range(1, 10)))  # 3 candidates and 2 behaviours each
    assert one.counts == {"dropped": 4}
    one.ranker.let.set()
    one.settled(10)
    one.offer(make_request(10))  # there is room again
    assert one.settled(11)["logged"] == 7


@pytest.mark.parametrize(("share", "rest"), [(1.0, 0.0), (0.5, 2.0), (0.1, 18.0)])
def test_it_rests_until_it_was_busy_for_no_more_than_its_share(watched, share, rest):
    times = iter([10.0, 12.0])
    rested = []
    one = watched(share=share, clock=lambda: next(times))
    one.shadow._rest = rested.append
    one.offer(make_request())
    one.settled(1)
    one.shadow.close()
    assert rested == pytest.approx([rest])


def test_it_rests_no_longer_than_until_it_is_closed(watched):
    times = iter([0.0, 1e6])
    one = watched(share=0.01, clock=lambda: next(times))
    one.offer(make_request())
    one.settled(1)
    one.shadow.close()
    assert not one.shadow._thread.is_alive()


def test_what_waits_when_it_is_closed_is_dropped_and_what_comes_then_too(watched):
    one = watched()
    one.ranker.let.clear()
    one.offer(make_request(0), make_request(1))
    while not one.ranker.asked:
        pass
    closing = threading.Thread(target=one.shadow.close)
    closing.start()
    one.settled(1)
    one.ranker.let.set()
    closing.join()
    one.offer(make_request(2))
    assert one.counts == {"dropped": 2, "logged": 1}


def test_errors_of_a_version_are_counted_and_said_once(watched, monkeypatch):
    said = []
    monkeypatch.setattr(
        logging.getLogger("ray.serve"), "warning", lambda *words: said.append(words)
    )

    class Fragile(SmallestIdFirst):
        def rank(self, requests):
            if requests[0].request_id < 3:
                raise ZeroDivisionError("a bad layer")
            return super().rank(requests)

    one = watched(Fragile())
    for i in range(4):
        one.offer(make_request(i))
        one.settled(i + 1)
    assert one.counts == {"failed": 3, "logged": 1}
    ((_, version, error),) = said
    assert (version, str(error)) == (4, "a bad layer")


def test_stored_histories_are_read_as_long_as_the_answers_was(watched, tmp_path):
    store = SequenceStore(tmp_path)
    store.append([append_of(7, 0, 9)])
    one = watched(store=store)
    asked = make_request(history=FROM_STORE, time_ms=2**61)
    (answer,) = LargestIdFirst(3).rank([asked])
    # Between the answer and its shadow the user has gone on.
    object.__setattr__(answer, "watermark", 5)
    one.shadow.offer([asked], [answer])
    assert one.settled(1) == {"logged": 1}
    (seen,) = one.ranker.asked
    np.testing.assert_array_equal(seen.history.ids_T, part(life_of(7, 9), 0, 5).ids_T)
    store.erase(7)
    one.shadow.offer([asked], [answer])
    assert one.settled(2) == {"logged": 1, "dropped": 1}
    one.shadow.close()
    store.close()


@pytest.mark.parametrize(("setting", "value"), [("share", 0.0), ("share", 1.1), ("queue", 0)])
def test_a_setting_outside_its_rule_is_refused(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} == {value}"):
        Watched(**{setting: value})


def test_a_full_file_is_turned_over_and_the_oldest_lines_go(tmp_path):
    log = LineLog(tmp_path / "deep" / "x.jsonl", max_bytes=100)
    for i in range(60):
        log.write(f"{i:09}")  # ten bytes with its end
    files = sorted((tmp_path / "deep").iterdir())
    assert [path.name for path in files] == ["x.jsonl", "x.jsonl.1", "x.jsonl.2", "x.jsonl.3"]
    assert all(path.stat().st_size == 100 for path in files)
    lines = "".join(path.read_text() for path in (files[3], files[2], files[1], files[0]))
    assert [int(line) for line in lines.split()] == list(range(20, 60))


def test_a_line_longer_than_a_file_is_still_one_line(tmp_path):
    log = LineLog(tmp_path / "x.jsonl", max_bytes=10)
    log.write("a" * 50)
    log.write("b")
    assert (tmp_path / "x.jsonl").read_text() == "b\n"
    assert (tmp_path / "x.jsonl.1").read_text() == "a" * 50 + "\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A catalogue and two versions of a model."""
    folder = tmp_path_factory.mktemp("shadow")
    return folder, small_training(folder, versions=2)


def settings(folder, **shadow):
    slot = {"items": str(folder / "items.parquet"), "checkpoints": str(folder / "models")}
    shadow = {"log": str(folder / "log"), "share": 1.0, **shadow}
    return AppSettings.model_validate(
        {"name": "arm", "slots": [{**slot, "version": 0, "shadow": shadow}, slot]}
    )


def test_a_replica_answers_with_one_version_and_logs_the_others_scores(files, tmp_path):
    folder, items = files
    served = RankerDeployment(settings(folder, log=str(tmp_path / "log")))
    asked = make_request(5, candidates=range(12), k=4)

    async def story():
        (answer,) = await served.rank(0, [asked])
        await served.rank(1, [asked])  # a slot without a shadow
        while not (await served.models())["slots"][0]["shadow"]["answers"]:
            await asyncio.sleep(0.01)
        return answer, (await served.models())["slots"]

    answer, slots = asyncio.run(story())
    served.close()
    assert slots[0]["shadow"] == {"version": 1, "answers": {"logged": 1}}
    assert "shadow" not in slots[1]
    (path,) = (tmp_path / "log").iterdir()
    (line,) = map(json.loads, path.read_text().splitlines())
    for version, prefix in ((0, ""), (1, "shadow_")):
        model = load_model(version_folder(folder / "models", version), items)
        (expected,) = ModelRanker(model, items, version).rank([asked])
        assert line[f"{prefix}version"] == version
        assert line[f"{prefix}ids"] == expected.ids_K.tolist()
        assert line[f"{prefix}scores"] == expected.scores_K.tolist()
    assert (answer.model_version, answer.ids_K.tolist()) == (0, line["ids"])


def test_a_version_of_a_shadow_that_is_not_there_is_an_error_at_the_start(files):
    with pytest.raises(CheckpointError, match="version=00007"):
        RankerDeployment(settings(files[0], version=7))
    with pytest.raises(ConfigError, match=r"slots\[0\].shadow.checkpoints == 'nowhere', must exi"):
        RankerDeployment(settings(files[0], checkpoints="nowhere"))


def test_a_shadow_of_a_slot_without_checkpoints_names_its_own():
    slot = {"items": "items", "shadow": {"log": "log"}}
    with pytest.raises(ValueError, match=r"shadow.checkpoints == None, must be a folder"):
        AppSettings.model_validate({"name": "x", "slots": [slot], "ranker": "a:B"})
    slot["shadow"]["checkpoints"] = "models"
    AppSettings.model_validate({"name": "x", "slots": [slot], "ranker": "a:B"})
