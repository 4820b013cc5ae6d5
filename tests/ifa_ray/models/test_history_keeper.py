"""A sequence state gives the logits that the whole history gives.

Tolerance: 2e-5 in a logit of size 1 to 10, the order of float32 sums; counts, gaps and lengths are
equal to the bit.
"""

import dataclasses
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from rank_cases import ITEMS, NOW_MS, make_config, make_history, make_request

from ifa_ray.config import CROSS_FEATURES
from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError, RequestError
from ifa_ray.models import MODELS, build_model
from ifa_ray.models.ifa_plus import PARTS
from ifa_ray.ranking.state_keeper import HistoryKeeper, part_of
from ifa_ray.schema import History

KEEPING = ("avg_pooling", "din", "ifa", "ifa_plus")
TOLERANCE = 2e-5


def make_keeper(name="ifa_plus", **changes):
    model = build_model(make_config(name, max_history=2000, **changes), ITEMS, seed=1)
    with torch.no_grad():  # untrained towers say little; these say much
        model.towers.layers[-1].weight.mul_(30.0)
    model.freeze()
    return model, HistoryKeeper(model, ITEMS)


def untidy(length, seed=0):
    """A history with items that have left the catalogue, repeats, and pauses of no time at all."""
    history = make_history(length, seed)
    ids, times_ms = history.ids_T.copy(), history.times_ms_T.copy()
    ids[::7] = 1_000_000
    ids[1::3] = ids[1:2]
    times_ms[2::5] = times_ms[1::5][: len(times_ms[2::5])]
    return History(ids_T=ids, actions_T=history.actions_T | 128, times_ms_T=times_ms)


def bulk(keeper, history):
    state = keeper.empty()
    keeper.append(state, history)
    return state


def one_by_one(keeper, history):
    state = keeper.empty()
    for t in range(len(history)):
        keeper.append(state, part_of(history, t, t + 1))
    return state


def logits_from_state(model, keeper, state, request):
    with torch.inference_mode():
        inputs = model.tower_inputs(*keeper.read(state, request))
        return model.towers(inputs.blocks, inputs.user_BU, inputs.channel_BC)


def logits_from_scratch(model, request):
    with torch.inference_mode():
        return model(build_batch([request], ITEMS, model.config)).logits_BCL


@pytest.mark.parametrize("make", [bulk, one_by_one])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("name", KEEPING)
def test_a_state_gives_the_logits_of_the_whole_history(name, counts, make):
    cross_features = CROSS_FEATURES if counts else ("channel",)
    model, keeper = make_keeper(name, cross_features=cross_features)
    for length in (0, 1, 2, 5, 6, 7, 31, 400):  # top_k is 6
        request = make_request(150, history=untidy(length))
        state = make(keeper, request.history)
        assert state.length == length
        found = logits_from_state(model, keeper, state, request)
        expected = logits_from_scratch(model, request)
        assert expected.abs().max() > 1
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


