"""Rankers that break the contract, one way each; named on a command line by tests."""

import numpy as np

from ifa_ray.schema import RankResponse


class _Bad:
    def __init__(self, *, items, seed):
        self.items, self.seed = items, seed

    def rank(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        ids, scores = self.choose(request)
        return RankResponse(
            request_id=request.request_id, ids_K=ids, scores_K=scores, model_version=0
        )

    def choose(self, request):
        return request.candidates_C[: request.k].copy(), np.zeros(request.k, np.float32)


class NaNScores(_Bad):
    def choose(self, request):
        ids, scores = super().choose(request)
        scores[-1] = np.nan
        return ids, scores


class ForeignId(_Bad):
    def choose(self, request):
        ids, scores = super().choose(request)
        missing = np.setdiff1d(self.items.video_id_N, request.candidates_C)
        ids[0] = missing[0]
        return ids, scores


class Duplicate(_Bad):
    def choose(self, request):
        ids, scores = super().choose(request)
        ids[1] = ids[0]
        return ids, scores


class TooFew(_Bad):
    def choose(self, request):
        ids, scores = super().choose(request)
        return ids[:-1], scores[:-1]
