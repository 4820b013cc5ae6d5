"""Facts that hold for every model in MODELS."""

import dataclasses

import numpy as np
import pytest
import torch
from rank_cases import ITEMS, NOW_MS, make_config, make_history, make_items, make_request

from ifa_ray.config import CROSS_FEATURES, MODULES
from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError
from ifa_ray.models import MODELS, build_model
from ifa_ray.schema import OBJECTIVES, History

ALL = sorted(MODELS)
READS_ALL = [
    "full_attention", "ifa", "ifa_clustered", "ifa_inducing", "ifa_linformer", "ifa_local_global",
    "ifa_plus", "sdim",
]  # fmt: skip

# Where equally old behaviours are not told apart by their place.
ORDER_FREE = [
    "full_attention", "ifa", "ifa_clustered", "ifa_fsm", "ifa_inducing", "ifa_lsh", "sdim",
    "sim_soft", "twin", "twin_codes",
]  # fmt: skip

# Each model as it is and with all optional modules, and each module on two models.
VARIANTS = [
    *((name, ()) for name in ALL),
    *((name, (module,)) for name in ("ifa", "twin") for module in MODULES),
    *((name, MODULES) for name in ALL),
]


def variant_name(variant):
    name, modules = variant
    return "-".join([name, *(modules if modules != MODULES else ["all_modules"])])


@pytest.fixture(params=VARIANTS, ids=variant_name)
def model(request):
    name, modules = request.param
    return build_model(make_config(name, modules=modules), ITEMS, seed=1)


def logits_of(model, *requests):
    with torch.no_grad():
        return model(build_batch(requests, ITEMS, model.config)).logits_BCL


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def test_gives_one_float32_logit_per_candidate_and_objective(model):
    logits = logits_of(model, make_request(20), make_request(13))
    assert logits.shape == (2, 20, len(OBJECTIVES))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_scores_tell_candidates_apart(model):
    assert (logits_of(model, make_request(20))[0].std(dim=0) > 1e-3).all()


def test_scores_do_not_depend_on_candidate_order(model):
    asked = make_request(25)
    order = np.random.default_rng(0).permutation(25)
    shuffled = dataclasses.replace(
        asked, candidates_C=asked.candidates_C[order], channels_C=asked.channels_C[order]
    )
    assert_same(logits_of(model, shuffled)[0], logits_of(model, asked)[0, order])


def test_a_batch_scores_as_its_requests_do_alone(model):
    sizes = [(20, 30), (3, 64), (27, 1), (1, 0), (20, 5), (9, 100)]
    asked = [make_request(c, t, seed) for seed, (c, t) in enumerate(sizes)]
    together = logits_of(model, *asked)
    for row, one in enumerate(asked):
        alone = logits_of(model, one)[0]
        assert_same(together[row, : len(alone)], alone)


def test_one_candidate_is_scored(model):
    assert logits_of(model, make_request(1)).isfinite().all()


@pytest.mark.parametrize("length", [0, 1, 5, 6, 7])
def test_short_histories_are_scored(model, length):
    assert logits_of(model, make_request(8, length)).isfinite().all()


def test_an_empty_history_reads_as_zero(model, monkeypatch):
    read = []
    attend = model.attend

    def spy(candidates, behaviours):
        read.append(attend(candidates, behaviours))
        return read[-1]

    monkeypatch.setattr(model, "attend", spy)
    logits_of(model, make_request(8, 0), make_request(8, 9))
    cs_BCD = read[0].cs_BCD
    assert (cs_BCD[0] == 0).all()
    assert (cs_BCD[1] != 0).any()


def test_the_history_matters(model):
    one, other = make_history(30, seed=1), make_history(30, seed=2)
    difference = logits_of(model, make_request(history=one)) - logits_of(
        model, make_request(history=other)
    )
    assert difference.abs().max() > 1e-3


def test_what_the_user_did_matters(model):
    history = make_history(30)
    quiet = dataclasses.replace(history, actions_T=np.zeros(30, np.uint8))
    difference = logits_of(model, make_request(history=history)) - logits_of(
        model, make_request(history=quiet)
    )
    assert difference.abs().max() > 1e-3


