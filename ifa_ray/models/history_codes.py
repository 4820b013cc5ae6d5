"""Which codes a behaviour has, and what a user's table says of those of the candidates.

Knows the families: those of a model's code heads, and the keys that cross features count. One
table holds all of them, each from an offset on. Knows no sums of attention.

Letters: C candidates, R rows of the catalogue, K codes looked up, V values, D decays, X = D V.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.data.features import LOG_SCALE, NUM_GAPS, gap_buckets
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import RankModel
from ifa_ray.models.code_heads import CodeState
from ifa_ray.models.code_table import NEVER_MS, CodeTable

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
