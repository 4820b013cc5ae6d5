import numpy as np
import pytest
import torch
from literal_attention import move_projections, strongest
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.models import build_model
from ifa_ray.models.target_attention import action_groups

SHARING = ["twin", "din", "full_attention", "ifa_fsm", "ifa_fsm_ram"]


def test_an_action_byte_is_of_the_group_of_its_strongest_action():
    expected = [strongest(byte) for byte in range(128)]
    np.testing.assert_array_equal(action_groups(), expected)


@pytest.mark.parametrize("name", SHARING)
@torch.no_grad()
def test_freezing_projects_the_keys_of_the_catalogue_once(name):
    model = move_projections(build_model(make_config(name), ITEMS, seed=2))
    batch = build_batch([make_request(12, 40), make_request(5, 3)], ITEMS, model.config)
    before = model(batch).logits_BCL
    model.freeze()
    torch.testing.assert_close(model(batch).logits_BCL, before)
    model.key.weight.mul_(-1.0)
    torch.testing.assert_close(model(batch).logits_BCL, before)
    model.train()
    assert (model(batch).logits_BCL - before).abs().max() > 1e-3


def test_what_differs_is_not_the_attention():
    twin = build_model(make_config("twin"), ITEMS, seed=4).state_dict()
    for name in SHARING:
        state = build_model(make_config(name), ITEMS, seed=4).state_dict()
        own = [key for key in twin if not key.startswith("towers.from_")]
        assert all(torch.equal(state[key], twin[key]) for key in own), name
