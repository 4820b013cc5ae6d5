"""Several processes of this machine that do one thing together, and end together.

Knows processes, their reports and a rendezvous; not what they do. The process that starts them
only watches: a rank that dies, however it dies, ends the others, and if the watcher dies, they do.
Torch and the standard library alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch.distributed as dist

from ifa_ray.errors import IfaRayError
from ifa_ray.training.parallel import Ranks

__all__ = ["WorkerLost", "run_ranks"]

_GRACE_S = 5.0
"""How long ranks may go on after one has failed: to say why themselves, or to end a write."""

# Longer than any publication or reading of a log: the watcher sees deaths, not a timeout.
_COLLECTIVE_TIMEOUT = datetime.timedelta(days=1)

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class WorkerLost(IfaRayError, RuntimeError):
    """A worker process died or failed; the others were ended."""


@dataclasses.dataclass(frozen=True)
class _Report:
    """How a rank ended: with a result, with an error, or without a word.

    Attributes:
        result: what its work returned.
        error: what it raised.
        trace: of an error that is not ours.
        exit_code: of a process that could not say anything; negative is a signal.
    """

    result: object = None
    error: IfaRayError | None = None
    trace: str | None = None
    exit_code: int | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None or self.trace is not None or self.exit_code is not None


def run_ranks(
    work: Callable[[Ranks, _Argument], _Result], argument: _Argument, workers: int
) -> _Result:
    """Calls `work` in so many processes that have joined one gloo process group.

    Args:
        work: a function of a module, called with the ranks and the argument.
        argument: can be pickled.
        workers: W.

    Returns:
        What rank 0 returned; it must be possible to pickle.

    Raises:
        WorkerLost: if a process was killed, or raised an error that is not the library's.
        IfaRayError: what a rank raised; the first rank's where several did.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    connections: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="ifa-ranks-") as folder:
        try:
            for rank in range(workers):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(
                    target=_rank,
                    args=(rank, workers, f"{folder}/rendezvous", theirs, work, argument),
                    daemon=True,
                )
                process.start()
                theirs.close()
                processes.append(process)
                connections.append(ours)
            reports = _reports(processes, connections)
        finally:
            # All that lasts is written before a report, and whatever dies goes on by its versions.
            for process in processes:
                process.kill()
                process.join()
    _raise_worst(reports, workers)
    return reports[0].result  # type: ignore[return-value]


def _reports(
    processes: Sequence[BaseProcess], connections: Sequence[Connection]
) -> dict[int, _Report]:
    """Waits until all have reported, or for a while after one has failed."""
    reports: dict[int, _Report] = {}
    deadline = None
    while len(reports) < len(processes):
        silent = [rank for rank in range(len(processes)) if rank not in reports]
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        waits: list[Connection | int] = [processes[rank].sentinel for rank in silent]
        waits += [connections[rank] for rank in silent]
        multiprocessing.connection.wait(waits, left)
        for rank in silent:
            report = _report(processes[rank], connections[rank])
            if report is not None:
                reports[rank] = report
        if 0 in reports and reports[0].error is not None:
            break
        if deadline is None and any(report.failed for report in reports.values()):
            deadline = time.monotonic() + _GRACE_S
    return reports


def _report(process: BaseProcess, connection: Connection) -> _Report | None:
    """What a rank has said, or that it is dead; None while it works."""
    # Asked first: what it said before it died still lies in the pipe.
    alive = process.is_alive()
    if connection.poll():
        with contextlib.suppress(EOFError, ConnectionError):
            return connection.recv()
        process.join()
        alive = False
    return None if alive else _Report(exit_code=process.exitcode)


def _raise_worst(reports: dict[int, _Report], workers: int) -> None:
    """Raises what began it: ranks that lose a peer fail too, with errors of gloo's or SIGABRT."""
    ordered = [reports[rank] for rank in sorted(reports)]
    for report in ordered:
        if report.error is not None:
            raise report.error
    dead = [rank for rank in sorted(reports) if reports[rank].exit_code is not None]
    dead.sort(key=lambda rank: reports[rank].exit_code == -signal.SIGABRT)
    traces = [report.trace for report in ordered if report.trace is not None]
    killed = [rank for rank in dead if reports[rank].exit_code != -signal.SIGABRT]
    if killed or (dead and not traces):
        rank = dead[0]
        code = reports[rank].exit_code
        assert code is not None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        raise WorkerLost(f"worker {rank} of {workers} {how}; the others were stopped.")
    if traces:
        raise WorkerLost(f"a worker of {workers} failed:\n{traces[0]}")


def _rank(
    rank: int,
    workers: int,
    rendezvous: str,
    connection: Connection,
    work: Callable[[Ranks, _Argument], _Result],
    argument: _Argument,
) -> None:
    """What a process runs."""
    # Ctrl-C reaches every process of a terminal; the watcher answers for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gradients stay on this machine
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers,
            timeout=_COLLECTIVE_TIMEOUT,
        )  # fmt: skip
        report = _Report(result=work(Ranks.here(), argument))
    except IfaRayError as error:
        report = _Report(error=error)
    except Exception:
        report = _Report(trace=traceback.format_exc())
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(report)
    # Stays until it is killed: gloo aborts a process whose peer leaves while a message is on its
    # way.
    with contextlib.suppress(EOFError, ConnectionError):
        connection.recv()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: nothing trains unwatched."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