def test_only_the_latest_behaviours_are_read(model):
    long = make_history(100)
    latest = History(
        ids_T=long.ids_T[-64:], actions_T=long.actions_T[-64:], times_ms_T=long.times_ms_T[-64:]
    )
    assert_same(
        logits_of(model, make_request(history=long)), logits_of(model, make_request(history=latest))
    )


def test_ids_that_left_the_catalogue_are_one_unknown_item(model):
    history = make_history(30)
    gone = [np.array(history.ids_T) for _ in range(2)]
    gone[0][10:20] = np.arange(900_000, 900_010)
    gone[1][10:20] = 800_000
    first, second = (
        logits_of(model, make_request(history=dataclasses.replace(history, ids_T=ids)))
        for ids in gone
    )
    assert first.isfinite().all()
    assert_same(first, second)


@pytest.mark.parametrize("name", ORDER_FREE)
def test_history_order_is_irrelevant_where_all_happened_at_once(name):
    model = build_model(make_config(name), ITEMS, seed=1)
    history = make_history(40, times_ms=np.full(40, NOW_MS - 5))
    order = np.random.default_rng(3).permutation(40)
    shuffled = dataclasses.replace(
        history, ids_T=history.ids_T[order], actions_T=history.actions_T[order]
    )
    assert_same(
        logits_of(model, make_request(history=history)),
        logits_of(model, make_request(history=shuffled)),
    )


@pytest.mark.parametrize("name", READS_ALL)
def test_every_single_behaviour_reaches_the_scores(name):
    model = build_model(make_config(name), ITEMS, seed=1)
    history = make_history(60)
    whole = logits_of(model, make_request(history=history))
    for t in (0, 17, 59):
        changed = history.ids_T.copy()
        changed[t] = np.setdiff1d(ITEMS.video_id_N, history.ids_T)[0]
        other = make_request(history=dataclasses.replace(history, ids_T=changed))
        assert (logits_of(model, other) - whole).abs().max() > 1e-6


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("on", [("channel",), CROSS_FEATURES])
def test_gradients_reach_every_parameter(variant, strict, on):
    name, modules = variant
    config = make_config(name, strict_paper_concat=strict, cross_features=on, modules=modules)
    model = build_model(config, ITEMS, seed=1)
    batch = build_batch([make_request(20, 60, seed) for seed in range(3)], ITEMS, model.config)
    weights = torch.randn(3, 20, len(OBJECTIVES), generator=torch.Generator().manual_seed(0))
    outputs = model(batch)
    (model.log_probabilities(batch) * weights).sum().backward()
    if outputs.auxiliary_BC is not None:
        (outputs.auxiliary_BC * weights[..., 0]).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        gradient = parameter.grad.to_dense()
        assert gradient.isfinite().all(), parameter_name
        assert (gradient != 0).any(), parameter_name


def test_nothing_as_large_as_candidates_times_history_is_kept_for_the_backward_pass(model):
    C, T = 250, 290
    config = dataclasses.replace(model.config, max_history=T)
    model = build_model(config, ITEMS, seed=1)
    batch = build_batch([make_request(C, T)], ITEMS, config)
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    assert len(sizes) > 10
    assert max(sizes) < C * T


def test_hashed_tables_have_sparse_gradients_and_nothing_else_has(model):
    outputs = model(build_batch([make_request()], ITEMS, model.config))
    loss = outputs.logits_BCL.sum()
    if outputs.auxiliary_BC is not None:
        loss = loss + outputs.auxiliary_BC.sum()
    loss.backward()
    sparse, dense = list(model.sparse_parameters()), list(model.dense_parameters())
    assert all(parameter.grad.is_sparse for parameter in sparse)
    assert not any(parameter.grad.is_sparse for parameter in dense)
    assert len(sparse) == 3
    assert {id(p) for p in [*sparse, *dense]} == {id(p) for p in model.parameters()}


def test_gradients_through_an_empty_history_are_finite(model):
    model(build_batch([make_request(5, 0)], ITEMS, model.config)).logits_BCL.sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.to_dense().isfinite().all(), name


def test_log_probabilities_are_those_of_the_entire_space(model):
    batch = build_batch([make_request()], ITEMS, model.config)
    with torch.no_grad():
        probability = torch.sigmoid(model(batch).logits_BCL.double())
        expected = probability.clone()
        expected[..., 1:] *= probability[..., :1]
        assert_same(model.log_probabilities(batch), expected.log().float())


