"""Plain rankers: requests in, slates out. No Ray, no files.

Knows requests, features and a model's log-probabilities; how a request got here and where the
answer goes is `ifa_ray.serving`'s.

Letters: C candidates, P of them, K slate size, L objectives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import require
from ifa_ray.data.features import Batch, build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RankerError, unknown_name
from ifa_ray.models.base import RankModel, log_probabilities_from
from ifa_ray.models.code_heads import Cached
from ifa_ray.ranking.pruning import DECIMALS, prune, worth_pruning
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.reranking.step import SetStep
from ifa_ray.schema import RankRequest, RankResponse, validate_request

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Of the products that prune candidates; those in a slate are scored in float32."""


class Ranker(Protocol):
    """Anything that ranks: `ModelRanker`, or a custom ranker."""

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Answers requests in their order."""
        ...


class ModelRanker:
    """Ranks with a model. The model is the ranker's from now on, and must not learn any more."""

    def __init__(
        self,
        model: RankModel,
        items: ItemTable,
        version: int,
        clock: Callable[[], float] = time.perf_counter,
        precision: str = "fp32",
        *,
        score_all: Callable[[Batch], torch.Tensor] | None = None,
        prunes: bool = True,
    ) -> None:
        """Prepares the model for inference.

        Args:
            model: its config names the ranking rule; on the device that it will stay on.
            items: the catalogue that the model was built with.
            version: reported in every response.
            clock: seconds, for `rank_ms`.
            precision: of `PRECISIONS`. `bf16` computes the rule's towers in bfloat16 for all
                candidates and again in float32 for the best: the same slates. For processors with
                AMX; where bfloat16 is multiplied no faster than float32 it is slower.
            score_all: in place of the model, from a batch on the host to log p(objective|can)
                [B, C, L], such as `ifa_ray.cuda.graphs.GraphedModel.log_probabilities`.
            prunes: False computes every tower of every candidate, for the same slates
                (`ifa_ray.ranking.pruning`).

        Raises:
            ConfigError: on an unknown precision, with the near miss; if `score_all` is given with
                `bf16` too.
        """
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        rule = "'fp32' with score_all: which candidates are scored again depends on their scores"
        require(score_all is None or precision == "fp32", "precision", precision, rule)
        self._dtype = PRECISIONS[precision]
        # On a device, finding out what can be left out costs more than it spares.
        on_host = model.device.type == "cpu"
        self._prunes = prunes and score_all is None and (on_host or precision != "fp32")
        self._model, self._items, self._version, self._clock = model, items, version, clock
        self._rule = parse_ranking_rule(model.config.ranking_rule)
        self._reranking = _reranking(model, items)
        model.freeze()
        self._score_all = score_all

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks each request on its own: no score depends on what else was in the call.

        Raises:
            RequestError: if a request breaks the contract, or names a candidate that is not in the
                catalogue.
            RankerError: if the model gives a score that is not finite.
        """
        for request in requests:
            validate_request(request)
        return [self._rank_one(request) for request in requests]

    def rank_valid(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks requests that `validate_request` has passed, for callers that check them first."""
        return [self._rank_one(request) for request in requests]

    def _rank_one(self, request: RankRequest) -> RankResponse:
        start = self._clock()
        batch = build_batch([request], self._items, self._model.config)
        if self._score_all is None:
            batch = batch.to(self._model.device)
        return self._answer(request, batch, None, start)

    def _answer(
        self, request: RankRequest, batch: Batch, cached: Cached | None, start: float
    ) -> RankResponse:
        """Scores a batch of one request and makes its slate.

        Args:
            request: its latest behaviours suffice.
            batch: its features, on the model's device; on the host with `score_all`.
            cached: as in `RankModel.tower_inputs`.
            start: when the request was begun, by the clock.
        """
        model, C = self._model, len(request.candidates_C)
        wanted = self._reranking.pool_size(C, request.k) if self._reranking else request.k
        prunes = self._prunes and worth_pruning(C, wanted, self._dtype) and model.scores_apart
        with torch.inference_mode():
            if prunes:
                inputs = model.tower_inputs(batch, cached)
                places_P, log_p_PL = prune(model, inputs, self._rule, wanted, self._dtype)
            elif self._score_all is not None:
                places_P, log_p_PL = np.arange(C), self._score_all(batch)[0].cpu().numpy()
            else:
                log_p_PL = model.log_probabilities(batch, cached)[0].cpu().numpy()
                places_P = np.arange(C)
            best_K, scores_K = self._slate(request, places_P, log_p_PL, wanted)
            if prunes:  # the slate's other objectives were left out
                taken = inputs.take(torch.from_numpy(places_P[best_K]).to(model.device))
                log_p_KL = log_probabilities_from(model.logits_of(taken))[0].cpu().numpy()
            else:
                log_p_KL = log_p_PL[best_K]
        return RankResponse(
            request_id=request.request_id,
            ids_K=request.candidates_C[places_P[best_K]],
            scores_K=scores_K,
            model_version=self._version,
            probabilities_KL=np.exp(log_p_KL),
            rank_ms=(self._clock() - start) * 1e3,
        )

    def _slate(
        self,
        request: RankRequest,
        places_P: npt.NDArray[np.int64],
        log_p_PL: npt.NDArray[np.float32],
        wanted: int,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Places in [0, P) and scores of the slate: the best `wanted`, re-ranked if so asked for.

        Raises:
            RankerError: if a score is not finite.
        """
        ids_P, scores_P = request.candidates_C[places_P], self._rule.scores(log_p_PL)
        if not np.isfinite(scores_P).all():
            bad = int(np.flatnonzero(~np.isfinite(scores_P))[0])
            raise RankerError(
                f"request {request.request_id}: score of candidate {ids_P[bad]} "
                f"== {scores_P[bad]} by version {self._version}, must be finite."
            )
        best, scores = top_k(ids_P, scores_P, wanted)
        if self._reranking is None:
            return best, scores
        rounded = np.round(scores_P[best], DECIMALS)
        chosen_K, worth_K = self._reranking.choose(request, ids_P[best], rounded, log_p_PL[best])
        return best[chosen_K], worth_K.astype(np.float32)


class RandomRanker:
    """Gives every candidate a score at random: what any model must beat.

    A score depends on the seed, the request and the candidate alone, not on the candidates' order.
    """

    def __init__(self, items: ItemTable, seed: int) -> None:
        self._items = items
        self._seed = seed

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks each request.

        Raises:
            RequestError: as `ModelRanker.rank`.
        """
        return [self._rank_one(request) for request in requests]

    def _rank_one(self, request: RankRequest) -> RankResponse:
        validate_request(request)
        self._items.known_rows(request.candidates_C)
        sequence = np.random.SeedSequence([self._seed, request.user_id, abs(request.request_id)])
        key = sequence.generate_state(1, np.uint64)[0]
        scores_C = _uniform(request.candidates_C.astype(np.uint64) ^ key)
        best_K, scores_K = top_k(request.candidates_C, scores_C, request.k)
        return RankResponse(
            request_id=request.request_id,
            ids_K=request.candidates_C[best_K],
            scores_K=scores_K,
            model_version=0,
        )


def _reranking(model: RankModel, items: ItemTable) -> SetStep | None:
    """The re-ranking of a model's config; None where slates are the top k by score."""
    config = model.config
    if config.set_step == "off" or config.set_strength == 0:
        return None
    learned = model.set_response if config.set_step == "learned" else None
    return SetStep(config, items, learned.repetition_weights() if learned else None)


def top_k(
    ids_C: npt.NDArray[np.int32], scores_C: npt.NDArray[np.float64], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Places and scores of the k best by rounded score, best first; equal ones in order of id."""
    rounded_C = np.round(scores_C, DECIMALS)
    kth = np.partition(rounded_C, len(rounded_C) - k)[len(rounded_C) - k]
    reaching = np.flatnonzero(rounded_C >= kth)
    order = np.lexsort((ids_C[reaching], -rounded_C[reaching]))[:k]
    best_K = reaching[order]
    return best_K, rounded_C[best_K].astype(np.float32)


def _uniform(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Hashes integers to [0, 1): the finaliser of SplitMix64 (Steele et al., 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * np.float64(2.0**-53)
