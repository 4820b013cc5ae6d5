"""Learning from some negatives: on average the same, tested on all, and never where sets matter."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_learners import make_items, make_learner, make_samples

from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError
from ifa_ray.models import MODELS, model_class
from ifa_ray.training.losses import NegativeSampler, kept_places

RATE = 0.3
EVERY_MODEL = sorted(MODELS)


def learner_of(name, rate=RATE):
    return make_learner(name, negative_rate=rate)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_model_says_whether_its_candidates_read_each_other(name):
    model, config = make_learner(name).model.eval(), make_learner(name).model_config
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # towards weights that have learned something
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        differs = False
        for sample in make_samples(6):
            every_other = sample.request.candidates_C[::2].copy()
            some = dataclasses.replace(sample.request, candidates_C=every_other, k=1)
            whole, part = (
                model(build_batch([request], make_items(), config)).logits_BCL[0]
                for request in (sample.request, some)
            )
            differs |= not torch.allclose(whole[::2], part, atol=1e-4)
    assert model.reads_candidates_together == differs


@pytest.mark.parametrize(
    "name", [m for m in EVERY_MODEL if model_class(m).reads_candidates_together]
)
def test_a_model_that_reads_sets_never_learns_from_parts(name):
    rule = f"negative_rate == 0.3, must be 1 for {name}: its candidates attend to each other"
    with pytest.raises(ConfigError, match=rule):
        learner_of(name)


def test_positives_stay_and_the_kept_do_not_depend_on_order():
    kept = negatives = 0
    for sample in make_samples(300):
        request = sample.request
        places, weights = kept_places(sample, RATE, 5)
        positive = sample.labels_CL.any(axis=1)
        assert set(np.flatnonzero(positive)) <= set(places)
        assert set(weights[positive[places]]) <= {1.0}
        drawn = weights[~positive[places]]
        assert set(drawn) <= {np.float32(1 / RATE)} or (len(places) == 1 and drawn[0] == 0)
        kept, negatives = kept + np.count_nonzero(drawn), negatives + (~positive).sum()
        order = np.random.default_rng(0).permutation(len(positive))
        shuffled = dataclasses.replace(
            sample,
            request=dataclasses.replace(request, candidates_C=request.candidates_C[order]),
            labels_CL=sample.labels_CL[order],
        )
        again, again_weights = kept_places(shuffled, RATE, 5)
        if weights.any():  # else the first stays for form, and counts nothing
            ids = dict(zip(request.candidates_C[places], weights, strict=True))
            assert ids == dict(
                zip(shuffled.request.candidates_C[again], again_weights, strict=True)
            )
    error = np.sqrt(RATE * (1 - RATE) / negatives)
    assert abs(kept / negatives - RATE) < 4 * error


@pytest.mark.parametrize("name", ["avg_pooling", "sim_soft", "ifa_plus"])
def test_loss_and_gradient_are_those_of_all_on_average_over_seeds(name):
    samples = make_samples(4)
    learner = learner_of(name)
    parameters = list(learner.model.dense_parameters())

    def drawn(loss):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        parts = [torch.zeros(1) if g is None else g.reshape(-1) for g in gradients]
        return torch.cat([loss.detach()[None], *parts]).double().numpy()

    whole = drawn(learner._loss(samples)[0])
    found = []
    for seed in range(200):
        found.append(drawn(learner._loss(*NegativeSampler(RATE, seed)(samples))[0]))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    assert error[0] > 0, "each seed draws others"
    assert abs(mean[0] - whole[0]) < 4 * error[0]
    # Of hundreds of weights all lie within 5 standard errors, and their errors average to nothing.
    off = (mean - whole) / np.maximum(error, 1e-7)
    assert np.abs(off).max() < 5
    assert np.linalg.norm(mean - whole) < 0.15 * np.linalg.norm(whole)


@pytest.mark.parametrize("name", ["avg_pooling", "sim_soft"])
def test_all_candidates_are_tested_whatever_is_learned_from(name):
    samples = make_samples(4)
    all_of_them, some = learner_of(name, rate=1.0), learner_of(name)
    one, other = all_of_them.step(samples), some.step(samples)
    # Without a gradient the towers' sums are made in another order.
    np.testing.assert_allclose(one.log_probs_XL, other.log_probs_XL, rtol=1e-6)
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.learned_B is None
    assert (other.learned_B < other.sizes_B).any()
    counts = [np.count_nonzero(kept_places(s, RATE, some.seed)[1]) for s in samples]
    assert other.learned_B.tolist() == counts
    metrics = learner_of(name).train(samples)
    assert metrics.to_dict()["learned_candidates"] == sum(counts)
    assert metrics.candidates == sum(other.sizes_B)
    assert "learned_candidates" not in learner_of(name, rate=1.0).train(samples).to_dict()


def test_a_request_of_which_nothing_is_kept_moves_nothing():
    sample = make_samples(1)[0]
    nothing = dataclasses.replace(sample, labels_CL=np.zeros_like(sample.labels_CL))
    parts, importance = NegativeSampler(1e-9, 0)([nothing])
    assert (len(parts[0].labels_CL), importance.weights_BC.tolist()) == (1, [[0.0]])
    learner = learner_of("avg_pooling", rate=1e-9)
    before = learner.arrays().model
    learner.step([nothing])
    for name, tensor in learner.arrays().model.items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)
