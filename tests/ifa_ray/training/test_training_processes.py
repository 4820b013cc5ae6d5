"""Processes that do one thing together end together, and say why."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from ifa_ray.errors import LogError
from ifa_ray.training.processes import WorkerLost, run_ranks


def total(ranks, numbers):
    mine = torch.tensor([numbers[ranks.rank]])
    dist.all_reduce(mine)
    return int(mine), ranks.of_first(10 + ranks.rank)


def one_fails(ranks, how):
    if ranks.rank == 1:
        if how == "mistake":
            raise LogError("the log is empty.")
        if how == "surprise":
            raise KeyError("nobody")
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def test_the_first_ranks_result_is_returned():
    assert run_ranks(total, (3, 4), 2) == (7, 10)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("mistake", LogError, "the log is empty"),
        ("surprise", WorkerLost, "(?s)a worker of 2 failed.*(KeyError: 'nobody'|peer)"),
        ("killed", WorkerLost, "worker 1 of 2 was killed by SIGKILL; the others were stopped"),
    ],
)
def test_a_rank_that_fails_ends_the_others_with_its_reason(how, error, message):
    started = time.monotonic()
    with pytest.raises(error, match=message):
        run_ranks(one_fails, how, 2)
    assert time.monotonic() - started < 60
