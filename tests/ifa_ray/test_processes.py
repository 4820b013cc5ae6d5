"""Worker pools: what is prepared, and that no worker outlives what it works for."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ifa_ray.processes import usable_cores, worker_pool

ROOT = Path(__file__).parents[2]


def test_workers_are_prepared_before_they_work():
    with worker_pool(1, os.putenv, "IFA_TEST_WORD", "prepared") as pool:
        done = pool.submit(subprocess.check_output, ["printenv", "IFA_TEST_WORD"]).result()
    assert done == b"prepared\n"
    assert multiprocessing.active_children() == []


def test_a_failure_ends_workers_at_once():
    def fail() -> None:
        with worker_pool(1) as pool:
            pool.submit(time.sleep, 100)
            raise KeyError

    started = time.monotonic()
    with pytest.raises(KeyError):
        fail()
    assert time.monotonic() - started < 60
    assert multiprocessing.active_children() == []


def test_workers_end_with_a_killed_parent():
    program = (
        "import os, time\nfrom ifa_ray.processes import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        pool.submit(time.sleep, 100).result()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([worker], timeout=30)
    assert alive == []


def test_cores_are_counted():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
