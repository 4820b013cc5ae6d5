import numpy as np
from reranking_cases import ITEMS, make_request

from ifa_ray.reranking.repetition import FEATURES, ItemTraits
from ifa_ray.reranking.response import CONTROLS, SetResponse, lesson_of
from ifa_ray.schema import OBJECTIVES, TrainingSample

TRAITS = ItemTraits.of(ITEMS)
A, F, L = len(CONTROLS), len(FEATURES), len(OBJECTIVES) - 1


def draw(rng, count, true_F, liking=0.0):
    """Impressions whose logit is the ranker's plus `true_F` times repetition.

    With `liking`, who sees more repetition likes it more, by a control that says so.
    """
    controls_XA = np.zeros((count, A))
    controls_XA[:, 0] = 1
    whole_slate_X = rng.normal(size=count)
    controls_XA[:, CONTROLS.index("slate_category")] = whole_slate_X
    features_XF = rng.normal(size=(count, F)) + liking * whole_slate_X[:, None]
    logits_XL = rng.normal(size=(count, L))
    truth_XL = logits_XL + (features_XF @ true_F)[:, None] + 2 * liking * whole_slate_X[:, None]
    labels_XL = (rng.random((count, L)) < 1 / (1 + np.exp(-truth_XL))).astype(np.uint8)
    return np.concatenate([controls_XA, features_XF], axis=1), logits_XL, labels_XL


def learned_from(batches):
    response = SetResponse()
    for batch in batches:
        response.learn(*batch)
    return response


def test_true_weights_are_found():
    rng = np.random.default_rng(0)
    true_F = np.zeros(F)
    true_F[:3] = (-0.5, 0.3, -0.2)
    response = learned_from(draw(rng, 32, true_F) for _ in range(500))
    weights_LF = response.repetition_weights()
    # 16,000 impressions, fading: the standard error of a weight is about 0.02.
    np.testing.assert_allclose(weights_LF, np.tile(true_F, (L, 1)), atol=0.1)


def test_that_repetition_is_shown_to_who_likes_it_does_not_make_it_good():
    rng = np.random.default_rng(1)
    true_F = np.zeros(F)
    true_F[0] = -0.5
    response = learned_from(draw(rng, 32, true_F, liking=0.4) for _ in range(500))
    assert (response.repetition_weights()[:, 0] < -0.35).all()


def test_an_empty_lesson_changes_nothing():
    response = SetResponse()
    response.learn(np.empty((0, A + F)), np.empty((0, L)), np.empty((0, L), np.uint8))
    assert not response.repetition_weights().any()


def test_it_has_state_but_no_parameters():
    assert list(SetResponse().parameters()) == []
    assert set(SetResponse().state_dict()) == {"weights_LG", "precision_LGG"}


def test_a_lesson_holds_the_shown_candidates_in_the_order_shown():
    request = make_request(candidates=10)
    positions_C = np.full(10, -1, np.int16)
    positions_C[[7, 2, 4]] = (0, 1, 3)  # position 2 was a random item that was no candidate
    sample = TrainingSample(
        request=request, labels_CL=np.zeros((10, L + 1), np.uint8), positions_C=positions_C
    )
    places_J, inputs_JG = lesson_of(sample, ITEMS, TRAITS)
    assert places_J.tolist() == [7, 2, 4]
    named = dict(zip((*CONTROLS, *FEATURES), inputs_JG.T, strict=True))
    np.testing.assert_allclose(named["log_position"], np.log([1, 2, 4]))
    assert not any(named[name][0] for name in FEATURES if name.startswith("above"))
    category_J = ITEMS.category_N[request.candidates_C[places_J] // 2]
    others_J = [(category_J == category).sum() - 1 for category in category_J]
    assert named["slate_category"].tolist() == others_J


def test_nothing_shown_is_an_empty_lesson():
    sample = TrainingSample(
        request=make_request(candidates=10),
        labels_CL=np.zeros((10, L + 1), np.uint8),
        positions_C=np.full(10, -1, np.int16),
    )
    places_J, inputs_JG = lesson_of(sample, ITEMS, TRAITS)
    assert len(places_J) == 0
    assert inputs_JG.shape == (0, A + F)
