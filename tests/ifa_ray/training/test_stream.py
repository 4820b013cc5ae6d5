"""Versions follow the log, whatever happens to the process that makes them."""

import json

import numpy as np
import pytest

from ifa_ray.checkpoints.format import latest_version, load_metrics, version_folder
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_impressions, write_items, write_requests
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.errors import CheckpointError, LogError
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS, OBJECTIVES
from ifa_ray.training.gate import GateConfig, PublicationRefused
from ifa_ray.training.learner import Learner
from ifa_ray.training.stream import StreamSettings, exactly, refusal, train_stream

NUM_ITEMS, CANDIDATES, DAYS, SHARDS = 40, 12, 3, 2


class Stopped(Exception):
    """Stands for a kill: raised where the trainer says that it has published."""


def write_day(folder, key, num_requests):
    """A day of one user per shard, who sees the first three candidates of each request."""
    rng = np.random.default_rng([key.replicate, key.day, key.shard, len(key.arm)])
    user, start = key.shard, (0 if key.arm == WARMUP else 1 + key.day) * 1_000_000
    before = 0 if key.arm == WARMUP else folder.watermarks[key.replicate, user]
    candidates = np.array(
        [rng.permutation(NUM_ITEMS)[:CANDIDATES] for _ in range(num_requests)], np.int32
    ).reshape(num_requests, CANDIDATES)
    times = start + 1_000 * np.arange(num_requests, dtype=np.int64)
    requests = {
        "request_id": (times + user).astype(np.int64),
        "user_id": np.full(num_requests, user, np.int32),
        "time_ms": times,
        "watermark": (before + 3 * np.arange(num_requests)).astype(np.int32),
        "candidates": candidates,
        "channels": np.zeros((num_requests, CANDIDATES), np.int8),
    }
    shown = 3 * num_requests
    impressions = {name: np.zeros(shown, dtype) for name, dtype in IMPRESSION_COLUMNS.items()}
    impressions["request_id"] = np.repeat(requests["request_id"], 3)
    impressions["user_id"] = np.full(shown, user, np.int32)
    impressions["video_id"] = candidates[:, :3].reshape(-1)
    impressions["time_ms"] = np.repeat(times, 3) + np.tile(np.arange(1, 4), num_requests)
    for name in ACTIONS[:3]:
        impressions[name] = rng.integers(0, 2, shown).astype(np.int8)
    folder.watermarks[key.replicate, user] = before + shown
    write_impressions(folder.table("impressions", key), impressions)
    write_requests(folder.table("requests", key), requests)
    write_atomically(folder.table("timings", key), b"")
    write_atomically(folder.state(key), b"")
    folder.commit(key, {})


class Folder(RunFolder):
    watermarks: dict


def make_folder(root, requests_of_day):
    folder = Folder(root)
    object.__setattr__(folder, "watermarks", {})
    ids = np.arange(NUM_ITEMS, dtype=np.int32)
    items = ItemTable(
        video_id_N=ids,
        author_id_N=ids // 4,
        category_N=ids % 5,
        duration_ms_N=1_000 * (ids + 1),
        upload_ms_N=np.zeros(NUM_ITEMS, np.int64),
        content_ND=np.random.default_rng(0).normal(size=(NUM_ITEMS, 4)).astype(np.float32),
    )
    for replicate in range(2):
        write_items(folder.items(replicate), items)
        for shard in range(SHARDS):
            write_day(folder, ShardDay(WARMUP, replicate, 0, shard), 5)
            for day in range(DAYS):
                key = ShardDay("ifa", replicate, day, shard)
                write_day(folder, key, requests_of_day(day))
    return folder


def settings(folder, **changes):
    values = {
        "root": str(folder.root),
        "arm": "ifa",
        "model_seeds": (1, 2),
        "days": DAYS,
        "shards": SHARDS,
        "train_requests_per_day": 6,
        "model": ModelConfig(name="ifa", width=8, tower_widths=(8,), max_history=50),
        "training": TrainingConfig(batch_size=4),
    }
    return StreamSettings(**{**values, **changes})


def never_wait(_seconds):
    raise AssertionError("the whole log is committed, nothing to wait for")


def published(folder):
    return {
        path.relative_to(folder.root).as_posix(): path.read_bytes()
        for path in (folder.root / "models").glob("**/*")
        if path.is_file() and path.name != "optimizer.safetensors"
    }


def train(folder, stop_after=None):
    made = []

    def on_version(replicate, version, _metrics):
        made.append((version, replicate))
        if len(made) == stop_after:
            raise Stopped

    train_stream(settings(folder), on_version, sleep=never_wait)
    return made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"), lambda _day: 4)
    assert train(folder) == [(version, r) for version in range(DAYS + 1) for r in range(2)]
    return published(folder)


@pytest.mark.parametrize("stop_after", range(1, 2 * (DAYS + 1)))
def test_a_trainer_stopped_anywhere_publishes_the_same_bytes(tmp_path, undisturbed, stop_after):
    folder = make_folder(tmp_path, lambda _day: 4)
    with pytest.raises(Stopped):
        train(folder, stop_after)
    assert len(train(folder)) == 2 * (DAYS + 1) - stop_after
    assert published(folder) == undisturbed


