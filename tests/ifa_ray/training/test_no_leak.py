"""Nothing of what became of a request reaches the model that is asked about it."""

import dataclasses

import numpy as np
import pytest
from tiny_learners import make_learner, make_samples

from ifa_ray.models import MODELS
from ifa_ray.ranking.ranker import ModelRanker


@pytest.mark.parametrize("name", sorted(MODELS))
def test_which_candidates_were_shown_changes_nothing_but_labels(name):
    samples = make_samples(4)
    rng = np.random.default_rng(0)
    shuffled = [
        dataclasses.replace(sample, labels_CL=rng.permutation(sample.labels_CL))
        for sample in samples
    ]
    assert any(
        (one.labels_CL != other.labels_CL).any()
        for one, other in zip(samples, shuffled, strict=True)
    )
    one, other = (make_learner(name).step(batch) for batch in (samples, shuffled))
    np.testing.assert_array_equal(one.log_probs_XL, other.log_probs_XL)
    assert one.loss != other.loss


@pytest.mark.parametrize("name", ["ifa", "ifa_fsm", "ifa_lsh"])
def test_the_candidate_set_that_is_read_is_whole_when_learning_and_when_serving(name):
    """F_cc over the shown ones alone would say who was shown; over all, both stages agree."""
    sample = make_samples(1)[0]
    learner = make_learner(name)
    tested = learner.step([sample])
    assert len(tested.log_probs_XL) == len(sample.request.candidates_C)
    fresh = make_learner(name)
    everything = dataclasses.replace(sample.request, k=len(sample.request.candidates_C))
    served = ModelRanker(fresh.model, fresh.items, version=0).rank([everything])[0]
    place = {int(id_): k for k, id_ in enumerate(served.ids_K)}
    order = [place[int(id_)] for id_ in sample.request.candidates_C]
    np.testing.assert_allclose(
        np.log(served.probabilities_KL[order]), tested.log_probs_XL, rtol=1e-4, atol=1e-4
    )
