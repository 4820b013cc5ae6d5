"""The real command, really killed: SIGKILL at its worst moments, then the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_logs import contents, train_arguments, write_run

from ifa_ray.cli import main

ROOT = Path(__file__).parents[3]
# Tables large enough that writing a version takes a while, so that a kill hits the middle of it.
FLAGS = "--model ifa_plus --id-buckets 150000 --publish-every 8 --metrics-every 3 --keep 2"


def command(log: Path, out: Path, *more: str) -> list[str]:
    return train_arguments(log, out, *FLAGS.split(), *more)


def half_written(out: Path, version: int) -> bool:
    return bool(list((out / "models").glob(f".version={version:05d}.*.tmp/model.safetensors")))


def published(out: Path, version: int) -> bool:
    return (out / "models" / f"version={version:05d}").exists()


def kill_when(log: Path, out: Path, condition, *more: str) -> None:
    arguments = [sys.executable, "-m", "ifa_ray", *command(log, out, *more)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.timeout(400)
def test_a_command_killed_while_publishing_and_after_resumes_to_the_same_bytes(tmp_path, capsys):
    log = write_run(tmp_path / "log").root
    quiet = tmp_path / "quiet"
    assert main(command(log, quiet)) == 0
    out = tmp_path / "killed"
    kill_when(log, out, lambda: half_written(out, 1))
    assert not published(out, 1)
    assert half_written(out, 1), "a kill leaves what it interrupts"
    kill_when(log, out, lambda: published(out, 3), "--resume")
    capsys.readouterr()
    assert main(command(log, out, "--resume")) == 0
    expected = contents(quiet)
    assert contents(out).keys() == expected.keys()
    for name, data in contents(out).items():
        # The settings name the same log and hold no --out.
        assert data == expected[name], name
    assert not [name for name in os.listdir(out / "models") if name.endswith(".tmp")]
    assert "whole" not in capsys.readouterr().err
