"""Makes, extends and reads the cached attention states of one version of a model.

A state is exact: reading it gives what the model makes of the whole history, up to the order of
sums in float32, because keys, values and codes of a behaviour depend on the item, the actions and
the weights alone. Its time enters by a factor, the decay. Other weights, or another catalogue, need
a state of their own. Knows a model and its catalogue; knows no users and no cache.

States live in host memory and are extended there, whatever device the model is on: an append is
microseconds, and a device is for the candidates.

Letters: B = 1, C candidates, T behaviours, R rows of the catalogue, P action bytes, D width, F
features of phi, E width of values, G families of codes, K codes looked up, V values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.data.features import (
    LOG_SCALE,
    NUM_GAPS,
    Batch,
    build_batch,
    counted_keys,
    gap_buckets,
    with_counts,
)
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import ConfigError, RequestError
from ifa_ray.models.base import RankModel
from ifa_ray.models.code_heads import BITS, NO_DECAY, Cached, CodeState
from ifa_ray.models.linear_attention import SequenceState, feature_map
from ifa_ray.ranking.cached_state import NEVER_MS, CodeTable, HistoryState
from ifa_ray.reranking.repetition import MAX_RECENT
from ifa_ray.schema import ACTIONS, History, RankRequest

# At most this many behaviours are left out of the dense sums until a read. One by one they would
# cost more, and at a million behaviours the sums would be off by 0.3%: float32 rounds every one.
_PENDING = 64
_ROWS_AT_ONCE = 8192
COLUMNS = ("ids_T", "actions_T", "times_ms_T")
_ACTION_MASK = np.uint8((1 << len(ACTIONS)) - 1)
# Of a family with no more codes than this all are read, of a larger one those of the candidates.
_FEW_CODES = 1024


class _Family(NamedTuple):
    """A family of codes as a table knows it: code c of a row is entered as `offset` + c."""

    code_R: npt.NDArray[np.int32]
    num_codes: int
    offset: int


class _Found(NamedTuple):
    """A family's codes as of one request, and the place of each candidate's among them."""

    place_C: npt.NDArray[np.int64]
    sums_KDV: npt.NDArray[np.float32]
    last_ms_K: npt.NDArray[np.int64]


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
        spec = model.cache_spec()
        if spec is None:
            raise ConfigError(
                f"name == {model.config.name!r} keeps no sequence state: what its candidates read "
                "is no sum over the history."
            )
        if "sequence_attention" in model.config.modules and model.history_reads > spec.latest:
            raise ConfigError(
                "modules hold 'sequence_attention', must not where a sequence state is kept: with "
                "it one more behaviour changes what all earlier ones are read as."
            )
        self._model, self._items, self._spec = model, items, spec
        self._num_latest = max(MAX_RECENT, spec.latest, _PENDING)
        self._counted = counted_keys(model.config)
        uncounted = tuple(k for k in model.config.cross_features if k not in self._counted)
        self._uncounted_config = dataclasses.replace(model.config, cross_features=uncounted)
        self._decay_days = spec.codes.decay_days if spec.codes else (NO_DECAY,)
        self._families = _families_of(model, items, self._counted)
        codes = [family.offset + family.code_R for family in self._families.values()]
        self._code_RG = np.stack(codes, axis=1) if codes else None
        byte_P = np.arange(1 << len(ACTIONS))
        bits = [np.ones(len(byte_P), np.int64), *(byte_P >> bit & 1 for bit in BITS)]
        self._values_PV = np.stack(bits, axis=1).astype(np.float32)
        if spec.dense:
            assert model.items.frozen_RD is not None, "the model must be frozen"
            with torch.inference_mode():
                # The model's own table where the model is on the host, else a copy.
                self._items_RD = model.items.frozen_RD.cpu().numpy()
                bytes_P = torch.from_numpy(byte_P).to(model.device)
                self._actions_PD = model.actions(bytes_P).cpu().numpy()
                weights = [spec.dense.key.weight, spec.dense.value.weight]
                self._weight_XD = torch.cat(weights).cpu()

    def empty(self) -> HistoryState:
        """The state of a user who has seen nothing."""
        dense_FE = None
        if self._spec.dense:
            F = len(self._spec.dense.key.weight)
            dense_FE = np.zeros((F, len(self._weight_XD) - F + 1), np.float32)
        num_values = self._values_PV.shape[1]
        codes = CodeTable(self._decay_days, num_values) if self._families else None
        return HistoryState(dense_FE=dense_FE, codes=codes)

    def append(self, state: HistoryState, history: History) -> None:
        """Adds behaviours that follow those that the state holds, O(T), whatever it holds.

        Raises:
            RequestError: if one happened before the one before it; the state is as it was.
        """
        T, last_ms = len(history), state.last_ms
        if T == 0:
            return
        if last_ms is not None and history.times_ms_T[0] < last_ms:
            raise RequestError(
                f"history.times_ms[0] == {history.times_ms_T[0]} of what is appended, must be >= "
                f"{last_ms}, the time of the behaviour before it."
            )
        if T > 1 and (np.diff(history.times_ms_T) < 0).any():
            raise RequestError("history.times_ms decreases, must be oldest first.")
        sums_FE = None
        if state.dense_FE is not None and state.length + T - state.num_summed > _PENDING:
            sums_FE = state.dense_FE
            self._add_pending(state, sums_FE)
        for start in range(0, T, _ROWS_AT_ONCE):
            part = part_of(history, start, start + _ROWS_AT_ONCE)
            rows_T, actions_T = self._items.rows(part.ids_T), part.actions_T & _ACTION_MASK
            if state.codes is not None and self._code_RG is not None:
                values_TV = self._values_PV[actions_T]
                state.codes.add(self._code_RG[rows_T], values_TV, part.times_ms_T)
            if sums_FE is not None:
                self._add_dense(sums_FE, rows_T, actions_T)
        state.latest = _last_of(state.latest, history, self._num_latest)
        state.length += T
        if sums_FE is not None:
            state.num_summed = state.length

    def read(self, state: HistoryState, request: RankRequest) -> tuple[Batch, Cached]:
        """Reads what the model needs for a request, O(C) whatever n was.

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
        with_latest = dataclasses.replace(request, history=state.latest)
        batch = build_batch([with_latest], self._items, self._uncounted_config)
        C, rows_C = len(request.candidates_C), batch.candidate_rows_BC[0].numpy()
        counts_CX = [np.empty((C, 0), np.float32)]
        gap_CK = np.empty((C, len(self._counted)), np.int64)
        blocks: list[torch.Tensor] = []
        if state.codes is not None:
            found = {
                name: _look_up(family, state.codes, rows_C, request.time_ms)
                for name, family in self._families.items()
            }
            for k, key in enumerate(self._counted):
                counts_C4, gap_CK[:, k] = _counts_and_gap(
                    found[_counted_family(key)], request.time_ms
                )
                counts_CX.append(counts_C4)
            blocks = [block.to(self._model.device) for block in self._code_blocks(found, C)]
        # Beyond what the model has learned on, a history is as long as the longest it has seen.
        length = min(state.length, self._uncounted_config.max_history)
        batch = with_counts(batch, length, np.concatenate(counts_CX, axis=1), gap_CK)
        cached = Cached(dense=self._dense(state), code_blocks=tuple(blocks))
        return batch.to(self._model.device), cached

    def _code_blocks(self, found: dict[str, _Found], C: int) -> Iterator[torch.Tensor]:
        """The block of each family of the model's code heads, [B, C, *]."""
        heads = self._spec.codes
        if heads is None:
            return
        states = {
            name: CodeState(
                sums_BSX=torch.from_numpy(each.sums_KDV).flatten(1)[None],
                decay_days=self._decay_days,
            )
            for name, each in found.items()
        }
        for name in heads.families:
            if name == "user":
                yield heads.of_all(states["user"], C)
            else:
                place_BC = torch.from_numpy(found[name].place_C)[None]
                yield heads.of_some(states[name], place_BC, states["user"])

    def _dense(self, state: HistoryState) -> SequenceState | None:
        """The dense sums of the whole history, in memory of their own, on the model's device."""
        if state.dense_FE is None:
            return None
        dense_FE = state.dense_FE.copy()
        self._add_pending(state, dense_FE)
        dense_1FE = torch.from_numpy(dense_FE)[None].to(self._model.device)
        return SequenceState(
            values_BFE=dense_1FE[..., :-1],
            mass_BF=dense_1FE[..., -1],
            count_B=torch.tensor([float(state.length)], device=self._model.device),
        )

    def _add_pending(self, state: HistoryState, dense_FE: npt.NDArray[np.float32]) -> None:
        """Adds the behaviours that the state's own dense sums lack."""
        if num_pending := state.length - state.num_summed:
            pending = part_of(state.latest, -num_pending, None)
            rows_T = self._items.rows(pending.ids_T)
            self._add_dense(dense_FE, rows_T, pending.actions_T & _ACTION_MASK)

    def _add_dense(
        self,
        dense_FE: npt.NDArray[np.float32],
        rows_T: npt.NDArray[np.int64],
        actions_T: npt.NDArray[np.uint8],
    ) -> None:
        """Adds phi(K)^T [V, 1] of behaviours in place, O(T (D (F + E) + F E))."""
        F = len(dense_FE)
        with torch.inference_mode():
            features_TD = torch.from_numpy(self._items_RD[rows_T] + self._actions_PD[actions_T])
            projected_TX = features_TD @ self._weight_XD.T
            phi_TF = feature_map(projected_TX[:, :F], self._model.config.phi)
            values_TE = projected_TX[:, F:]
            added_FE = torch.cat([phi_TF.T @ values_TE, phi_TF.sum(dim=0)[:, None]], dim=1)
        dense_FE += added_FE.numpy()


