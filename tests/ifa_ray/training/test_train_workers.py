"""`train --workers 2`: as one worker to rounding, as itself to the byte, whoever is killed."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from tiny_logs import contents, settings, write_run

from ifa_ray.cli import main
from ifa_ray.errors import ConfigError
from ifa_ray.training.checkpoint import latest_version, load_checkpoint, version_folder
from ifa_ray.training.offline import OfflineSettings

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[3]
# Versions of 7 and batches of 3: parts of 2 and 1, and a last batch of one request. The tables are
# large enough that training still goes on when a kill comes.
FLAGS = ("--model", "ifa_plus", "--width", "8", "--tower-widths", "8", "--max-history", "50",
         "--id-buckets", "50000", "--author-buckets", "16", "--user-buckets", "8",
         "--batch-size", "3", "--publish-every", "7", "--metrics-every", "5",
         "--evict-after-requests", "9")  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("log")).root


def command(log, out, *more):
    return ["train", "--data", str(log), "--arm", "ifa", "--out", str(out), *FLAGS, *more]


@pytest.fixture(scope="module")
def together(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "out"
    assert main(command(log, out, "--workers", "2")) == 0
    return out


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_workers_make_what_one_makes_to_rounding(log, together, tmp_path):
    assert main(command(log, tmp_path / "alone")) == 0
    for one, two in zip(rows(tmp_path / "alone"), rows(together), strict=True):
        counts = ("version", "window", "first_ms", "last_ms", "requests_so_far", "positives")
        assert [one[name] for name in counts] == [two[name] for name in counts]
        assert one.get("evicted") == two.get("evicted")
        # Candidates whose scores are equal but for rounding may change places in an AUC.
        for metric, allowed in (("log_loss", 1e-3), ("calibration", 1e-3), ("auc", 0.02),
                                ("gauc", 0.02)):  # fmt: skip
            for objective, value in one[metric].items():
                expected = None if value is None else pytest.approx(value, abs=allowed)
                assert two[metric][objective] == expected, (metric, objective)
    assert sum(row.get("evicted", {}).get("item", 0) for row in rows(together)) > 0
    newest = latest_version(together / "models")
    assert newest == latest_version(tmp_path / "alone" / "models") == 6
    alone, both = (
        load_checkpoint(version_folder(out / "models", newest)).arrays.model
        for out in (tmp_path / "alone", together)
    )
    for name, tensor in alone.items():
        torch.testing.assert_close(both[name], tensor, atol=2e-3, rtol=1e-2, msg=name)


def start(log, out, *more):
    with (out.parent / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "ifa_ray", *command(log, out, "--workers", "2", *more)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip


def workers_once_published(process, out, version):
    """The worker processes, by rank, at the moment at which a version lies there."""
    deadline = time.monotonic() + 120
    while not (out / "models" / f"version={version:05d}").exists():
        assert process.poll() is None, (out.parent / "err").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
    return sorted(found, key=lambda child: child.create_time())


def test_a_killed_worker_ends_the_command_and_a_killed_command_its_workers(log, together, tmp_path):
    out = tmp_path / "out"
    process = start(log, out)
    ranks = workers_once_published(process, out, 1)
    assert len(ranks) == 2
    ranks[1].kill()
    assert process.wait(timeout=60) == 4
    said = (tmp_path / "err").read_text()
    assert "failed: worker 1 of 2 was killed by SIGKILL; the others were stopped." in said
    assert "Traceback" not in said

    process = start(log, out, "--resume")
    ranks = workers_once_published(process, out, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert alive == []

    (out / "plots" / ".log_loss.svg.17.tmp").write_text("what it was writing")
    assert main(command(log, out, "--workers", "2", "--resume")) == 0
    expected = contents(together)
    assert contents(out).keys() == expected.keys()
    for name, data in contents(out).items():
        assert data == expected[name], name


def test_a_loss_that_explodes_stops_all_with_the_gates_reason(log, tmp_path, capsys):
    assert main(command(log, tmp_path / "out", "--workers", "2", "--learning-rate", "1e30")) == 3
    said = capsys.readouterr().err
    assert "refused: version" in said
    assert "must be finite" in said
    newest = latest_version(tmp_path / "out" / "models")
    gate = tmp_path / "out" / "gates" / f"version={0 if newest is None else newest + 1:05d}.json"
    assert not json.loads(gate.read_text())["passed"]


def test_a_mistake_is_one_line_from_all_workers(log, tmp_path, capsys):
    assert main(command(log, tmp_path / "out", "--workers", "2", "--arm", "twin")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_more_workers_than_requests_in_a_batch_are_refused(log, tmp_path, capsys):
    assert main(command(log, tmp_path / "out", "--workers", "4")) == 2
    said = capsys.readouterr().err
    assert "workers == 4, must be <= batch_size, 3: each has its part of a batch" in said


def test_a_training_is_not_gone_on_with_by_another_number_of_workers(log, together, capsys):
    assert main(command(log, together, "--resume")) == 2
    assert "workers == 'its default', must be 2, with which" in capsys.readouterr().err


def test_the_learned_set_step_learns_in_one_worker_alone():
    with pytest.raises(ConfigError, match="workers == 2, must be 1 where set_step == 'learned'"):
        settings("x", workers=2, model={"name": "ifa", "set_step": "learned"})


def test_one_worker_is_a_training_of_before_there_could_be_more():
    one, two = settings("x"), settings("x", workers=2)
    assert "workers" not in one.to_dict()
    for each in (one, two):
        assert OfflineSettings.from_dict(each.to_dict()) == each
