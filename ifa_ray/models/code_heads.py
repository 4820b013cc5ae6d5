"""Exponentially decayed counts of a user's history per category, author and kind of content.

The sparse half of IFA+'s kernel: a head for each family of codes looks up in a `CodeState` how
often and with what success the user met the candidate's code, over all time and lately. Kinds of
content are the codes of a two-level code book fitted to the catalogue's content vectors (k-means).

Letters as in `ifa_ray.models.base`; S codes, E counted actions, V values, D decays, X = D (1 + E).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ifa_ray.data.features import COUNTS, LOG_SCALE
from ifa_ray.data.items import ItemTable
from ifa_ray.models.embedding import NUM_CATEGORIES
from ifa_ray.models.inputs import Candidates, HistoryFeatures
from ifa_ray.models.linear_attention import LinearAttention, SequenceState
from ifa_ray.schema import ACTIONS

# Fitting more items than this moves no centre visibly.
_SAMPLE = 20_000
_ROUNDS = 12
_SEED = 0


# Codes of items by content: two levels of k-means, the second on what the first leaves.
#
# Residual quantisation, as of semantic ids (Rajput et al., "TIGER", NeurIPS 2023). A code is a
# sparse feature of an item that does not change while a model learns, so sums by code stay exact.
# Knows content vectors; knows no ids and no labels.


class Codebook(nn.Module):
    """Coarse and fine codes of every row of the catalogue.

    The centres are part of a checkpoint; the rows' codes are rebuilt from them, so that items which
    came later get codes of the same meaning.
    """

    coarse_SX: torch.Tensor
    fine_SX: torch.Tensor
    coarse_R: torch.Tensor
    fine_R: torch.Tensor

    def __init__(self, items: ItemTable, *, num_coarse: int, num_fine: int) -> None:
        """Fits the centres to the catalogue; deterministic.

        Args:
            items: the catalogue.
            num_coarse: codes of the first level.
            num_fine: codes of the second level, for each of the first: the same residual centres.
        """
        super().__init__()
        content_NX = items.content_ND
        coarse_SX = k_means(content_NX, num_coarse)
        residual_NX = content_NX - coarse_SX[_nearest(content_NX, coarse_SX)]
        self.register_buffer("coarse_SX", torch.from_numpy(coarse_SX))
        self.register_buffer("fine_SX", torch.from_numpy(k_means(residual_NX, num_fine)))
        self._content_NX = content_NX
        self.num_coarse, self.num_fine = 1 + num_coarse, 1 + num_coarse * num_fine
        for name in ("coarse_R", "fine_R"):
            self.register_buffer(
                name, torch.zeros(len(items) + 1, dtype=torch.int64), persistent=False
            )
        self._assign()
        self.register_load_state_dict_post_hook(lambda module, _: module._assign())

    def _assign(self) -> None:
        """Gives each row its codes; 0 is the unknown item's."""
        coarse_SX, fine_SX = self.coarse_SX.cpu().numpy(), self.fine_SX.cpu().numpy()
        coarse_N = _nearest(self._content_NX, coarse_SX)
        fine_N = _nearest(self._content_NX - coarse_SX[coarse_N], fine_SX)
        self.coarse_R[1:] = torch.from_numpy(1 + coarse_N)
        self.fine_R[1:] = torch.from_numpy(1 + coarse_N * len(fine_SX) + fine_N)


def k_means(points_NX: npt.NDArray[np.float32], num_centres: int) -> npt.NDArray[np.float32]:
    """Lloyd's algorithm from points far from each other, [S, X] float32.

    Where there are fewer distinct points than centres, some centres are equal and unused.
    """
    rng = np.random.default_rng(_SEED)
    sample = points_NX
    if len(sample) > _SAMPLE:
        sample = sample[np.sort(rng.choice(len(sample), _SAMPLE, replace=False))]
    centres_SX = _spread(sample, num_centres, rng)
    for _ in range(_ROUNDS):
        nearest_N = _nearest(sample, centres_SX)
        count_S = np.bincount(nearest_N, minlength=num_centres)
        total_SX = np.zeros(centres_SX.shape)
        np.add.at(total_SX, nearest_N, sample)
        used = count_S > 0
        centres_SX[used] = (total_SX[used] / count_S[used, None]).astype(np.float32)
    return centres_SX


