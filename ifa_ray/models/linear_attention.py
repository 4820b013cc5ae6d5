"""Linear attention (section 4.4, equations 6 and 7), the naive form and the associative one.

E = D^-1 phi(Q) (phi(K)^T V) with D = diag(phi(Q) (phi(K)^T 1)). What the keys leave behind, the two
sums in parentheses, is a `SequenceState`: of fixed size, and additive over the history. Knows
tensors only.

Letters: B requests, C queries, T keys, F features of phi, E width of values.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn.functional import softplus

from ifa_ray.models.embedding import QUERY_KEY_SCALE, Projection

EPS = 1e-6
"""Added to a degree that was divided by n, so it is relative to n. It is what makes the empty
history, and a query whose ReLU features are all zero, give 0 instead of NaN."""


def feature_map(x: torch.Tensor, phi: str) -> torch.Tensor:
    """phi: `softplus` (the paper's default) or `relu`, never < 0; `none` where it was applied."""
    if phi == "none":
        return x
    if phi == "softplus":
        return softplus(x)
    assert phi == "relu", phi
    return torch.relu(x)


def naive_linear_attention(
    phi_q_BCF: torch.Tensor, phi_k_BTF: torch.Tensor, v_BTE: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """Equations 6 and 7 as they are read, through the C x T matrix: O(C T (F + E)).

    CacheSpec to say what the fast form must give.
    """
    weight_BCT = phi_q_BCF @ phi_k_BTF.transpose(1, 2) * mask_BT[:, None]
    count_B11 = mask_BT.sum(dim=1).clamp(min=1)[:, None, None]
    degree_BC1 = weight_BCT.sum(dim=2, keepdim=True) / count_B11
    return weight_BCT @ v_BTE / count_B11 / (degree_BC1 + EPS)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SequenceState:
    """Sums over a history, float32 always: a commutative monoid under `merge`.

    In bfloat16 the mass stalls at a sixth of its value after 10,000 appends [measured].

    Attributes:
        values_BFE: phi(K)^T V.
        mass_BF: phi(K)^T 1.
        count_B: n, behaviours summed.
    """

    values_BFE: torch.Tensor
    mass_BF: torch.Tensor
    count_B: torch.Tensor

    @classmethod
    def of(
        cls, phi_k_BTF: torch.Tensor, v_BTE: torch.Tensor, mask_BT: torch.Tensor
    ) -> SequenceState:
        """Sums a history, O(T F E).

        The mask is applied to phi(K) after phi: softplus(0) is 0.69, so zeroing K would not do.
        """
        phi_k_BTF = phi_k_BTF.float()
        # One request alone has no padding, and on a CPU finding that out costs nothing.
        if mask_BT.device.type != "cpu" or not mask_BT.all():
            phi_k_BTF = torch.where(mask_BT[..., None], phi_k_BTF, 0.0)
        return cls(
            values_BFE=phi_k_BTF.transpose(1, 2) @ v_BTE.float(),
            mass_BF=phi_k_BTF.sum(dim=1),
            count_B=mask_BT.sum(dim=1).float(),
        )

    def append(self, phi_k_BF: torch.Tensor, v_BE: torch.Tensor) -> SequenceState:
        """Adds one behaviour to each history, O(F E)."""
        mask_B1 = torch.ones(len(v_BE), 1, dtype=torch.bool, device=v_BE.device)
        return self.merge(SequenceState.of(phi_k_BF[:, None], v_BE[:, None], mask_B1))

    def merge(self, other: SequenceState) -> SequenceState:
        """The state of both histories together, in any order."""
        return SequenceState(
            values_BFE=self.values_BFE + other.values_BFE,
            mass_BF=self.mass_BF + other.mass_BF,
            count_B=self.count_B + other.count_B,
        )

    def read(self, phi_q_BCF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of C queries to the history, O(C F E) whatever n was.

        The sums are divided by n first: phi(Q).mass overflows half precision at n = 10,000.

        Returns:
            E, [B, C, E] float32, 0 for an empty history; and D / n, [B, C] float32.
        """
        phi_q_BCF = phi_q_BCF.float()
        count_B = self.count_B.clamp(min=1.0)
        degree_BC1 = phi_q_BCF @ (self.mass_BF / count_B[:, None])[..., None]
        total_BCE = phi_q_BCF @ (self.values_BFE / count_B[:, None, None])
        return total_BCE / (degree_BC1 + EPS), degree_BC1[..., 0]


class LinearAttention(nn.Module):
    """fastAtten(query, key, value) of equations 2 and 3, O(C + T)."""

    def __init__(self, width: int, phi: str) -> None:
        super().__init__()
        self.phi = phi
        self.query = Projection(width, width, scale=QUERY_KEY_SCALE)
        self.key = Projection(width, width, scale=QUERY_KEY_SCALE)
        self.value = Projection(width, width)

    def queries(self, features_BCD: torch.Tensor) -> torch.Tensor:
        """phi(Q), [B, C, F]."""
        return feature_map(self.query(features_BCD), self.phi)

    def keys(self, features_BTD: torch.Tensor) -> torch.Tensor:
        """phi(K), [B, T, F]."""
        return feature_map(self.key(features_BTD), self.phi)

    def state(self, features_BTD: torch.Tensor, mask_BT: torch.Tensor) -> SequenceState:
        """The state of a sequence, whose features are both keys and values."""
        return SequenceState.of(self.keys(features_BTD), self.value(features_BTD), mask_BT)

    def forward(
        self, queries_BCD: torch.Tensor, keys_BTD: torch.Tensor, mask_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attends; returns as `SequenceState.read`."""
        return self.state(keys_BTD, mask_BT).read(self.queries(queries_BCD))
