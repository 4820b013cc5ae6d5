"""Progress counts what is done and says when it will end."""

import io

from simulator.run.progress import RunProgress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_lines_carry_arms_days_rate_and_eta():
    clock, stream = Clock(), io.StringIO()
    progress = RunProgress({"twin": 2, "ifa": 2}, stream=stream, clock=clock)
    with progress:
        clock.now = 10.0
        progress.finished("twin", day=0, requests=5)
        clock.now = 20.0
        progress.finished("ifa", day=0, requests=5)
    last = " ".join(stream.getvalue().split("] ")[-1].split())
    # Two of four shard-days in the 10 s since the first one, 10 requests in them.
    assert last == ("2/4 shard-days (twin day 1, ifa day 1), 10 requests, 1 requests/s, ETA 10 s")


def test_lines_are_not_written_more_often_than_every_five_seconds():
    clock, stream = Clock(), io.StringIO()
    progress = RunProgress({"twin": 100}, stream=stream, clock=clock)
    for _ in range(50):
        clock.now += 0.1
        progress.finished("twin", day=0, requests=1)
    assert stream.getvalue().count("shard-days") == 1