def test_log_probabilities_keep_their_precision_where_probabilities_underflow(model, monkeypatch):
    low = torch.full((1, 2, len(OBJECTIVES)), -200.0)
    monkeypatch.setattr(model.towers, "forward", lambda *_: low)
    log_p = model.log_probabilities(build_batch([make_request(2)], ITEMS, model.config))
    np.testing.assert_allclose(log_p[0, 0], [-200.0] + [-400.0] * (len(OBJECTIVES) - 1))


def test_equal_seeds_give_equal_models_and_leave_the_global_generator_alone(model):
    torch.manual_seed(77)
    before = torch.get_rng_state()
    again = build_model(model.config, ITEMS, seed=1)
    other = build_model(model.config, ITEMS, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert not torch.equal(logits_of(model, make_request()), logits_of(other, make_request()))


def test_every_weight_was_drawn(model):
    # Uninitialised memory is often zero or huge; what was drawn is neither.
    for name, value in model.state_dict().items():
        if name.endswith("bias") or name == "towers.norm.weight":  # zeros, ones
            continue
        assert 0 < value.std() < 5, name


def test_weights_survive_a_state_dict(model):
    other = build_model(model.config, ITEMS, seed=9)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(other, make_request()), logits_of(model, make_request()))


def test_a_state_dict_fits_a_catalogue_that_has_grown(model):
    half = dataclasses.replace(
        ITEMS, **{f.name: getattr(ITEMS, f.name)[:150] for f in dataclasses.fields(ITEMS)}
    )
    small = build_model(model.config, half, seed=9)
    model.load_state_dict(small.state_dict())


def test_freezing_changes_no_score_and_training_unfreezes(model):
    asked = make_request()
    before = logits_of(model, asked)
    model.freeze()
    assert_same(logits_of(model, asked), before)
    with torch.no_grad():
        model.items.category.weight.mul_(3.0)
    assert_same(logits_of(model, asked), before)  # as promised: frozen
    model.train()
    assert (logits_of(model, asked) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_a_catalogue_without_content_vectors_is_fine(name):
    items = make_items(content_width=0)
    model = build_model(make_config(name), items, seed=1)
    batch = build_batch([make_request()], items, model.config)
    assert model(batch).logits_BCL.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("on", [(), ("channel",), ("category",), CROSS_FEATURES])
def test_any_cross_features_may_be_on(name, on):
    model = build_model(make_config(name, cross_features=on), ITEMS, seed=1)
    asked = make_request()
    logits = logits_of(model, asked)
    assert logits.isfinite().all()
    moved = dataclasses.replace(asked, channels_C=(asked.channels_C + 1) % 5)
    assert torch.equal(logits_of(model, moved), logits) == ("channel" not in on)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tower_widths", [(), (8,)])
def test_towers_may_have_any_depth(name, tower_widths):
    model = build_model(make_config(name, tower_widths=tower_widths), ITEMS, seed=1)
    logits = logits_of(model, make_request())
    assert logits.shape == (1, 20, len(OBJECTIVES))
    # Few candidates are shown, and every model starts from that.
    assert logits[..., 0].mean() < -1.5


def test_models_share_the_start_of_all_that_they_share():
    states = {name: build_model(make_config(name), ITEMS, seed=4).state_dict() for name in ALL}
    # The towers' first layer is as wide as what a model puts into it.
    shared = [name for name in states["avg_pooling"] if not name.startswith("towers.from_")]
    assert len(shared) > 10
    for name in shared:
        for state in states.values():
            assert torch.equal(state[name], states["ifa"][name]), name


def test_strict_concat_narrows_the_towers_by_two_widths():
    for name in ALL:
        loose, strict = (
            build_model(make_config(name, strict_paper_concat=s), ITEMS, seed=0).towers
            for s in (False, True)
        )
        assert loose.from_blocks.in_features - strict.from_blocks.in_features == 2 * 16


def test_an_unknown_name_is_refused_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"model == 'ifa_pluss'.*Did you mean 'ifa_plus'\?"):
        build_model(make_config("ifa_pluss"), ITEMS, seed=0)
