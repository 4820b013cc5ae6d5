"""Versions follow the log, whatever happens to the process that makes them."""

import pytest
from tiny_logs import commit_all, write_run

from ifa_ray.checkpoints.format import latest_version, load_metrics, version_folder
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.run_folder import ShardDay
from ifa_ray.errors import CheckpointError, LogError
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.driver import GateConfig, PublicationRefused
from ifa_ray.training.stream import StreamSettings, exactly, refusal, train_stream

DAYS, SHARDS = 3, 2


class Stopped(Exception):
    """Stands for a kill: raised where the trainer says that it has published."""


def make_folder(root, per_day=4):
    folder = write_run(root, DAYS, per_day, replicates=2)
    commit_all(folder)
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
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    assert train(folder) == [(version, r) for version in range(DAYS + 1) for r in range(2)]
    return published(folder)


@pytest.mark.parametrize("stop_after", range(1, 2 * (DAYS + 1)))
def test_a_trainer_stopped_anywhere_publishes_the_same_bytes(tmp_path, undisturbed, stop_after):
    folder = make_folder(tmp_path)
    with pytest.raises(Stopped):
        train(folder, stop_after)
    assert len(train(folder)) == 2 * (DAYS + 1) - stop_after
    assert published(folder) == undisturbed


def test_a_day_that_is_not_committed_is_waited_for(tmp_path):
    folder = make_folder(tmp_path)
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
    folder = make_folder(tmp_path, 2)
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
    fresh = make_folder(tmp_path / "again", 2)
    train_stream(settings(fresh, train_requests_per_day=4), lambda *_: None, sleep=never_wait)
    alone = load_metrics(version_folder(fresh.models("ifa", 0), 1))
    for name in OBJECTIVES:
        assert metrics["calibration"][name] == pytest.approx(alone["calibration"][name])


def test_a_day_on_which_nobody_came_goes_over_the_last_one(tmp_path):
    folder = make_folder(tmp_path, [4, 0, 4])
    made = train(folder)
    assert made[-1] == (DAYS, 1)
    metrics = load_metrics(version_folder(folder.models("ifa", 0), 2))
    assert (metrics["samples"], metrics["auc"]["impression"]) == (6, None)


def test_samples_are_taken_evenly_over_the_day_or_gone_over_again():
    assert exactly(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert exactly(["a", "b"], 5) == ["a", "b", "a", "b", "a"]


def test_no_samples_at_all_are_an_error():
    with pytest.raises(LogError, match="len\\(requests\\) == 0"):
        exactly([], 5)


def test_a_refused_version_stops_the_arm_and_is_tried_again_alike(tmp_path):
    folder = make_folder(tmp_path)
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


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_seeds": (7, 2)}, "seed"),
        ({"training": TrainingConfig(batch_size=2)}, "training"),
        ({"model": ModelConfig(name="ifa", width=16, tower_widths=(8,), max_history=50)}, "model"),
    ],
)
def test_a_fresh_training_never_goes_on_from_anothers_versions(tmp_path, change, field):
    folder = make_folder(tmp_path)
    with pytest.raises(Stopped):
        train(folder, stop_after=2)
    with pytest.raises(CheckpointError, match=f"{field} == .*it is of another training"):
        train_stream(settings(folder, **change), lambda *_: None, sleep=never_wait)