def _spread(
    points_NX: npt.NDArray[np.float32], num_centres: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Starting centres, each drawn with probability as its squared distance (k-means++)."""
    first = int(rng.integers(len(points_NX)))
    chosen = [first]
    distance_N = np.square(points_NX - points_NX[first]).sum(axis=1, dtype=np.float64)
    for _ in range(num_centres - 1):
        edges_N = np.cumsum(distance_N)
        place = np.searchsorted(edges_N, rng.random() * edges_N[-1], side="right")
        chosen.append(min(int(place), len(points_NX) - 1))
        new_N = np.square(points_NX - points_NX[chosen[-1]]).sum(axis=1, dtype=np.float64)
        distance_N = np.minimum(distance_N, new_N)
    return points_NX[chosen].astype(np.float32)


def _nearest(
    points_NX: npt.NDArray[np.float32], centres_SX: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """The nearest centre of each point; of equally near ones the first."""
    half_S = 0.5 * np.square(centres_SX).sum(axis=1)
    parts = (
        (part @ centres_SX.T - half_S).argmax(axis=1)
        for part in np.split(points_NX, range(65_536, len(points_NX), 65_536))
    )
    return np.concatenate(list(parts))


NO_DECAY = math.inf
"""A decay time in which nothing is forgotten."""

# A rate is read as if this many behaviours at the user's own rate had come before.
_PRIOR = 3.0
# Rates differ by a few tenths; this makes of them inputs of usual size.
_RATE_SCALE = 4.0


# Attention by exact match, inside linear attention: phi's features are one-hot codes.
#
# With phi(k) = one-hot(code of k), phi(K)^T [1, V] is a table with a row per code, built by a
# scatter-add, and phi(Q) a row look-up: what SIM's hard search reads, over the whole history and
# with counts, in O(C + T). HistoryFeatures may count for less the longer ago they were, by a factor
# exp(-age / tau): such a sum forgets by one multiplication, so the table stays exact as time passes
# and as behaviours come. Knows codes, not what they stand for.


def weighted(
    values_BTE: torch.Tensor,
    age_days_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    decay_days: tuple[float, ...],
) -> torch.Tensor:
    """The addition of each impression to its code, [B, T, X]: a weight for each decay, and values.

    Args:
        values_BTE: what is summed beside the weights; whatever padding holds is passed over.
        age_days_BT: >= 0, time since.
        mask_BT: True = a real behaviour; padding adds 0.
        decay_days: D of them.
    """
    ones_BT1 = torch.ones_like(age_days_BT)[..., None]
    plain = torch.cat([ones_BT1, values_BTE.float()], dim=-1)
    plain = torch.where(mask_BT[..., None], plain, 0.0)
    parts = [
        plain if math.isinf(days) else plain * torch.exp(-age_days_BT / days)[..., None]
        for days in decay_days
    ]
    return torch.cat(parts, dim=-1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CodeState:
    """Sums by code over a history, float32 always: a commutative monoid under `merge`.

    Attributes:
        sums_BSX: for each decay the sum of weights, then that of weighted values.
        decay_days: D decay times; `NO_DECAY` sums plainly.
    """

    sums_BSX: torch.Tensor
    decay_days: tuple[float, ...]

    @classmethod
    def of(
        cls,
        values_BTE: torch.Tensor,
        age_days_BT: torch.Tensor,
        code_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        num_codes: int,
        decay_days: tuple[float, ...],
    ) -> CodeState:
        """Sums a history, O(T X + S X).

        Args:
            values_BTE: as in `weighted`.
            age_days_BT: as in `weighted`.
            code_BT: int64 in [0, S); any code where padded.
            mask_BT: as in `weighted`.
            num_codes: S.
            decay_days: D of them.
        """
        weighted_BTX = weighted(values_BTE, age_days_BT, mask_BT, decay_days)
        return cls.of_weighted(weighted_BTX, code_BT, num_codes, decay_days)

    @classmethod
    def of_weighted(
        cls,
        weighted_BTX: torch.Tensor,
        code_BT: torch.Tensor,
        num_codes: int,
        decay_days: tuple[float, ...],
    ) -> CodeState:
        """As `of`, of what `weighted` gives, which is the same for all codes of a behaviour."""
        B = len(weighted_BTX)
        rows_BT = code_BT + num_codes * torch.arange(B, device=code_BT.device)[:, None]
        sums = weighted_BTX.new_zeros(B * num_codes, weighted_BTX.shape[-1])
        sums = sums.index_add(0, rows_BT.flatten(), weighted_BTX.flatten(0, 1))
        return cls(sums_BSX=sums.view(B, num_codes, -1), decay_days=decay_days)

    def merge(self, other: CodeState) -> CodeState:
        """The state of both histories together, in any order; both aged to one moment."""
        assert self.decay_days == other.decay_days
        return dataclasses.replace(self, sums_BSX=self.sums_BSX + other.sums_BSX)

    def aged(self, days_B: torch.Tensor) -> CodeState:
        """The same history as many days later, O(S X)."""
        decays_D = torch.tensor(self.decay_days, device=days_B.device)
        factor_BD = torch.exp(-days_B[:, None] / decays_D)
        per_decay = self.sums_BSX.shape[-1] // len(self.decay_days)
        factor_BX = factor_BD.repeat_interleave(per_decay, dim=1)
        return dataclasses.replace(self, sums_BSX=self.sums_BSX * factor_BX[:, None])

    def append(self, values_BE: torch.Tensor, code_B: torch.Tensor) -> CodeState:
        """Adds a behaviour of this moment to each history."""
        zeros_B1 = torch.zeros(len(code_B), 1, device=code_B.device)
        now = CodeState.of(
            values_BE[:, None],
            zeros_B1,
            code_B[:, None],
            zeros_B1 == 0,
            self.sums_BSX.shape[1],
            self.decay_days,
        )
        return self.merge(now)

    def read(
        self, code_BC: torch.Tensor, *, rates: bool = True, whole: CodeState | None = None
    ) -> torch.Tensor:
        """The means of the history for each candidate's code, [B, C, X] (or [B, C, D]).

        For each decay `LOG_SCALE` log(1 + sum of weights), and of each value by how much its mean
        at this code is above its mean over all codes; 0 where the code never occurred.

        Args:
            code_BC: int64 in [0, S).
            rates: False leaves the log-weights alone.
            whole: the sums over all codes, where this state holds some of them only.
        """
        features_BSX = self._features(rates=rates, whole=whole or self)
        B, S, _ = self.sums_BSX.shape
        rows_BC = code_BC + S * torch.arange(B, device=code_BC.device)[:, None]
        return torch.nn.functional.embedding(rows_BC, features_BSX.flatten(0, 1))

    def read_all(self, *, rates: bool = True) -> torch.Tensor:
        """The means of the whole history, [B, 1, X] (or [B, 1, D]): log-weights and the means."""
        weight, _ = self._weight_and_value(self.sums_BSX.sum(dim=1, keepdim=True))
        features = [LOG_SCALE * torch.log1p(weight), _RATE_SCALE * self._mean()]
        return torch.cat(features if rates else features[:1], dim=-1).flatten(2)

    def _features(self, *, rates: bool, whole: CodeState) -> torch.Tensor:
        """The means of each code, [B, S, X] (or [B, S, D])."""
        weight, value = self._weight_and_value(self.sums_BSX)
        features = [LOG_SCALE * torch.log1p(weight)]
        if rates:
            mean = whole._mean()
            features.append(_RATE_SCALE * ((value + _PRIOR * mean) / (weight + _PRIOR) - mean))
        return torch.cat(features, dim=-1).flatten(2)

    def _mean(self) -> torch.Tensor:
        """The mean of each value over all codes, [B, 1, D, E]; 0 for an empty history."""
        weight, value = self._weight_and_value(self.sums_BSX.sum(dim=1, keepdim=True))
        return value / (weight + 1.0)

    def _weight_and_value(self, sums_BSX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two parts of sums, [B, S, D, 1] and [B, S, D, E]."""
        sums_BSDE = sums_BSX.unflatten(-1, (len(self.decay_days), -1))
        return sums_BSDE[..., :1], sums_BSDE[..., 1:]


FAMILIES = ("user", "category", "author", "coarse", "fine")
"""`user` has one code, which all items share; `coarse` and `fine` are those of a `Codebook`."""

_DECAY_DAYS = (NO_DECAY, 7.0, 0.2)  # the whole life, a week, some hours
_NUM_COARSE, _NUM_FINE = 64, 8

BITS = tuple(ACTIONS.index(name) for name in COUNTS[1:])
"""Of a behaviour's action byte, those that are summed beside its weight."""


class CodeHeads(nn.Module):
    """Reads every family that is on; O(C + T), and additive over the history.

    Args:
        items: the catalogue, whose content the code book is fitted to.
        families: of `FAMILIES`.
        rates: False leaves log-counts alone.
        decay: False sums plainly alone.
    """

    def __init__(
        self, items: ItemTable, *, families: tuple[str, ...], rates: bool, decay: bool
    ) -> None:
        super().__init__()
        self.families = families
        self._rates = rates
        self.decay_days = _DECAY_DAYS if decay else _DECAY_DAYS[:1]
        self.book = Codebook(items, num_coarse=_NUM_COARSE, num_fine=_NUM_FINE)
        per_family = len(self.decay_days) * (1 + len(BITS) * rates)
        self.width = per_family * len(families)

    def forward(
        self,
        candidates: Candidates,
        behaviours: HistoryFeatures,
        bits_BTA: torch.Tensor,
        category_R: torch.Tensor,
    ) -> list[torch.Tensor]:
        """A block [B, C, X] for each family.

        Args:
            candidates: as in `RankModel.attend`.
            behaviours: as in `RankModel.attend`.
            bits_BTA: `ACTIONS` of the behaviours as 0 and 1.
            category_R: the category of each row of the catalogue.
        """
        T = behaviours.mask_BT.shape[1]
        code_BT, code_BC, sizes = {}, {}, {}
        for family in self.families:
            if family == "user":
                code_BT[family], sizes[family] = torch.zeros_like(behaviours.code_BT), 1
            elif family == "author":  # numbered anew in every request, T where padded or unmet
                code_BT[family], sizes[family] = behaviours.code_BT, T + 1
                code_BC[family] = candidates.code_BC
            else:
                code_R, sizes[family] = self.codes_of_rows(family, category_R)
                code_BT[family] = code_R[behaviours.rows_BT]
                code_BC[family] = code_R[candidates.rows_BC]
        blocks = []
        for family, state in self._states(behaviours, bits_BTA, code_BT, sizes).items():
            if family == "user":
                blocks.append(self.of_all(state, candidates.rows_BC.shape[1]))
            else:
                blocks.append(state.read(code_BC[family], rates=self._rates))
        return blocks

    def _states(
        self,
        behaviours: HistoryFeatures,
        bits_BTA: torch.Tensor,
        code_BT: dict[str, torch.Tensor],
        sizes: dict[str, int],
    ) -> dict[str, CodeState]:
        """The sums of each family, given its codes."""
        mask_BT, age_days_BT = behaviours.mask_BT, behaviours.age_days_BT
        weighted_BTX = weighted(bits_BTA[..., BITS], age_days_BT, mask_BT, self.decay_days)
        return {
            family: CodeState.of_weighted(weighted_BTX, codes, sizes[family], self.decay_days)
            for family, codes in code_BT.items()
        }

    def codes_of_rows(self, family: str, category_R: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The code of each row of the catalogue, and how many there are; not of `author`."""
        return {
            "category": (category_R, NUM_CATEGORIES),
            "coarse": (self.book.coarse_R, self.book.num_coarse),
            "fine": (self.book.fine_R, self.book.num_fine),
        }[family]

    def of_all(self, whole: CodeState, num_candidates: int) -> torch.Tensor:
        """The block of the family `user`: the same for every candidate."""
        return whole.read_all(rates=self._rates).expand(-1, num_candidates, -1)

    def of_some(self, state: CodeState, code_BC: torch.Tensor, whole: CodeState) -> torch.Tensor:
        """The block of another family, from sums of some of its codes and from those of all."""
        return state.read(code_BC, rates=self._rates, whole=whole)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CacheSpec:
    """The part of a history that must be kept.

    Attributes:
        latest: how many of the latest behaviours the model looks at one by one.
        dense: whose sums over all behaviours it reads; None if none.
        codes: whose sums by code it reads; None if none.
    """

    latest: int = 0
    dense: LinearAttention | None = None
    codes: CodeHeads | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cached:
    """The cached parts of histories, as of their requests.

    Attributes:
        dense: what `CacheSpec.dense` makes of the whole history; None if none.
        code_blocks: what `CacheSpec.codes` says of each candidate, [B, C, *] each.
    """

    dense: SequenceState | None
    code_blocks: tuple[torch.Tensor, ...] = ()
