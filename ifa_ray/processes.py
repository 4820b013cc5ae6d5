"""Pools of worker processes that end with their parent; knows nothing of the work.

Spawned, never forked: what a fork inherits of other threads' locks differs from run to run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from ifa_ray.errors import LogError

_Job = TypeVar("_Job", bound=tuple[Any, ...])
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(
    processes: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many spawned workers; what goes wrong within ends them at once.

    Args:
        processes: how many, at least 1.
        prepare: called once in each worker, with `arguments`; a function of a module, not a
            closure. Queues of `multiprocessing.get_context("spawn")` may be among them.
        *arguments: of `prepare`.
    """
    before = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(prepare, arguments),
    )
    try:
        yield pool
    except BaseException:
        # Waiting for work that nobody wants any more may take minutes.
        for child in multiprocessing.active_children():
            if child not in before:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(
    function: Callable[..., _Result], jobs: Iterable[_Job], processes: int
) -> Iterator[tuple[_Job, _Result]]:
    """Jobs and what `function(*job)` returned, as they end; one process is this one.

    Raises:
        LogError: if a process died.
    """
    jobs = list(jobs)
    if processes == 1:
        yield from ((job, function(*job)) for job in jobs)
        return
    with worker_pool(min(processes, len(jobs))) as pool:
        futures = {pool.submit(function, *job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise LogError(
                "a process died before its work was written, perhaps for want of memory. What is "
                "finished stays: continue it with fewer processes."
            ) from None


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C goes to the whole group; the parent is the one to end the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    # A worker holds both ends of the pipe that brings its work, so it would wait for ever for a
    # parent that was killed.
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
