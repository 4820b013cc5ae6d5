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
from ifa_ray.models.cached import Cached
from ifa_ray.models.code_heads import BITS, NO_DECAY, CodeState
from ifa_ray.models.linear_attention import LinearAttention, SequenceState, feature_map
from ifa_ray.ranking.cached_state import NEVER_MS, CodeTable, HistoryState
from ifa_ray.reranking.repetition import MAX_RECENT
from ifa_ray.schema import ACTIONS, History, RankRequest

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


# Of a family with no more codes than this all are read, of a larger one those of the candidates.
_FEW_CODES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A family of codes as a table knows it: code c is entered as `offset` + c."""

    name: str
    code_R: npt.NDArray[np.int32]
    num_codes: int
    offset: int


class FoundCodes:
    """What a table says of every family as of one request; all looked up at once."""

    def __init__(
        self,
        families: dict[str, Family],
        table: CodeTable,
        rows_C: npt.NDArray[np.int64],
        now_ms: int,
        decay_days: tuple[float, ...],
    ) -> None:
        self._decay_days = decay_days
        self._now_ms = now_ms
        self.code_C: dict[str, npt.NDArray[np.int64]] = {}
        self._part: dict[str, slice] = {}
        codes: list[npt.NDArray[np.int32]] = []
        start = 0
        for family in families.values():
            code_C = family.code_R[rows_C]
            if family.num_codes <= _FEW_CODES:
                asked = np.arange(family.num_codes, dtype=np.int32)
                self.code_C[family.name] = code_C.astype(np.int64)
            else:
                asked, self.code_C[family.name] = _numbered(code_C, family.num_codes)
            codes.append(family.offset + asked)
            self._part[family.name] = slice(start, start + len(asked))
            start += len(asked)
        self._sums_KDV, self._last_ms_K = table.read(np.concatenate(codes), now_ms)

    def sums(self, family: str) -> CodeState:
        """As a model reads them, of the codes that `code_C` names."""
        sums_KX = self._sums_KDV[self._part[family]].reshape(-1, self._sums_KDV[0].size)
        return CodeState(sums_BSX=torch.from_numpy(sums_KX)[None], decay_days=self._decay_days)

    def met(self, family: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Of each candidate's key the cross features: counts [C, 4], and the bucket of the gap."""
        part, code_C = self._part[family], self.code_C[family]
        # Counts are whole numbers, so float32 held them exactly and the logarithm is the same.
        counts_K4 = LOG_SCALE * np.log1p(self._sums_KDV[part, 0].astype(np.float64))
        last_ms_K = self._last_ms_K[part]
        met_K = last_ms_K != NEVER_MS
        gap_K = np.full(len(last_ms_K), NUM_GAPS)
        gap_K[met_K] = gap_buckets(self._now_ms - last_ms_K[met_K])
        return counts_K4.astype(np.float32).take(code_C, axis=0), gap_K.take(code_C)


def families_of(model: RankModel, items: ItemTable, counted: tuple[str, ...]) -> dict[str, Family]:
    """Every family that the model or its cross features read, by name; the author's is last."""
    kept = model.cache_spec()
    heads = kept.codes if kept else None
    named: dict[str, tuple[npt.NDArray[np.int64], int]] = {}
    num_rows = len(items) + 1
    if heads or counted:
        named["user"] = (np.zeros(num_rows, np.int64), 1)
    for name in heads.families if heads else ():
        if name not in ("user", "author"):
            assert heads is not None
            rows, num_codes = heads.codes_of_rows(name, model.items.category_R)
            named[name] = (rows.cpu().numpy(), num_codes)
    if "category" in counted:
        index_R = items.category_index_R
        named[counted_family("category")] = (index_R, int(index_R[0]) + 1)
    if "author" in counted or (heads and "author" in heads.families):
        named["author"] = (items.author_index_R, int(items.author_index_R[0]) + 1)
    families, offset = {}, 0
    for name, (code_R, num_codes) in named.items():
        families[name] = Family(
            name=name, code_R=code_R.astype(np.int32), num_codes=num_codes, offset=offset
        )
        offset += num_codes
    assert offset < 2**31
    return families


def counted_family(key: str) -> str:
    """The family of a counted key. A code head's categories are hashed, a counted one's are not."""
    return "counted_category" if key == "category" else key


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


class Projection:
    """HistoryFeatures to what they add to phi(K)^T [V, 1]; on the host, float32."""

    def __init__(self, model: RankModel, attention: LinearAttention) -> None:
        with torch.inference_mode():
            items_RD = model.items.frozen_RD
            assert items_RD is not None, "the model must be frozen"
            bytes_P = torch.arange(1 << len(ACTIONS), device=model.device)
            # The model's own table where the model is on the host, else a copy.
            self._items_RD = items_RD.cpu().numpy()
            self._actions_PD = model.actions(bytes_P).cpu().numpy()
            weights = (attention.key.weight, attention.value.weight)
            self._weight_XD = torch.cat(weights).cpu()
        self._phi = attention.phi
        self._device = model.device
        self._features = attention.key.weight.shape[0]

    def zeros(self) -> npt.NDArray[np.float32]:
        """Of the empty history, [F, E + 1]."""
        return np.zeros((self._features, len(self._weight_XD) - self._features + 1), np.float32)

    def add(
        self,
        dense_FE: npt.NDArray[np.float32],
        rows_T: npt.NDArray[np.int64],
        actions_T: npt.NDArray[np.uint8],
    ) -> None:
        """Adds behaviours in place, O(T (D (F + E) + F E))."""
        with torch.inference_mode():
            features_TD = torch.from_numpy(self._items_RD[rows_T] + self._actions_PD[actions_T])
            projected_TX = features_TD @ self._weight_XD.T
            phi_TF = feature_map(projected_TX[:, : self._features], self._phi)
            values_TE = projected_TX[:, self._features :]
            added_FE = torch.cat([phi_TF.T @ values_TE, phi_TF.sum(dim=0)[:, None]], dim=1)
        dense_FE += added_FE.numpy()

    def state(self, dense_FE: npt.NDArray[np.float32], length: int) -> SequenceState:
        """Sums of so many behaviours as attention reads them, on the model's device."""
        dense_1FE = torch.from_numpy(dense_FE)[None].to(self._device)
        return SequenceState(
            values_BFE=dense_1FE[..., :-1],
            mass_BF=dense_1FE[..., -1],
            count_B=torch.tensor([float(length)], device=self._device),
        )
