"""Training on a log that is there: versions, rows, resuming at every durable step, refusals."""

import functools
import json
import os
from pathlib import Path

import pytest
from tiny_logs import contents, read, settings, train, write_run

from ifa_ray.checkpoints.format import (
    has_optimizer,
    published_versions,
    read_record,
    version_folder,
)
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.training.driver import GateConfig, PublicationRefused
from ifa_ray.training.learner import Learner
from ifa_ray.training.offline import Keep
from ifa_ray.training.offline_folder import OfflineFolder
from ifa_ray.training.versions import roll_back


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("log")).root


@pytest.fixture(scope="module")
def stream(log):
    return read(log)


@pytest.fixture(scope="module")
def undisturbed(log, stream, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert train(out, settings(log), stream) == [0, 1, 2, 3]
    return out


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_each_day_makes_a_version_and_a_row(undisturbed):
    found = rows(undisturbed)
    assert [(row["version"], row["window"]) for row in found] == [
        (day, f"1970-01-0{day + 1}") for day in range(4)
    ]
    assert [row["requests_so_far"] for row in found] == [12, 24, 36, 48]
    assert [json.loads(p.read_text())["passed"] for p in (undisturbed / "gates").iterdir()] == (
        [True] * 4
    )


def test_rows_are_what_a_plain_learner_tests(undisturbed, log, stream):
    learner = Learner(settings(log).model, settings(log).training, stream.items, 0)
    for row in rows(undisturbed):
        start = row["requests_so_far"] - row["requests"]
        metrics = learner.train(stream.samples[start : row["requests_so_far"]])
        for name in ("auc", "gauc", "log_loss", "calibration"):
            assert row[name] == getattr(metrics, name)


def test_rows_by_hour_and_by_count_hold_the_same_requests(log, stream, tmp_path):
    train(tmp_path / "hour", settings(log, metrics_every="hour"), stream)
    train(tmp_path / "count", settings(log, metrics_every="5", publish_every="7"), stream)
    hours, counts = rows(tmp_path / "hour"), rows(tmp_path / "count")
    assert len(hours) == 4 * 6
    assert all(row["requests"] == 2 for row in hours), "one of each user in every hour"
    assert sum(row["requests"] for row in counts) == len(stream.samples)
    # Versions of 7 and windows of 5: no row tests two versions.
    assert [row["requests"] for row in counts][:5] == [5, 2, 3, 4, 1]


class Killed(BaseException):
    """Stands for SIGKILL at a durable step; `test_train_kill` sends the real one."""


def steps_until_the_end(monkeypatch, limit, work):
    """Runs work, which does no durable step from that number on; None counts them."""
    count = 0

    def counted(original):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if limit is not None and count >= limit:
                raise Killed
            return original(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", counted(os.rename))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(OfflineFolder, "write_rows", counted(OfflineFolder.write_rows))
        work()
    return count


def test_a_training_stopped_at_any_durable_step_resumes_to_the_same_bytes(
    log, stream, undisturbed, tmp_path, monkeypatch
):
    total = steps_until_the_end(
        monkeypatch, None, lambda: train(tmp_path / "all", settings(log), stream)
    )
    assert total > 60
    expected = contents(undisturbed)
    assert contents(tmp_path / "all") == expected
    # A stride that is coprime to the pattern of a version's steps.
    for limit in range(1, total, 5):
        out = tmp_path / f"killed-{limit}"
        with pytest.raises(Killed):
            steps_until_the_end(
                monkeypatch, limit, functools.partial(train, out, settings(log), stream)
            )
        train(out, settings(log), stream, resume=True)
        assert contents(out) == expected, limit


def test_a_log_that_has_grown_is_gone_on_with(log, stream, undisturbed, tmp_path):
    short = write_run(tmp_path / "log", days=1)
    out = tmp_path / "out"
    asked = settings(log)
    assert train(out, asked, read(short.root)) == [0, 1]
    assert train(out, asked, stream, resume=True) == [2, 3]
    assert contents(out) == contents(undisturbed)


def test_a_log_that_changed_or_shrank_is_refused(log, stream, tmp_path):
    out, asked = tmp_path / "out", settings(log)
    train(out, asked, stream)
    with pytest.raises(LogError, match="36 requests, must have the 48"):
        train(out, asked, read(write_run(tmp_path / "short", days=2).root), resume=True)
    other = read(write_run(tmp_path / "other", days=4, per_day=5).root, max_requests=50)
    with pytest.raises(LogError, match="first 48 requests of the log are not those"):
        train(out, asked, other, resume=True)


def test_versions_are_never_gone_on_from_by_accident(log, stream, undisturbed, tmp_path):
    with pytest.raises(ConfigError, match="it holds version 3"):
        train(undisturbed, settings(log), stream)
    with pytest.raises(ConfigError, match="seed == 1, must be 0"):
        train(undisturbed, settings(log, seed=1), stream, resume=True)
    other = settings(log, training={"batch_size": 2})
    with pytest.raises(ConfigError, match="batch_size == 2, must be 4"):
        train(undisturbed, other, stream, resume=True)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"must be absent, empty or of a training.*thesis\.tex"):
        train(tmp_path, settings(log), stream)


def test_two_processes_cannot_train_in_one_folder(log, stream, tmp_path):
    with (
        OfflineFolder(tmp_path).locked(),
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        train(tmp_path, settings(log), stream)


def test_the_last_versions_and_one_of_each_day_stay(log, stream, tmp_path):
    asked = settings(log, publish_every="4", metrics_every="4")
    train(tmp_path, asked, stream, keep=Keep(keep=2))
    # Three versions a day; those of days end at 2, 5, 8 and 11.
    assert published_versions(tmp_path / "models") == [2, 5, 8, 10, 11]
    whole = [v for v in range(12) if has_optimizer(version_folder(tmp_path / "models", v))]
    assert whole == [10, 11]
    lean = tmp_path / "lean"
    train(lean, asked, stream, keep=Keep(keep=1, daily=False))
    assert published_versions(lean / "models") == [11]
    assert rows(lean) == rows(tmp_path), "metrics of deleted versions stay"


def test_a_refused_version_is_not_there_and_the_last_good_one_stays(log, stream, tmp_path):
    strict = GateConfig(max_auc_drop=0.0, min_positives=1)
    with pytest.raises(PublicationRefused, match=r"version (\d) is not published.*max_auc_drop"):
        # AUCs of 36 positives go up and down, so no training never falls.
        train(tmp_path, settings(log, publish_every="12"), stream, gate=strict)
    bad = published_versions(tmp_path / "models")[-1] + 1
    decision = json.loads((tmp_path / "gates" / f"version={bad:05d}.json").read_text())
    assert not decision["passed"]
    assert decision["gate"]["max_auc_drop"] == 0.0
    assert [row["version"] for row in rows(tmp_path)] == list(range(bad))
    # The gate is no part of what the training is: with another one it goes on.
    assert train(tmp_path, settings(log, publish_every="12"), stream, resume=True)[0] == bad
    assert json.loads((tmp_path / "gates" / f"version={bad:05d}.json").read_text())["passed"]


def test_an_exploding_loss_stops_before_publishing(log, stream, tmp_path, monkeypatch):
    step = Learner.step

    def explode(self, samples):
        if self.steps == 8:
            with_grad = self.model.towers.parameters()
            next(with_grad).data.fill_(float("nan"))
        return step(self, samples)

    monkeypatch.setattr(Learner, "step", explode)
    with pytest.raises(PublicationRefused, match=r"loss == nan.*version 1 stays the newest"):
        train(tmp_path, settings(log), stream)
    assert published_versions(tmp_path / "models") == [0, 1]
    assert not json.loads((tmp_path / "gates" / "version=00002.json").read_text())["passed"]
    monkeypatch.setattr(Learner, "step", step)
    assert train(tmp_path, settings(log), stream, resume=True) == [2, 3]


def test_a_rollback_is_the_earlier_version_under_the_next_number(log, stream, tmp_path):
    train(tmp_path, settings(log), stream, keep=Keep(keep=4))
    folder = OfflineFolder(tmp_path)
    assert roll_back(folder, 1, skip=False) == 4
    one, four = (version_folder(folder.models, v) for v in (1, 4))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one / name).read_bytes() == (four / name).read_bytes()
    assert read_record(four)["version"] == 4
    assert read_record(four)["log_watermark"] == read_record(one)["log_watermark"]
    before = rows(tmp_path)
    # The same requests after the same version are the same metrics again.
    assert train(tmp_path, settings(log), stream, resume=True) == [5, 6]
    after = rows(tmp_path)
    assert after[:4] == before
    for again, once in zip(after[4:], before[2:], strict=True):
        assert {**again, "version": once["version"]} == once


def test_a_rollback_can_leave_out_what_was_bad(log, stream, tmp_path):
    train(tmp_path, settings(log), stream, keep=Keep(keep=4))
    folder = OfflineFolder(tmp_path)
    roll_back(folder, 1, skip=True)
    four = read_record(version_folder(folder.models, 4))
    assert four["log_watermark"]["requests"] == 48
    assert train(tmp_path, settings(log), stream, resume=True) == []
