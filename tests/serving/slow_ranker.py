"""A ranker of one's own that takes its time, for tests of a full queue."""

import time

import numpy as np

from ifa_ray.schema import RankResponse


class SlowRanker:
    def __init__(self, *, items, seed):
        self.items, self.seed = items, seed

    def rank(self, requests):
        time.sleep(0.5)
        return [
            RankResponse(
                request_id=request.request_id,
                ids_K=request.candidates_C[: request.k],
                scores_K=np.zeros(request.k, np.float32),
                model_version=0,
            )
            for request in requests
        ]
