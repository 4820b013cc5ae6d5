"""A Ray and a Serve of one's own, in this process's charge, on the loopback address.

Whatever it starts ends with the `with` block. Knows no application. It must run before anything
imports `ray`, which reads the environment when it is imported.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ifa_ray.errors import ConfigError

__all__ = ["GRPC_SERVICER", "local_serve"]

GRPC_SERVICER = "ifa_ray.serving.grpc_bytes.add_ranking_to_server"
"""What Serve's `grpc_servicer_functions` names."""

_OBJECT_STORE_BYTES = 200 * 2**20


@contextmanager
def local_serve(
    http_port: int, *, num_cpus: int = 2, grpc_port: int | None = None
) -> Iterator[None]:
    """Serve is up within, and nothing is deployed.

    Args:
        http_port: on 127.0.0.1.
        num_cpus: that replicas may reserve, be there so many or not.
        grpc_port: on every address of the machine, for Serve knows no other way; None is none.

    Raises:
        ConfigError: if a port is taken.
    """
    _require_free("port", http_port)
    if grpc_port is not None:
        _require_free("grpc_port", grpc_port)
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
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=session,
        )
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": http_port},
            grpc_options=None
            if grpc_port is None
            else {"port": grpc_port, "grpc_servicer_functions": [GRPC_SERVICER]},
        )
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


def _require_free(field: str, port: int) -> None:
    with socket.socket() as probe:
        # As servers do: a port whose last connection is only winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{field} == {port}, must be free on 127.0.0.1: {error}") from None
