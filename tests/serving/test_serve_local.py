"""`python -m ifa_ray serve --local`: what it prints works, and Ctrl-C leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from private_cluster import MARK, ROOT, free_ports
from test_serve_deploy import make_items, make_learner

from ifa_ray.checkpoints.format import save_checkpoint, version_folder
from ifa_ray.data.log import write_items
from ifa_ray.data.run_folder import RunFolder


def command(*arguments):
    return [sys.executable, "-m", "ifa_ray", "serve", *map(str, arguments)]


@pytest.fixture
def run_folder(tmp_path):
    run, items = RunFolder(tmp_path / "run"), make_items()
    write_items(run.items(0), items)
    folder = version_folder(run.models("ifa", 0), 4)
    save_checkpoint(folder, make_learner(items, 0), version=4, log_watermark={}, metrics={})
    return run.root


@pytest.mark.cluster
def test_the_printed_request_works_and_ctrl_c_ends_everything(run_folder, tmp_path):
    (port,) = free_ports(1)
    environment = {**os.environ, MARK: str(tmp_path)}
    served = subprocess.Popen(
        command("--local", run_folder, "--port", port, "--histories", tmp_path / "histories"),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        printed = []
        for line in served.stdout:
            printed.append(line)
            if "stop: Ctrl-C" in line:
                break
        (curl,) = [line for line in printed if line.startswith("curl ")]
        answer = subprocess.run(["bash", "-ec", curl], capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["model_version"] == 4
        assert len(json.loads(answer.stdout)["ids"]) == 3
        assert (tmp_path / "histories" / "histories.sqlite3").exists()
        listening = {
            connection.laddr.ip
            for process in marked(tmp_path)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }
        assert listening == {"127.0.0.1"}
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0
    finally:
        served.kill()
        served.communicate()
        gone, left = psutil.wait_procs(marked(tmp_path), timeout=15)
        for process in left:
            process.kill()
    assert left == [], gone


def marked(mark):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(mark):
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--local", "nowhere"], "items == 'nowhere/worlds/replicate=0/items.parquet', must exist"),
        (["nowhere"], "--local"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, message):
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_model_that_the_run_lacks_is_named(run_folder):
    done = subprocess.run(
        command("--local", run_folder, "--model", "din"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoints == ")
