import torch
from literal_attention import attended, with_weights_of
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.models import build_model

ASKED = (make_request(20, 50), make_request(13, 4, 1), make_request(6, 0, 2))


def test_without_fsm_and_ram_it_is_twin_to_the_last_bit():
    twin, ablated = (build_model(make_config(n), ITEMS, seed=3) for n in ("twin", "ifa_fsm_ram"))
    batch = build_batch(ASKED, ITEMS, twin.config)
    assert torch.equal(ablated(batch).logits_BCL, twin(batch).logits_BCL)
    assert ablated.state_dict().keys() == twin.state_dict().keys()


@torch.no_grad()
def test_without_fsm_the_candidates_read_the_history_as_in_twin_and_each_other_as_in_ifa():
    ablated = build_model(make_config("ifa_fsm"), ITEMS, seed=3)
    found = attended(ablated, ITEMS, *ASKED)[2]
    twin = with_weights_of(ablated, "twin", ITEMS)
    assert torch.equal(found.cs_BCD, attended(twin, ITEMS, *ASKED)[2].cs_BCD)
    ifa = with_weights_of(ablated, "ifa", ITEMS)
    (expected_cc,) = attended(ifa, ITEMS, *ASKED)[2].blocks
    (cc,) = found.blocks
    assert torch.equal(cc, expected_cc)
    assert cc.abs().max() > 1e-2
