"""A Ray of the test's own, started by the commands that deploy/README.md teaches."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
# Ray keeps 10002-19999 for its workers; the kernel hands out ports from 32768 on.
PORTS = range(20_000, 32_000)
MARK = "IFA_RAY_TEST_CLUSTER"


def free_ports(count):
    """Ports that are free now, spread over the range so that two tests seldom meet."""
    found, port = [], PORTS.start + os.getpid() % 10_000
    while len(found) < count:
        port = port + 1 if port + 1 in PORTS else PORTS.start
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def copy_repository(folder):
    """What a clone would hold: files that git tracks, or would if they were added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():  # a tracked file may be deleted
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


class PrivateCluster:
    """One head with private ports, started in `folder`; stopped by the ids of its processes."""

    def __init__(self, folder):
        self.folder = folder
        self.gcs, self.dashboard, self.client, self.agent, self.http, self.grpc = free_ports(6)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        # Short, because sockets lie below it and their paths are limited to 107 bytes.
        self._session = tempfile.mkdtemp(prefix="ifa-ray-", dir="/tmp")
        self._mark = uuid.uuid4().hex
        # Every process of the cluster inherits the mark; nothing else has it.
        self.environment = {
            **os.environ,
            MARK: self._mark,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
        }

    def shell(self, command, timeout_s=120):
        """Runs a command as a reader of the README would; returns its standard output."""
        done = subprocess.run(
            ["bash", "-ec", f". deploy/env.sh\n{command}"], cwd=self.folder, timeout=timeout_s,
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self):
        self.shell(
            f"ray start --head --port {self.gcs} --dashboard-port {self.dashboard}"
            f" --ray-client-server-port {self.client} --dashboard-agent-listen-port {self.agent}"
            f" --num-cpus 2 --object-store-memory {200 * 2**20} --temp-dir {self._session}"
        )

    def metrics(self, *parts):
        """Lines of what Ray exports for Prometheus that hold all parts."""
        listed = next(Path(self._session).rglob("prom_metrics_service_discovery.json"))
        targets = [target for job in json.loads(listed.read_text()) for target in job["targets"]]
        lines = []
        for target in targets:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer,
            ):
                lines += answer.read().decode().splitlines()
        return [line for line in lines if all(part in line for part in parts) and line[0] != "#"]

    def processes(self):
        """Processes of this cluster and of the commands that this object ran."""
        return marked(self._mark)

    def stop(self):
        """Ends all of them."""
        end_marked(self._mark)
        shutil.rmtree(self._session, ignore_errors=True)


def marked(mark):
    """Processes that inherited a mark."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                yield process


def end_marked(mark):
    """SIGTERM, then SIGKILL to whoever is left: Ray's daemons do not all obey the first."""
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        alive = list(marked(mark))
        for process in alive:
            with contextlib.suppress(psutil.Error):
                signal(process)
        psutil.wait_procs(alive, timeout=5)
    assert list(marked(mark)) == []


def wait_until(condition, timeout_s, what):
    """Waits for `condition()` to return something true, and returns it."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} not within {timeout_s} s"
        time.sleep(0.3)
    return found
