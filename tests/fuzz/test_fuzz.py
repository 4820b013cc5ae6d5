"""Some seconds of each fuzzer, and what longer runs of them found, each as a test of its own."""

import dataclasses
import os
import pickle

import api_cases
import numpy as np
import pytest
from arrow_bodies import big_endian, encoded, many_columns, many_empty_batches
from campaigns import CAMPAIGNS, run
from fuzz_target import MAX_BODY, Target, good_request

from ifa_ray.schema import FROM_STORE, MAX_TIME_MS, MIN_TIME_MS, History
from ifa_ray.serving import wire
from ifa_ray.serving.sequence_store import Append
from ifa_ray.serving.wire import REQUEST_SCHEMA

CASES = int(os.environ.get("IFA_FUZZ_CASES", "60"))
"""Of each fuzzer; `python tests/fuzz --cases 100000` runs more and counts them."""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    made = Target(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda one: one.name)
def test_no_body_is_an_error_of_the_servers(target, campaign):
    assert run(target, campaign, CASES, number=0, every=10) >= CASES


def test_no_case_of_the_documentation_is_an_error_of_the_servers(target):
    assert api_cases.run(target, CASES, number=0, every=10) >= CASES // 2


def refused(target, answer):
    """The error of a call that was refused; good calls are answered as before."""
    target.check(answer)
    assert 400 <= answer.status_code < 500
    target.check_still_right()
    return answer.json()["error"]


def test_the_strategies_make_bodies_that_are_answered_too(target):
    before = target.statuses[200]
    run(target, CAMPAIGNS[0], 200, number=1, every=1_000)
    # About one in ten; how many exactly is up to the generator.
    assert target.statuses[200] - before >= 5


@pytest.mark.parametrize("digits", [10, 300, 4_000])
@pytest.mark.parametrize("name", ["slot", "min_version"])
def test_a_parameter_of_many_digits_is_refused(target, name, digits):
    body = wire.encode_requests([good_request()])
    error = refused(target, target.post(f"/v1/rank?{name}={'9' * digits}", body))
    assert error.startswith(f"{name} == '9999999")
    assert len(error) < 200


def test_a_user_of_many_digits_is_refused_in_few_words(target):
    assert len(refused(target, target.send("GET", f"/v1/users/{'9' * 4_000}"))) < 200


def history_at(times):
    T = len(times)
    return History(
        ids_T=np.zeros(T, np.int32),
        actions_T=np.zeros(T, np.uint8),
        times_ms_T=np.array(times, np.int64),
    )


def test_times_whose_difference_is_no_int64_are_not_taken_for_rising(target):
    falling = good_request(history_at([2**63 - 1, -(2**63)]))
    answer = target.post("/v1/rank", wire.encode_requests([falling]))
    assert refused(target, answer) == "history.times_ms decreases, must be oldest first."


def test_times_are_far_enough_from_the_ends_of_their_type_for_ages_to_fit(target):
    assert MAX_TIME_MS - MIN_TIME_MS == 2**63 - 1
    for user_id, times, at_ms in [(21, [MIN_TIME_MS], MAX_TIME_MS), (22, [0], MIN_TIME_MS)]:
        append = Append(user_id=user_id, begin=0, history=history_at(times))
        assert target.append(wire.encode_appends([append]), wire.ARROW).status_code == 200
        asked = dataclasses.replace(good_request(FROM_STORE), user_id=user_id, time_ms=at_ms)
        assert target.rank(wire.encode_requests([asked]), wire.ARROW).status_code == 200
    for times, field in [([MIN_TIME_MS - 1], "times_ms[0]"), ([0, MAX_TIME_MS + 1], "times_ms[1]")]:
        append = Append(user_id=23, begin=0, history=history_at(times))
        answer = target.post("/v1/events", wire.encode_appends([append]))
        assert refused(target, answer).startswith(f"{field} == ")
    late = dataclasses.replace(good_request(), time_ms=MAX_TIME_MS + 1)
    answer = target.post("/v1/rank", wire.encode_requests([late]))
    assert refused(target, answer).startswith("time_ms == 4611686018427387905, must be in")
    early = good_request(history_at([MIN_TIME_MS - 1]))
    answer = target.post("/v1/rank", wire.encode_requests([early]))
    assert refused(target, answer).startswith("history.times_ms[0] == ")


def test_a_body_of_empty_batches_is_refused_before_they_are_made(target):
    answer = target.post("/v1/rank", many_empty_batches(REQUEST_SCHEMA, MAX_BODY))
    assert refused(target, answer) == "len(batches) == 9 or more, must be <= 8."


def test_a_body_that_is_all_columns_is_refused_in_few_words(target):
    assert refused(target, target.post("/v1/rank", many_columns(MAX_BODY))).startswith("columns ==")


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/events"])
def test_a_text_of_many_names_is_refused_before_it_is_read(target, path):
    body = b"{" + b",".join(b'"%d":1' % i for i in range(20_000)) + b"}"
    error = refused(target, target.post(path, body, wire.JSON))
    assert error == "body holds about 20000 names, must be <= 100."


def test_a_text_of_more_values_than_a_call_may_hold_is_refused_before_it_is_read(target):
    body = b'{"ids":[' + b"1," * 50_000 + b"1]}"
    error = refused(target, target.post("/v1/events", body, wire.JSON))
    assert error == "body holds about 50000 values, must be <= 40000."


def test_of_a_list_that_is_wrong_throughout_one_error_is_made(target):
    body = b'{"candidates":[' + b"-1," * 40_000 + b"1]}"
    error = refused(target, target.post("/v1/rank", body, wire.JSON))
    assert "Field required" in error or error.startswith("candidates[0] == -1")


def test_numbers_said_to_be_big_endian_are_read_as_such_or_refused(target):
    row = {"request_id": 1, "user_id": 3, "time_ms": 5, "candidates": [1, 2], "k": 1,
           "probabilities": False}  # fmt: skip
    body = big_endian(encoded(REQUEST_SCHEMA, [row]))
    assert body is not None
    target.check(target.post("/v1/rank", body))
    target.check_still_right()


class _Trap:
    """Would be noticed if anything unpickled it."""

    sprung = False

    def __reduce__(self):
        return (setattr, (_Trap, "sprung", True))


@pytest.mark.parametrize("media_type", [wire.ARROW, wire.JSON, "application/x-pickle"])
@pytest.mark.parametrize("path", ["/v1/rank", "/v1/events"])
def test_no_pickle_is_ever_loaded(target, path, media_type):
    refused(target, target.post(path, pickle.dumps(_Trap()), media_type))
    assert not _Trap.sprung
