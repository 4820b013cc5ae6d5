"""The place in a stream, and that the stream before it is still the same."""

import dataclasses

import pytest
from tiny_learners import make_samples

from ifa_ray.errors import LogError
from ifa_ray.training.offline_folder import MAX_SKEW_MS, Cursor


def at(sample, time_ms):
    return dataclasses.replace(sample, request=dataclasses.replace(sample.request, time_ms=time_ms))


def test_a_cursor_does_not_depend_on_the_steps_that_led_to_it():
    samples = make_samples(9)
    whole = Cursor().after(samples)
    assert Cursor().after(samples[:4]).after(samples[4:]) == whole
    assert (whole.requests, whole.last_ms) == (9, samples[-1].request.time_ms)


def test_the_clock_may_go_back_by_a_session_but_not_by_a_day():
    one, other = make_samples(2)
    late = 10 * MAX_SKEW_MS
    cursor = Cursor().after([at(one, late), at(other, late - MAX_SKEW_MS)])
    assert cursor.last_ms == late
    with pytest.raises(LogError, match=r"request 1001: .*the clock goes back"):
        Cursor().after([at(one, late), at(other, late - MAX_SKEW_MS - 1)])


def test_times_may_lie_before_the_epoch():
    one, other = make_samples(2)
    assert Cursor().after([at(one, -5), at(other, -4)]).last_ms == -4
