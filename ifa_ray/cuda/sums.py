"""The state of a sequence in linear attention: phi(K)^T [V, 1], from gathered rows.

Equations 6 and 7 need no more of a sequence than these sums. Keys and values are rows of tables,
looked up where they are summed, so that what is gathered is never written to memory. A behaviour is
an item and an action, whose projections are added: W (item + action) = W item + W action, so both
tables are projected once per version. Knows tensors only.

Letters: B requests, T sequence length, R rows of a table, F features of phi, E width of values.
"""

from __future__ import annotations

import dataclasses

import torch

from ifa_ray.cuda.dispatch import runs_triton
from ifa_ray.models.linear_attention import feature_map


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeysValues:
    """Tables of keys and values, and which rows of them a sequence consists of.

    Attributes:
        k_RF: keys, float32 or bfloat16; before phi, or after it if that is said with the call.
        v_RE: values, of the same type.
        rows_BT: int64, rows of both; None for R = B T rows that are the sequence themselves.
    """

    k_RF: torch.Tensor
    v_RE: torch.Tensor
    rows_BT: torch.Tensor | None = None

    @classmethod
    def of(cls, k_BTF: torch.Tensor, v_BTE: torch.Tensor) -> KeysValues:
        """A sequence that lies there row by row."""
        return cls(k_RF=k_BTF.flatten(0, 1), v_RE=v_BTE.flatten(0, 1))


def naive_gathered_sums(
    sequence: KeysValues, mask_BT: torch.Tensor, *, phi: str, plus: KeysValues | None = None
) -> torch.Tensor:
    """The sums as they are read, O(T F E) and O(T (F + E)) memory; the gradient is torch's own.

    Args:
        sequence: keys and values of B sequences.
        mask_BT: True = a real element; padding adds nothing.
        phi: as in `feature_map`; `none` where the keys are phi(K) already.
        plus: keys and values that are added before phi, with the same T; None if there are none.

    Returns:
        phi(K)^T V and, as the last column, phi(K)^T 1: [B, F, E + 1] float32. Zeros for T = 0.
    """
    k_BTF, v_BTE = _gathered(sequence, mask_BT)
    if plus is not None:
        more_k_BTF, more_v_BTE = _gathered(plus, mask_BT)
        k_BTF, v_BTE = k_BTF + more_k_BTF, v_BTE + more_v_BTE
    phi_k_BTF = torch.where(mask_BT[..., None], feature_map(k_BTF, phi), 0.0)
    mass_BF1 = phi_k_BTF.sum(dim=1)[..., None]
    return torch.cat([phi_k_BTF.transpose(1, 2) @ v_BTE, mass_BF1], dim=2)


def gathered_sums(
    sequence: KeysValues, mask_BT: torch.Tensor, *, phi: str, plus: KeysValues | None = None
) -> torch.Tensor:
    """As `naive_gathered_sums`, in one pass over the rows where Triton runs."""
    if not runs_triton(mask_BT.device):
        return naive_gathered_sums(sequence, mask_BT, phi=phi, plus=plus)
    from ifa_ray.cuda.sums_triton import GatheredSums

    tables = [sequence.k_RF, sequence.v_RE, sequence.rows_BT]
    tables += [None] * 3 if plus is None else [plus.k_RF, plus.v_RE, plus.rows_BT]
    sums: torch.Tensor = GatheredSums.apply(mask_BT, phi, *tables)
    return sums


def _gathered(sequence: KeysValues, mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [B, T, F] and values [B, T, E], float32."""
    tables = (sequence.k_RF, sequence.v_RE)
    if sequence.rows_BT is None:
        k_BTF, v_BTE = (table.unflatten(0, mask_BT.shape) for table in tables)
    else:
        k_BTF, v_BTE = (table[sequence.rows_BT] for table in tables)
    return k_BTF.float(), v_BTE.float()
