"""The place in a stream, and that the stream before it is still the same."""

import pytest
from tiny_learners import make_samples, with_request

from ifa_ray.errors import LogError
from ifa_ray.training.offline_folder import MAX_SKEW_MS, Cursor


def test_a_cursor_does_not_depend_on_the_steps_that_led_to_it():
    samples = make_samples(9)
    whole = Cursor().after(samples)
    assert Cursor().after(samples[:4]).after(samples[4:]) == whole
    assert (whole.requests, whole.last_ms) == (9, samples[-1].request.time_ms)


def at(*times_ms):
    samples = make_samples(len(times_ms))
    return [with_request(s, time_ms=t) for s, t in zip(samples, times_ms, strict=True)]


def test_the_clock_may_go_back_by_a_session_but_not_by_a_day():
    late = 10 * MAX_SKEW_MS
    assert Cursor().after(at(late, late - MAX_SKEW_MS)).last_ms == late
    with pytest.raises(LogError, match=r"request 1001: .*the clock goes back"):
        Cursor().after(at(late, late - MAX_SKEW_MS - 1))
    assert Cursor().after(at(-5, -4)).last_ms == -4, "times may lie before the epoch"
