"""Attention by exact match, inside linear attention: phi's features are one-hot codes.

With phi(k) = one-hot(code of k), phi(K)^T [1, V] is a table with a row per code, built by a
scatter-add, and phi(Q) a row look-up: what SIM's hard search reads, over the whole history and with
counts, in O(C + T). Behaviours may count for less the longer ago they were, by a factor
exp(-age / tau): such a sum forgets by one multiplication, so the table stays exact as time passes
and as behaviours come. Knows codes, not what they stand for.

Letters: B requests, C candidates, T history length, S codes, E values, D decays, X = D (1 + E).
"""

from __future__ import annotations

import dataclasses
import math

import torch

from ifa_ray.data.features import LOG_SCALE

__all__ = ["NO_DECAY", "CodeState", "weighted"]

NO_DECAY = math.inf
"""A decay time in which nothing is forgotten."""

# A rate is read as if this many behaviours at the user's own rate had come before.
_PRIOR = 3.0
# Rates differ by a few tenths; this makes of them inputs of usual size.
_RATE_SCALE = 4.0


def weighted(
    values_BTE: torch.Tensor,
    age_days_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    decay_days: tuple[float, ...],
) -> torch.Tensor:
    """What each behaviour adds to its code, [B, T, X] float32: for each decay a weight, and values.

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
            values_BE[:, None], zeros_B1, code_B[:, None], zeros_B1 == 0,
            self.sums_BSX.shape[1], self.decay_days,
        )  # fmt: skip
        return self.merge(now)

    def read(
        self, code_BC: torch.Tensor, *, rates: bool = True, whole: CodeState | None = None
    ) -> torch.Tensor:
        """What the history says of each candidate's code, [B, C, X] (or [B, C, D]).

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
        """What the whole history says, [B, 1, X] (or [B, 1, D]): log-weights and the means."""
        weight, _ = self._weight_and_value(self.sums_BSX.sum(dim=1, keepdim=True))
        features = [LOG_SCALE * torch.log1p(weight), _RATE_SCALE * self._mean()]
        return torch.cat(features if rates else features[:1], dim=-1).flatten(2)

    def _features(self, *, rates: bool, whole: CodeState) -> torch.Tensor:
        """What each code says, [B, S, X] (or [B, S, D])."""
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
