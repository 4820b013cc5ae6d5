"""Makes, extends, merges and reads the sequence states of one version of a model.

A state is exact: reading it gives what the model makes of the whole history, up to the order of
sums in float32. That holds because keys, values and codes of a behaviour depend on the item, the
actions and the weights alone, not on the request; what does depend on its time, the decay, is a
factor. It holds for one version: other weights, or another catalogue, need a state of their own.
Knows a model and its catalogue; knows no users and no cache.

States live in host memory and are extended there, whatever device the model is on: an append is
microseconds, and a device is for the candidates.

Letters: B = 1, C candidates, T behaviours, R rows of the catalogue, P action bytes, D width, F
features of phi, E width of values, G families of codes, K codes looked up, V values, X = decays V.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.data.features import (
    Batch,
    build_batch,
    counted_keys,
    with_counts,
)
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import ConfigError, RequestError
from ifa_ray.models.base import RankModel
from ifa_ray.models.cached import Cached
from ifa_ray.models.code_heads import BITS, NO_DECAY
from ifa_ray.models.code_table import CodeTable
from ifa_ray.models.history_codes import FoundCodes, counted_family, families_of
from ifa_ray.models.history_projection import Projection
from ifa_ray.models.history_state import HistoryState
from ifa_ray.models.linear_attention import SequenceState
from ifa_ray.schema import ACTIONS, History, RankRequest
from ifa_ray.set_step.repetition import MAX_RECENT

# So many behaviours are added to sums by code one by one.
_FEW = 8
# So many are at most left out of the dense sums, until then or a read. One by one they would cost
# more, and at a million behaviours the sums would be off by 0.3%: float32 rounds every addition.
_PENDING = 64
_ROWS_AT_ONCE = 8192
_ACTION_MASK = np.uint8((1 << len(ACTIONS)) - 1)


class HistoryKeeper:
    """Keeps histories for a frozen model."""

    def __init__(self, model: RankModel, items: ItemTable) -> None:
        """Prepares what behaviours are projected with.

        Args:
            model: frozen (`RankModel.freeze`); its weights must not change any more.
            items: the catalogue that it was built with.

        Raises:
            ConfigError: if the model must see a history whole.
        """
        kept = model.cache_spec()
        if kept is None:
            raise ConfigError(
                f"name == {model.config.name!r} keeps no sequence state: what its candidates read "
                "is no sum over the history."
            )
        if "sequence_attention" in model.config.modules and model.history_reads > kept.latest:
            raise ConfigError(
                "modules hold 'sequence_attention', must not where a sequence state is kept: with "
                "it one more behaviour changes what all earlier ones are read as."
            )
        self._model, self._items, self._kept = model, items, kept
        self._latest = max(MAX_RECENT, kept.latest, _PENDING + _FEW)
        self._counted = counted_keys(model.config)
        uncounted = tuple(k for k in model.config.cross_features if k not in self._counted)
        self._bare = dataclasses.replace(model.config, cross_features=uncounted)
        self._decay_days = kept.codes.decay_days if kept.codes else (NO_DECAY,)
        self._families = families_of(model, items, self._counted)
        code_RG = [family.offset + family.code_R for family in self._families.values()]
        self._code_RG = np.stack(code_RG, axis=1) if code_RG else None
        byte_P = np.arange(1 << len(ACTIONS))
        bits = [np.ones(len(byte_P), np.int64), *(byte_P >> bit & 1 for bit in BITS)]
        self._values_PV = np.stack(bits, axis=1).astype(np.float32)
        self._projection = Projection(model, kept.dense) if kept.dense else None

    def empty(self) -> HistoryState:
        """The state of a user who has seen nothing."""
        codes = None
        if self._families:
            codes = CodeTable(self._decay_days, self._values_PV.shape[1])
        dense_FE = self._projection.zeros() if self._projection else None
        return HistoryState(dense_FE, codes, self._latest)

    def append(self, state: HistoryState, history: History) -> None:
        """Adds behaviours that follow those that the state holds, O(T), whatever it holds.

        Raises:
            RequestError: if one happened before the one before it; the state is as it was.
        """
        times_ms_T = history.times_ms_T
        T = len(times_ms_T)
        if T == 0:
            return
        last_ms = state.last_ms
        if last_ms is not None and times_ms_T[0] < last_ms:
            raise RequestError(
                f"history.times_ms[0] == {times_ms_T[0]} of what is appended, must be >= "
                f"{last_ms}, the time of the behaviour before it."
            )
        if T > 1 and (np.diff(times_ms_T) < 0).any():
            raise RequestError("history.times_ms decreases, must be oldest first.")
        if T <= _FEW:
            self._append_few(state, history)
        else:
            self._add_pending(state)
            for start in range(0, T, _ROWS_AT_ONCE):
                self._append_many(state, part_of(history, start, start + _ROWS_AT_ONCE))
        if state.length == 0:
            state.first_ms = int(times_ms_T[0])
        state.latest.append(history)
        state.length += T
        if state.pending > _PENDING:
            self._add_pending(state)

    def merge(self, earlier: HistoryState, later: HistoryState) -> None:
        """Adds to a state that of the behaviours which follow; O(its rows).

        Raises:
            RequestError: if the later part begins before the earlier one ends; both are as they
                were.
        """
        last_ms = earlier.last_ms
        if last_ms is not None and later.length and later.first_ms < last_ms:
            raise RequestError(
                f"the later part begins at {later.first_ms}, must be >= {last_ms}, where the "
                "earlier one ends."
            )
        if earlier.dense_FE is not None and later.dense_FE is not None:
            self._add_pending(earlier)
            self._add_pending(later)
            earlier.dense_FE += later.dense_FE
        if earlier.codes is not None and later.codes is not None:
            earlier.codes.merge(later.codes)
        if earlier.length == 0:
            earlier.first_ms = later.first_ms
        earlier.latest.append(later.latest.history())
        earlier.length += later.length

    def read(self, state: HistoryState, request: RankRequest) -> tuple[Batch, Cached]:
        """What the model reads for a request, O(C) whatever n was.

        Args:
            state: as of the request; left as it is, and not referred to by what is returned.
            request: its history is not looked at.

        Returns:
            A batch that holds the latest behaviours alone, and what is known of all.

        Raises:
            RequestError: if a candidate is not in the catalogue, or the request was made before
                the last behaviour.
        """
        last_ms = state.last_ms
        if last_ms is not None and last_ms > request.time_ms:
            raise RequestError(
                f"time_ms == {request.time_ms}, must be >= {last_ms}, the time of the user's last "
                "behaviour: the future is not a feature."
            )
        with_latest = dataclasses.replace(request, history=state.latest.history())
        batch = build_batch([with_latest], self._items, self._bare)
        C = len(request.candidates_C)
        rows_C = batch.candidate_rows_BC[0].numpy()
        met: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
        blocks: list[torch.Tensor] = []
        if state.codes is not None:
            found = FoundCodes(
                self._families, state.codes, rows_C, request.time_ms, self._decay_days
            )
            met = [found.met(counted_family(key)) for key in self._counted]
            if self._kept.codes is not None:
                heads, device = self._kept.codes, self._model.device
                whole = found.sums("user")
                for family in heads.families:
                    if family == "user":
                        block = heads.of_all(whole, C)
                    else:
                        code_BC = torch.from_numpy(found.code_C[family])[None]
                        block = heads.of_some(found.sums(family), code_BC, whole)
                    blocks.append(block.to(device))
        # Beyond what the model has learned on, a history is as long as the longest it has seen.
        length = min(state.length, self._bare.max_history)
        if met:
            counts_CX = np.concatenate([counts_C4 for counts_C4, _ in met], axis=1)
            gap_CK = np.stack([gap_C for _, gap_C in met], axis=1)
        else:
            counts_CX, gap_CK = np.empty((C, 0), np.float32), np.empty((C, 0), np.int64)
        batch = with_counts(batch, length, counts_CX, gap_CK)
        cached = Cached(dense=self._dense(state), code_blocks=tuple(blocks))
        return batch.to(self._model.device), cached

    def _append_few(self, state: HistoryState, history: History) -> None:
        if self._projection is not None:
            state.pending += len(history)
        if state.codes is None or self._code_RG is None:
            return
        codes_TG = self._code_RG[self._items.rows(history.ids_T)].tolist()
        values_TV = self._values_PV[history.actions_T & _ACTION_MASK]
        for codes_G, values_V, time_ms in zip(
            codes_TG, values_TV, history.times_ms_T.tolist(), strict=True
        ):
            state.codes.append(codes_G, values_V, time_ms)

    def _append_many(self, state: HistoryState, history: History) -> None:
        rows_T, actions_T = self._items.rows(history.ids_T), history.actions_T & _ACTION_MASK
        if state.codes is not None and self._code_RG is not None:
            values_TV = self._values_PV[actions_T]
            state.codes.extend(self._code_RG[rows_T], values_TV, history.times_ms_T)
        if self._projection is not None and state.dense_FE is not None:
            self._projection.add(state.dense_FE, rows_T, actions_T)

    def _add_pending(self, state: HistoryState) -> None:
        """Brings the dense sums up to date with the latest behaviours."""
        if state.pending and state.dense_FE is not None:
            self._add_latest(state, state.dense_FE)
            state.pending = 0

    def _add_latest(self, state: HistoryState, dense_FE: npt.NDArray[np.float32]) -> None:
        assert self._projection is not None
        pending = part_of(state.latest.history(), len(state.latest) - state.pending, None)
        rows_T = self._items.rows(pending.ids_T)
        self._projection.add(dense_FE, rows_T, pending.actions_T & _ACTION_MASK)

    def _dense(self, state: HistoryState) -> SequenceState | None:
        """The dense sums of the whole history, in memory of their own."""
        if self._projection is None or state.dense_FE is None:
            return None
        dense_FE = state.dense_FE.copy()
        if state.pending:
            self._add_latest(state, dense_FE)
        return self._projection.state(dense_FE, state.length)


def part_of(history: History, start: int, stop: int | None) -> History:
    """HistoryFeatures [start, stop) of a history, or all from start on; a view."""
    return History(
        ids_T=history.ids_T[start:stop],
        actions_T=history.actions_T[start:stop],
        times_ms_T=history.times_ms_T[start:stop],
    )