def test_settings_survive_the_way_to_a_worker(tmp_path):
    before = settings(RunFolder(tmp_path))
    assert StreamSettings.from_dict(before.to_dict()) == before


def test_a_day_that_is_not_committed_is_waited_for(tmp_path):
    folder = make_folder(tmp_path, lambda _day: 4)
    late = folder.commit_file(ShardDay("ifa", 1, 1, 1))
    record = late.read_bytes()
    late.unlink()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            late.write_bytes(record)

    train_stream(settings(folder), lambda *_: None, sleep=sleep)
    assert waits == [0.1, 0.1, 0.1]
    assert version_folder(folder.models("ifa", 1), DAYS).exists()


def test_every_day_has_as_many_samples_and_only_fresh_ones_are_tested(tmp_path):
    # 2 requests a day from each shard where 6 are learned from: two of the 6 come again.
    folder = make_folder(tmp_path, lambda _day: 2)
    tested = {}
    train_stream(
        settings(folder),
        lambda r, version, metrics: tested.__setitem__((r, version), metrics),
        sleep=never_wait,
    )
    assert {tested[0, version].samples for version in range(1, DAYS + 1)} == {6}
    metrics = load_metrics(version_folder(folder.models("ifa", 0), 1))
    assert metrics["steps"] == 2
    # Of 4 fresh requests with 12 candidates each, calibration is predicted over 12 impressions: it
    # would differ if the repeated ones, of which the model has just learned, were in it.
    fresh = make_folder(tmp_path / "again", lambda _day: 2)
    train_stream(settings(fresh, train_requests_per_day=4), lambda *_: None, sleep=never_wait)
    alone = load_metrics(version_folder(fresh.models("ifa", 0), 1))
    for name in OBJECTIVES:
        assert metrics["calibration"][name] == pytest.approx(alone["calibration"][name])


def test_a_day_on_which_nobody_came_goes_over_the_last_one(tmp_path):
    folder = make_folder(tmp_path, lambda day: 0 if day == 1 else 4)
    made = train(folder)
    assert made[-1] == (DAYS, 1)
    metrics = load_metrics(version_folder(folder.models("ifa", 0), 2))
    assert (metrics["samples"], metrics["auc"]["impression"]) == (6, None)


def test_more_samples_than_needed_are_taken_evenly_over_the_day():
    assert exactly(list(range(10)), 5) == [0, 2, 4, 6, 8]


def test_fewer_samples_than_needed_are_gone_over_again():
    assert exactly(["a", "b"], 5) == ["a", "b", "a", "b", "a"]


def test_no_samples_at_all_are_an_error():
    with pytest.raises(LogError, match="len\\(requests\\) == 0"):
        exactly([], 5)


def test_every_version_was_judged_and_the_decision_is_kept(tmp_path):
    folder = make_folder(tmp_path, lambda _day: 4)
    train(folder)
    for replicate in range(2):
        for version in range(DAYS + 1):
            found = json.loads(folder.gate("ifa", replicate, version).read_bytes())
            assert (found["version"], found["passed"]) == (version, True)
    assert refusal(settings(folder)) is None


def test_a_refused_version_stops_the_arm_and_is_tried_again_alike(tmp_path):
    folder = make_folder(tmp_path, lambda _day: 4)
    # The loss and the AUC of few requests never improve in every version of both replicates.
    strict = GateConfig(max_loss_ratio=1.000001, max_auc_drop=0.0, min_positives=1)
    said = []
    for _ in range(2):
        with pytest.raises(PublicationRefused) as stopped:
            train_stream(settings(folder, gate=strict), lambda *_: None, sleep=never_wait)
        said.append(str(stopped.value))
    assert said[0] == said[1]
    assert refusal(settings(folder)).endswith(said[0])
    newest = {r: latest_version(folder.models("ifa", r)) for r in range(2)}
    assert min(newest.values()) < DAYS
    assert "stays the newest" in said[0]


def test_a_loss_that_is_not_finite_is_refused_and_the_last_good_version_stays(
    tmp_path, monkeypatch
):
    folder = make_folder(tmp_path, lambda _day: 4)
    step = Learner.step

    def explode(self, samples):
        if self.steps == 4:
            next(self.model.towers.parameters()).data.fill_(float("inf"))
        return step(self, samples)

    monkeypatch.setattr(Learner, "step", explode)
    with pytest.raises(PublicationRefused, match=r"loss == .*must be finite.*stays the newest"):
        train(folder)
    assert latest_version(folder.models("ifa", 0)) == 0
    assert "must be finite" in refusal(settings(folder))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_seeds": (7, 2)}, "seed"),
        ({"training": TrainingConfig(batch_size=2)}, "training"),
        ({"model": ModelConfig(name="ifa", width=16, tower_widths=(8,), max_history=50)}, "model"),
    ],
)
def test_a_fresh_training_never_goes_on_from_anothers_versions(tmp_path, change, field):
    folder = make_folder(tmp_path, lambda _day: 4)
    with pytest.raises(Stopped):
        train(folder, stop_after=2)
    with pytest.raises(CheckpointError, match=f"{field} == .*it is of another training"):
        train_stream(settings(folder, **change), lambda *_: None, sleep=never_wait)
