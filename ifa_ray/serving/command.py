"""`ifa-ray serve --local`: a Ray and a Serve on this machine's loopback address, until Ctrl-C.

Nothing imports `ray` before its private environment is set: it is read on import.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ifa_ray.data.log import read_items
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.errors import ConfigError
from ifa_ray.serving.settings import AppSettings

_HELP = """\
Serve a model of a finished run from this machine: starts a Ray and a Serve of its own on 127.0.0.1,
prints a request that works, and serves until Ctrl-C, which stops all that it started. The newest
version is served, and a newer one as soon as a request asks for it.

RUN is the folder of a run (`make run` writes runs/latest). With --items, RUN is instead a folder of
version=... checkpoints, as `train` writes them.
"""

_EPILOG = """\
examples:
  python -m ifa_ray serve --local runs/latest
  python -m ifa_ray serve --local runs/latest --model twin --replicate 1 --port 8001
  # The service keeps histories on disk, and what the model read of them in memory:
  python -m ifa_ray serve --local runs/latest --histories histories
  # Checkpoints and a catalogue that lie elsewhere:
  python -m ifa_ray serve --local trained/shop/models --items shop/items.parquet

http://127.0.0.1:8000/docs shows every route, with a form to try it. docs/serving.md explains
histories, states, deadlines and metrics; deploy/README.md goes on from a laptop to a cluster.
"""


def add_serve(commands: Any) -> None:
    """Adds `serve` to the subparsers of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser("serve", description=_HELP, epilog=_EPILOG, formatter_class=raw)
    add, default = command.add_argument, " (default: %(default)s)"
    text = "on this machine; there is no other way from here: a cluster gets `serve deploy`"
    add("run", type=Path, metavar="RUN", nargs="?", default="runs/latest", help=default.strip())
    add("--local", action="store_true", required=True, help=text)
    add("--model", default="ifa", help="an arm of the run" + default)
    add("--replicate", type=int, default=0, help="of the run" + default)
    text = "catalogue; RUN is then a checkpoint folder"
    add("--items", type=Path, metavar="FILE", help=text)
    text = "keep histories there, so that a request may name its user alone"
    add("--histories", type=Path, metavar="FOLDER", help=text)
    add("--port", type=int, default=8000, help="on 127.0.0.1" + default)


def run_serve(options: argparse.Namespace) -> int:
    """Serves until it is interrupted.

    Raises:
        ConfigError: on a missing file or folder, or a port that is taken.
    """
    settings = _settings(options)
    stopped = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: stopped.set())
    print("starting Ray ...", file=sys.stderr)
    with local_serve(options.port):
        from ray import serve

        from ifa_ray.serving.app import deployment_for

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.run(deployment_for(settings), name=settings.name, route_prefix="/")
        url = f"http://127.0.0.1:{options.port}"
        print(f"{settings.name} is served; ask it:\n\n{_curl_line(url, settings)}\n")
        print(f"documentation: {url}/docs    stop: Ctrl-C", flush=True)
        stopped.wait()
        print("stopping ...", file=sys.stderr)
    return 0


def _settings(options: argparse.Namespace) -> AppSettings:
    run = RunFolder(options.run)
    items = options.items or run.items(options.replicate)
    models = options.run if options.items else run.models(options.model, options.replicate)
    for field, path in (("items", items), ("checkpoints", models)):
        if not path.exists():
            raise ConfigError(
                f"{field} == {str(path)!r}, must exist. `make run` writes a run; "
                "`python -m ifa_ray serve --help` says what else can be served."
            )
    histories = options.histories and str(options.histories.resolve())
    # Absolute: replicas run in Ray's folder.
    slot = {"items": str(items.resolve()), "checkpoints": str(models.resolve())}
    return AppSettings.from_dict(
        {"name": options.model, "slots": [slot], "sequence_store": histories}
    )


def _curl_line(url: str, settings: AppSettings) -> str:
    """A request that ranks the first items of the catalogue."""
    ids = read_items(Path(settings.slots[0].items)).video_id_N[:5].tolist()
    body = {
        "request_id": 1,
        "user_id": 7,
        "time_ms": 1_700_000_000_000,
        "candidates": ids,
        "history": {"ids": ids[:1], "actions": [1], "times_ms": [1_600_000_000_000]},
        "k": min(3, len(ids)),
    }
    return f"curl -sS {url}/v1/rank -H 'content-type: application/json' -d '{json.dumps(body)}'"


@contextmanager
def local_serve(http_port: int, *, num_cpus: int = 2) -> Iterator[None]:
    """Serve is up within, on 127.0.0.1, and nothing is deployed.

    Replicas may reserve `num_cpus`, be there so many or not. Raises `ConfigError` if the port is
    taken.
    """
    with socket.socket() as probe:
        # As servers do: a port whose last connection is only winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", http_port))
        except (OSError, OverflowError) as error:
            rule = "must be free on 127.0.0.1"
            raise ConfigError(f"port == {http_port}, {rule}: {error}") from None
    # Short, because sockets lie below it and their paths are limited to 107 bytes.
    session = tempfile.mkdtemp(prefix="ifa-ray-")
    _private_environment(Path(session) / "home")
    import ray
    from ray import serve

    try:
        ray.init(
            address="local",  # plain init() would join any Ray that runs on this machine
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=200 * 2**20,
            _temp_dir=session,
        )
        http = {"host": "127.0.0.1", "port": http_port}
        serve.start(proxy_location="HeadOnly", http_options=http)
        yield
    finally:
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)


def _private_environment(home: Path) -> None:
    """Ray neither finds nor writes the user's token, and tells nobody that it ran."""
    home.mkdir(mode=0o700)
    # Without it the dashboard's agent asks the cloud's metadata service what machine this is.
    (home / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
    os.environ.update(
        HOME=str(home),
        RAY_AUTH_MODE="token",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_USAGE_STATS_REPORT_URL="http://127.0.0.1:9/",
        # On a busy machine a proxy takes longer than Serve's 5 s to start.
        RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60",
    )
    os.environ.pop("RAY_ADDRESS", None)
    # One thread a process: replicas share the cores, and scores are then equal bit by bit.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
