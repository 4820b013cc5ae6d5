import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.config import CROSS_FEATURES
from ifa_ray.cuda import reads_triton, sums_triton
from ifa_ray.cuda.dispatch import runs_triton
from ifa_ray.cuda.fused import fuse, fused_logits
from ifa_ray.data.features import build_batch
from ifa_ray.models import build_model
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_ranker import StatefulRanker

SETTINGS = {
    "plain": {},
    "relu": {"phi": "relu"},
    "printed": {"strict_paper_concat": True},
    "counts": {"cross_features": CROSS_FEATURES},
    "history": {"modules": ("sequence_attention",)},
}


def requests():
    """Mixed sizes, so that the batch is padded on both sides; one history is empty."""
    return [make_request(20, 30), make_request(7, 0, seed=1), make_request(33, 64, seed=2)]


def pair(name, device, **changes):
    """The same model twice, and whether kernels are on is the device's affair."""
    config = make_config(name, **changes)
    fast, plain = (build_model(config, ITEMS, 3).to(device) for _ in range(2))
    return fuse(fast), plain


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("frozen", [True, False])
def test_ifa_says_the_same_by_kernels(frozen, changes, device):
    fast, plain = pair("ifa", device, **changes)
    batch = build_batch(requests(), ITEMS, fast.config).to(device)
    if frozen:
        fast.freeze()
        plain.freeze()
    with torch.no_grad():
        assert fused_logits(fast, batch) is not None
        by_kernels = fast.log_probabilities(batch)
        expected = plain.log_probabilities(batch)
    real = batch.mask_BC
    torch.testing.assert_close(by_kernels[real], expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ifa", "ifa_plus"])
@pytest.mark.parametrize("changes", [{}, {"cross_features": CROSS_FEATURES}])
def test_a_model_learns_the_same_by_kernels(name, changes, device):
    fast, plain = pair(name, device, **changes)
    batch = build_batch(requests(), ITEMS, fast.config).to(device)
    for model in (fast, plain):
        logits_BCL = model(batch).logits_BCL
        logits_BCL[batch.mask_BC].square().mean().backward()
    expected = dict(plain.named_parameters())
    for name_, parameter in fast.named_parameters():
        there, here = expected[name_].grad, parameter.grad
        assert (here is None) == (there is None), name_
        if here is not None:
            here, there = (g.to_dense() if g.is_sparse else g for g in (here, there))
            torch.testing.assert_close(
                here, there, rtol=1e-3, atol=1e-5, msg=lambda m, n=name_: f"{n}: {m}"
            )


def test_ifa_plus_says_the_same_by_kernels(device):
    fast, plain = pair("ifa_plus", device)
    batch = build_batch(requests(), ITEMS, fast.config).to(device)
    fast.freeze()
    plain.freeze()
    with torch.inference_mode():
        by_kernels = fast.log_probabilities(batch)
        expected = plain.log_probabilities(batch)
    real = batch.mask_BC
    torch.testing.assert_close(by_kernels[real], expected[real], rtol=1e-4, atol=1e-4)


def test_a_ranker_answers_with_the_same_slates(device):
    fast, plain = pair("ifa", device)
    by_kernels = ModelRanker(fast, ITEMS, version=1).rank(requests())
    expected = ModelRanker(plain, ITEMS, version=1).rank(requests())
    for one, other in zip(by_kernels, expected, strict=True):
        assert np.array_equal(one.ids_K, other.ids_K)
        np.testing.assert_allclose(one.scores_K, other.scores_K, rtol=0, atol=2e-4)


def test_a_kept_state_is_read_by_kernels_too(device):
    fast, other = pair("ifa", device)
    asked = requests()
    kept = StatefulRanker(fast, ITEMS, version=1, states=SequenceStates(10**7)).rank(asked)
    whole = ModelRanker(other, ITEMS, version=1).rank(asked)
    for one, two in zip(kept, whole, strict=True):
        assert np.array_equal(one.ids_K, two.ids_K)


def test_the_kernels_were_really_called(device, monkeypatch):
    calls = []
    for module, name in ((sums_triton, "GatheredSums"), (reads_triton, "ReadAndProject")):
        function = getattr(module, name)
        apply = function.apply
        monkeypatch.setattr(
            function, "apply", lambda *given, f=apply, n=name: calls.append(n) or f(*given)
        )
    model, _ = pair("ifa", device)
    ModelRanker(model, ITEMS, version=1).rank(requests()[:1])
    assert calls == ["GatheredSums", "GatheredSums", "ReadAndProject"]


@pytest.mark.parametrize("modules", [("layer_norm",), ("pepnet",), ("mmoe",), ("residual",)])
def test_towers_with_optional_modules_take_the_plain_way(modules, device):
    model, _ = pair("ifa", device, modules=modules)
    batch = build_batch(requests(), ITEMS, model.config).to(device)
    assert fused_logits(model, batch) is None
    assert model(batch).logits_BCL.isfinite().all()


def test_without_the_interpreter_a_cpu_takes_the_plain_way():
    assert not runs_triton(torch.device("cpu"))
    model, _ = pair("ifa", torch.device("cpu"))
    assert fused_logits(model, build_batch(requests(), ITEMS, model.config)) is None
