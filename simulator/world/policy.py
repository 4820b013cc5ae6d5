"""The earlier, imperfect recommender under which all prehistories are simulated.

Knows what a platform knows: popularity, content, categories, histories. It has no latent interests
and learns nothing; levels are calibrated under it, and models are first trained on its log.

Letters: U users, C candidates, K slate size, N items, R recent positives, V vectors, D content
width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.world.arrays import Ints
from simulator.world.catalog import ObservedCatalog
from simulator.world.config import WorldConfig
from simulator.world.crn import Purpose, uniform
from simulator.world.queries import Candidates, LongProfiles, RetrievalQuery

# Beside them: the settings `policy_popularity` and `policy_noise`.
LONG_WEIGHT = 2.0
RECENT_WEIGHT = 0.5
CATEGORY_WEIGHT = 1.5

_CHUNK = 1 << 18  # candidates whose content is gathered at once


def choose_slates(
    catalog: ObservedCatalog,
    config: WorldConfig,
    query: RetrievalQuery,
    profiles: LongProfiles,
    candidates: Candidates,
) -> Ints:
    """The best K candidates of each user, best first, int32 [U, K]."""
    ids_UC = candidates.ids_UC
    content_ND = catalog.items.content_ND
    score_UC = config.policy_popularity * np.log(len(catalog.items) * catalog.popularity_N[ids_UC])
    recent_URD = content_ND[query.recent_UR]
    recent_URD[query.recent_UR < 0] = 0
    score_UC += LONG_WEIGHT * best_match(content_ND, ids_UC, profiles.content_UMD)
    score_UC += RECENT_WEIGHT * best_match(content_ND, ids_UC, recent_URD)
    lift_UC = np.take_along_axis(
        profiles.category_lift_UG, catalog.items.category_N[ids_UC].astype(np.int64), axis=1
    )
    score_UC += CATEGORY_WEIGHT * lift_UC
    user, day, session, _ = query.keys
    noise_UC = uniform(catalog.seed, Purpose.POLICY, user, day, session, ids_UC)
    score_UC -= config.policy_noise * np.log(-np.log(noise_UC))
    best_UK = np.argsort(-score_UC, axis=1, kind="stable")[:, : config.slate_size]
    return np.take_along_axis(ids_UC, best_UK, axis=1)


def best_match(
    content_ND: npt.NDArray[np.float32], ids_UC: Ints, vectors_UVD: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Inner product of each candidate with the closest of its user's vectors, at least 0, [U, C].

    Summed dimension by dimension: a matrix product's last bits may depend on the batch.
    """
    best_UC = np.zeros(ids_UC.shape, np.float32)
    step = max(1, _CHUNK // ids_UC.shape[1])
    for start in range(0, len(ids_UC), step):
        rows = slice(start, start + step)
        content_DUC = content_ND.T[:, ids_UC[rows]]
        for vector_UD in vectors_UVD[rows].swapaxes(0, 1):
            product_UC = np.zeros(content_DUC.shape[1:], np.float32)
            for d, content_UC in enumerate(content_DUC):
                product_UC += content_UC * vector_UD[:, d, None]
            np.maximum(best_UC[rows], product_UC, out=best_UC[rows])
    return best_UC