KEEPER = make_keeper(cross_features=CROSS_FEATURES)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(length=st.integers(0, 260), cuts=st.lists(st.integers(0, 260)))
def test_however_a_history_is_cut_it_leaves_the_same_state(length, cuts):
    model, keeper = KEEPER
    request = make_request(60, history=untidy(length))
    state = keeper.empty()
    for stop in (*sorted(min(cut, length) for cut in cuts), length):
        keeper.append(state, part_of(request.history, state.length, stop))
    assert state.length == length
    found = logits_from_state(model, keeper, state, request)
    torch.testing.assert_close(found, logits_from_scratch(model, request), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("part", PARTS)
def test_a_state_serves_every_ablation_of_ifa_plus(part):
    model, keeper = make_keeper(ifa_plus_without=(part,))
    request = make_request(50, history=untidy(200))
    found = logits_from_state(model, keeper, bulk(keeper, request.history), request)
    torch.testing.assert_close(found, logits_from_scratch(model, request), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("phi", ["relu", "softplus"])
def test_a_state_knows_both_feature_maps(phi):
    model, keeper = make_keeper("ifa", phi=phi)
    request = make_request(50, history=untidy(200))
    for make in (bulk, one_by_one):
        found = logits_from_state(model, keeper, make(keeper, request.history), request)
        expected = logits_from_scratch(model, request)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("make", [bulk, one_by_one])
def test_counts_gaps_and_lengths_are_equal_to_the_bit(make):
    _, keeper = make_keeper("ifa", cross_features=CROSS_FEATURES)
    for length in (0, 3, 200):
        request = make_request(100, history=untidy(length))
        found, _ = keeper.read(make(keeper, request.history), request)
        config = make_config("ifa", max_history=2000, cross_features=CROSS_FEATURES)
        expected = build_batch([request], ITEMS, config)
        for field in ("cross_counts_BCX", "cross_gap_BCK", "length_B", "hour_B", "channel_BC"):
            assert torch.equal(getattr(found, field), getattr(expected, field)), field


def test_time_passes_without_an_append():
    model, keeper = make_keeper(cross_features=CROSS_FEATURES)
    history = untidy(100)
    state = bulk(keeper, history)
    for days in (0, 1, 400):
        request = make_request(50, history=history, time_ms=NOW_MS + days * 86_400_000)
        found = logits_from_state(model, keeper, state, request)
        expected = logits_from_scratch(model, request)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_ten_thousand_appends_stay_exact():
    model, keeper = make_keeper(cross_features=CROSS_FEATURES)
    history = make_history(10_000)
    appended, summed = one_by_one(keeper, history), bulk(keeper, history)
    request = make_request(100, history=history)
    dense = [keeper.read(state, request)[1].dense for state in (appended, summed)]
    for field in ("values_BFE", "mass_BF", "count_B"):
        one, other = (getattr(part, field) for part in dense)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    one, other = (logits_from_state(model, keeper, s, request) for s in (appended, summed))
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_reading_leaves_a_state_as_it_is_and_what_was_read_does_not_change():
    model, keeper = make_keeper(cross_features=CROSS_FEATURES)
    request = make_request(50, history=untidy(100))
    state = bulk(keeper, request.history)
    read = keeper.read(state, request)
    first = logits_from_state(model, keeper, state, request)
    later = dataclasses.replace(untidy(20, seed=1), times_ms_T=np.full(20, NOW_MS))
    keeper.append(state, later)
    with torch.inference_mode():
        inputs = model.tower_inputs(*read)
        again = model.towers(inputs.blocks, inputs.user_BU, inputs.channel_BC)
    assert torch.equal(first, again)


def test_behaviours_out_of_order_are_refused_and_the_state_is_as_it_was():
    model, keeper = make_keeper()
    request = make_request(50, history=make_history(40))
    state = bulk(keeper, request.history)
    before = logits_from_state(model, keeper, state, request)
    earlier = make_history(3, times_ms=np.full(3, request.history.times_ms_T[-1] - 1))
    with pytest.raises(RequestError, match=r"times_ms\[0\] == .*must be >= "):
        keeper.append(state, earlier)
    shuffled = make_history(3, times_ms=[NOW_MS, NOW_MS - 1, NOW_MS])
    with pytest.raises(RequestError, match="oldest first"):
        keeper.append(state, shuffled)
    assert state.length == 40
    assert torch.equal(before, logits_from_state(model, keeper, state, request))


def test_a_request_from_before_the_last_behaviour_is_refused():
    _, keeper = make_keeper()
    state = bulk(keeper, make_history(40))
    early = make_request(50, 0, time_ms=state.last_ms - 1)
    with pytest.raises(RequestError, match="the future is not a feature"):
        keeper.read(state, early)


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(KEEPING)))
def test_other_models_must_see_a_history_whole(name):
    model = build_model(make_config(name), ITEMS, seed=0)
    model.freeze()
    with pytest.raises(ConfigError, match="keeps no sequence state"):
        HistoryKeeper(model, ITEMS)


@pytest.mark.parametrize(
    ("name", "without"), [("ifa", ()), ("ifa_plus", ()), ("ifa_plus", ("dense",))]
)
def test_behaviours_that_read_each_other_are_not_additive(name, without):
    with pytest.raises(ConfigError, match="sequence_attention"):
        make_keeper(name, modules=("sequence_attention",), ifa_plus_without=without)


def test_a_few_behaviours_may_read_each_other_if_no_others_are_read():
    model, keeper = make_keeper("din", modules=("sequence_attention",))
    request = make_request(50, history=untidy(200))
    found = logits_from_state(model, keeper, bulk(keeper, request.history), request)
    expected = logits_from_scratch(model, request)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("modules", [("mmoe", "pepnet", "layer_norm", "residual")])
def test_the_other_modules_change_nothing_about_a_state(modules):
    model, keeper = make_keeper("ifa_plus", modules=modules)
    request = make_request(50, history=untidy(200))
    found = logits_from_state(model, keeper, bulk(keeper, request.history), request)
    expected = logits_from_scratch(model, request)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", KEEPING)
def test_bytes_are_counted_as_the_allocator_counts_them(name):
    _, keeper = make_keeper(name, cross_features=CROSS_FEATURES)
    histories = [make_history(length, seed=length) for length in range(0, 300, 10)]
    [bulk(keeper, history) for history in histories[:3]]  # whatever is made once
    tracemalloc.start()
    try:
        states = [bulk(keeper, history) for history in histories]
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted = sum(state.nbytes for state in states)
    assert counted == pytest.approx(allocated, rel=0.1)


def test_the_size_of_a_state_follows_the_codes_met_and_not_the_length():
    _, keeper = make_keeper("ifa")
    short, long = (bulk(keeper, make_history(length)) for length in (200, 2000))
    assert short.nbytes == long.nbytes
    _, keeper = make_keeper("ifa_plus")
    once, often = make_history(300), make_history(1900)  # of 300 items
    assert bulk(keeper, often).nbytes < 1.5 * bulk(keeper, once).nbytes
