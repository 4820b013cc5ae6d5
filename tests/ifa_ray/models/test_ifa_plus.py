import pytest
import torch
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError
from ifa_ray.models import build_model
from ifa_ray.models.ifa_plus import FAMILIES, PARTS


def logits_of(config, request):
    model = build_model(config, ITEMS, seed=1)
    with torch.no_grad():
        return model(build_batch([request], ITEMS, config)).logits_BCL


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_left_out_and_each_matters(part):
    asked = make_request(20, 60)
    whole = logits_of(make_config("ifa_plus"), asked)
    without = logits_of(make_config("ifa_plus", ifa_plus_without=(part,)), asked)
    assert without.isfinite().all()
    assert (without - whole).abs().max() > 1e-4


@pytest.mark.parametrize("part", PARTS)
def test_gradients_reach_what_is_left(part):
    config = make_config("ifa_plus", ifa_plus_without=(part,))
    model = build_model(config, ITEMS, seed=1)
    batch = build_batch([make_request(20, 60, seed) for seed in range(3)], ITEMS, config)
    weights = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0))
    (model.log_probabilities(batch) * weights).sum().backward()
    softmax = ("query", "key", "value", "output", "action_group", "gap", "cross_weights", "beta")
    for name, parameter in model.named_parameters():
        if not (part == "recent" and name.startswith(softmax)):
            assert parameter.grad is not None, name


def test_an_unknown_part_is_refused_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"ifa_plus_without == 'rate'.*Did you mean 'rates'\?"):
        build_model(make_config("ifa_plus", ifa_plus_without=("rate",)), ITEMS, seed=0)


def test_a_model_that_reads_no_history_is_refused():
    everything = tuple(part for part in PARTS if part not in ("rates", "decay"))
    with pytest.raises(
        ConfigError, match="must be such that a part which reads the history is left"
    ):
        build_model(make_config("ifa_plus", ifa_plus_without=everything), ITEMS, seed=0)


def test_without_dense_head_and_codes_it_is_din():
    """The softmax part is DIN's attention, weights and all."""
    config = make_config("ifa_plus", ifa_plus_without=("dense", *FAMILIES))
    plus = build_model(config, ITEMS, seed=1)
    din = build_model(make_config("din"), ITEMS, seed=1)
    batch = build_batch([make_request(20, 60)], ITEMS, config)
    with torch.no_grad():
        torch.testing.assert_close(
            plus(batch).logits_BCL, din(batch).logits_BCL, rtol=1e-5, atol=1e-6
        )