def part_of(history: History, start: int, stop: int | None) -> History:
    """Behaviours [start, stop) of a history, or all from start on; a view."""
    return History(**{name: getattr(history, name)[start:stop] for name in COLUMNS})


def _last_of(earlier: History, later: History, count: int) -> History:
    """The last behaviours of two histories in a row, copied."""
    later = part_of(later, max(0, len(later) - count), None)
    earlier = part_of(earlier, max(0, len(earlier) + len(later) - count), None)
    both = {name: [getattr(part, name) for part in (earlier, later)] for name in COLUMNS}
    return History(**{name: np.concatenate(columns) for name, columns in both.items()})


def _look_up(
    family: _Family, table: CodeTable, rows_C: npt.NDArray[np.int64], now_ms: int
) -> _Found:
    code_C = family.code_R[rows_C]
    if family.num_codes <= _FEW_CODES:
        asked_K, place_C = np.arange(family.num_codes, dtype=np.int32), code_C.astype(np.int64)
    else:
        asked_K, place_C = _numbered(code_C, family.num_codes)
    return _Found(place_C, *table.read(family.offset + asked_K, now_ms))


def _numbered(
    code_C: npt.NDArray[np.int32], num_codes: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The distinct codes, and each candidate's place among them; O(C), in no order.

    A sparse set: what `place` held before it was written is never read.
    """
    place = np.empty(num_codes, np.int64)
    candidates_C = np.arange(len(code_C))
    place[code_C] = candidates_C
    chosen_C = place[code_C]  # of those of equal code the same one
    is_chosen_C = chosen_C == candidates_C
    number_C = np.cumsum(is_chosen_C) - 1
    return code_C[is_chosen_C], number_C[chosen_C]


def _counts_and_gap(
    found: _Found, now_ms: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Of each candidate's key the cross features: counts [C, 4], and the bucket of the gap."""
    # Counts are whole numbers, so float32 held them exactly and the logarithm is the same.
    counts_K4 = LOG_SCALE * np.log1p(found.sums_KDV[:, 0].astype(np.float64))
    met_K = found.last_ms_K != NEVER_MS
    gap_K = np.full(len(met_K), NUM_GAPS)
    gap_K[met_K] = gap_buckets(now_ms - found.last_ms_K[met_K])
    return counts_K4.astype(np.float32)[found.place_C], gap_K[found.place_C]


def _families_of(
    model: RankModel, items: ItemTable, counted: tuple[str, ...]
) -> dict[str, _Family]:
    """Every family that the model or its cross features read, by name; the author's is last."""
    spec = model.cache_spec()
    heads = spec.codes if spec else None
    named: dict[str, tuple[npt.NDArray[np.int64], int]] = {}
    if heads or counted:
        named["user"] = (np.zeros(len(items) + 1, np.int64), 1)
    if heads:
        for name in (n for n in heads.families if n not in ("user", "author")):
            rows, num_codes = heads.codes_of_rows(name, model.items.category_R)
            named[name] = (rows.cpu().numpy(), num_codes)
    if "category" in counted:
        index_R = items.category_index_R
        named[_counted_family("category")] = (index_R, int(index_R[0]) + 1)
    if "author" in counted or (heads and "author" in heads.families):
        named["author"] = (items.author_index_R, int(items.author_index_R[0]) + 1)
    families, offset = {}, 0
    for name, (code_R, num_codes) in named.items():
        families[name] = _Family(code_R.astype(np.int32), num_codes, offset)
        offset += num_codes
    assert offset < 2**31
    return families


def _counted_family(key: str) -> str:
    """The family of a counted key. A code head's categories are hashed, a counted one's are not."""
    return "counted_category" if key == "category" else key
