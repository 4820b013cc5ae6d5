"""The earlier, imperfect recommender under which everybody's prehistory was lived.

Knows what a platform knows: popularity, content, categories, histories. It has no latent interests
and learns nothing; levels are calibrated under it, and models are first trained on its log.

Letters: U users, C candidates, K slate size, V query vectors, D content width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.catalog import ObservedCatalog
from simulator.config import WorldConfig
from simulator.crn import Purpose, uniform
from simulator.profiles import LongProfiles
from simulator.retrieval import Candidates, RetrievalQuery

__all__ = ["choose_slates"]

# Beside them: the settings `policy_popularity` and `policy_noise`.
LONG_WEIGHT = 2.0
RECENT_WEIGHT = 0.5
CATEGORY_WEIGHT = 1.5


def choose_slates(
    catalog: ObservedCatalog,
    config: WorldConfig,
    query: RetrievalQuery,
    profiles: LongProfiles,
    candidates: Candidates,
) -> npt.NDArray[np.int32]:
    """The best K candidates of each user, best first, int32 [U, K]."""
    ids_UC = candidates.ids_UC
    content_UCD = catalog.items.content_ND[ids_UC]
    score_UC = config.policy_popularity * np.log(len(catalog.items) * catalog.popularity_N[ids_UC])
    score_UC += LONG_WEIGHT * _best_match(content_UCD, profiles.content_UMD)
    recent_URD = catalog.items.content_ND[query.recent_UR]
    recent_URD[query.recent_UR < 0] = 0
    score_UC += RECENT_WEIGHT * _best_match(content_UCD, recent_URD)
    lift_UC = np.take_along_axis(
        profiles.category_lift_UG, catalog.items.category_N[ids_UC].astype(np.int64), axis=1
    )
    score_UC += CATEGORY_WEIGHT * lift_UC
    user, day, session, _ = query.keys
    noise_UC = uniform(catalog.seed, Purpose.POLICY, user, day, session, ids_UC)
    score_UC -= config.policy_noise * np.log(-np.log(noise_UC))
    best_UK = np.argsort(-score_UC, axis=1, kind="stable")[:, : config.slate_size]
    return np.take_along_axis(ids_UC, best_UK, axis=1)


def _best_match(
    content_UCD: npt.NDArray[np.float32], vectors_UVD: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Inner product with the closest of the user's vectors, at least 0, [U, C].

    Summed dimension by dimension: a matrix product's last bits may depend on the batch.
    """
    best_UC = np.zeros(content_UCD.shape[:2], np.float32)
    for v in range(vectors_UVD.shape[1]):
        product_UC = content_UCD[:, :, 0] * vectors_UVD[:, v, 0, None]
        for d in range(1, content_UCD.shape[2]):
            product_UC += content_UCD[:, :, d] * vectors_UVD[:, v, d, None]
        np.maximum(best_UC, product_UC, out=best_UC)
    return best_UC
