"""The earlier, imperfect recommender under which everybody's prehistory was lived.

Knows what a platform knows: popularity, content, categories, histories. It has no latent interests
and learns nothing; levels are calibrated under it, and models are first trained on its log.

Letters: U users, C candidates, K slate size, N items, R recent positives, D content width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.catalog import ObservedCatalog
from simulator.config import WorldConfig
from simulator.crn import Purpose, uniform
from simulator.policy_kernels import best_match, largest
from simulator.profiles import LongProfiles
from simulator.queries import Candidates, RetrievalQuery

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
    content_ND = catalog.items.content_ND
    score_UC = config.policy_popularity * np.log(len(catalog.items) * catalog.popularity_N[ids_UC])
    recent_URD = content_ND[query.recent_UR]
    recent_URD[query.recent_UR < 0] = 0
    long_UC, recent_UC = (np.empty(ids_UC.shape, np.float32) for _ in range(2))
    best_match(content_ND, ids_UC, profiles.content_UMD, recent_URD, long_UC, recent_UC)
    score_UC += LONG_WEIGHT * long_UC
    score_UC += RECENT_WEIGHT * recent_UC
    lift_UC = np.take_along_axis(
        profiles.category_lift_UG, catalog.items.category_N[ids_UC].astype(np.int64), axis=1
    )
    score_UC += CATEGORY_WEIGHT * lift_UC
    user, day, session, _ = query.keys
    noise_UC = uniform(catalog.seed, Purpose.POLICY, user, day, session, ids_UC)
    score_UC -= config.policy_noise * np.log(-np.log(noise_UC))
    best_UK = np.empty((len(ids_UC), config.slate_size), np.int64)
    largest(score_UC, best_UK)
    return np.take_along_axis(ids_UC, best_UK, axis=1)
