"""Re-ranking by its definitions: every gain computed anew, pair by pair."""

import numpy as np

from ifa_ray.reranking.repetition import FADING, FEATURES, GROUPS, KINDS
from ifa_ray.reranking.step import RIDGE


def fill_slate(scores_P, gain_of, k):
    """The chosen places, given the gain of a place under those above it."""
    above = []
    for _ in range(k):
        worth = {
            place: round(float(score) + gain_of(place, above), 5)
            for place, score in enumerate(scores_P)
            if place not in above
        }
        above.append(max(worth, key=worth.get))
    return above


def mmr_gain(content_PX, place, above):
    unit_PX = content_PX.astype(np.float64)
    return -max((float(unit_PX[place] @ unit_PX[i]) for i in above), default=0.0)


def dpp_gain(content_PX, place, above):
    """A difference of log-determinants."""

    def log_det(places):
        unit_tX = content_PX[places].astype(np.float64)
        kernel_tt = (1 - RIDGE) * unit_tX @ unit_tX.T + RIDGE * np.eye(len(places))
        return float(np.linalg.slogdet(kernel_tt)[1])

    return log_det([*above, place]) - (log_det(above) if above else 0.0)


def learned_gain(traits, rows_P, recent, logit_P, weights_F, place, above):
    """Of one objective at weight 1."""
    above_rows = rows_P[np.array(above, np.int64)]
    moved = logit_P[place] + features(traits, rows_P[[place]], recent, above_rows)[0] @ weights_F
    return float(np.logaddexp(0.0, -logit_P[place]) - np.logaddexp(0.0, -moved))


def features(traits, rows_P, recent, above_rows):
    """Features of repetition, [P, F]."""
    earlier = [*recent.rows_S.tolist(), *above_rows.tolist()]
    num_recent = len(recent.rows_S)
    features_PF = np.zeros((len(rows_P), len(FEATURES)))
    for p, row in enumerate(rows_P):
        for i, other in enumerate(earlier):
            weight = FADING ** (len(earlier) - 1 - i)
            cosine = max(0.0, float(traits.content_RX[row] @ traits.content_RX[other]))
            groups = ["above"] if i >= num_recent else ["session"]
            if i < num_recent:
                groups += ["clicked"] * bool(recent.clicked_S[i])
                groups += ["viewed"] * bool(recent.viewed_S[i])
            for group in groups:
                block_4 = features_PF[p, GROUPS.index(group) * len(KINDS) :][: len(KINDS)]
                block_4[0] += weight * (traits.category_R[row] == traits.category_R[other])
                block_4[1] += weight * (traits.author_R[row] == traits.author_R[other])
                block_4[2] += weight * cosine**2
                block_4[3] = max(block_4[3], cosine)
    return features_PF
