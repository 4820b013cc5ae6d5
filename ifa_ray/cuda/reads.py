"""Reads of sequence states by candidates, taken as far as the towers' first layer.

E = phi(Q) (phi(K)^T V) / phi(Q) (phi(K)^T 1) is formed where it is used and never written: a
candidate's queries are looked up, multiplied by a state, divided, and what comes out goes straight
into the product of the first layer, together with F_can and F_can * F_cs. Knows tensors only; the
order of the blocks is that of the models: F_cs, F_can, F_can * F_cs, F_cc.

Letters: B requests, C candidates, R rows of a table, F features of phi, D width of an item and of
values, X blocks times D, H width of the first layer.
"""

from __future__ import annotations

import dataclasses

import torch

from ifa_ray.cuda.dispatch import runs_triton
from ifa_ray.models.linear_attention import EPS, feature_map


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """Queries, and the sums that they read.

    Attributes:
        q_RF: a table of queries, float32 or bfloat16; before phi, or after it.
        sums_BFX: what `gathered_sums` gives, [B, F, D + 1] float32.
        count_B: float32, how many elements each of them sums.
        phi: as in `feature_map`; `none` where the queries are phi(Q) already.
    """

    q_RF: torch.Tensor
    sums_BFX: torch.Tensor
    count_B: torch.Tensor
    phi: str

    def per_element(self) -> torch.Tensor:
        """The sums divided by n: phi(Q) times a mass overflows half precision at n = 10,000."""
        return self.sums_BFX / self.count_B.clamp(min=1.0)[:, None, None]


def naive_read_and_project(
    history: Reading,
    weight_XH: torch.Tensor,
    *,
    size_BC: tuple[int, int],
    rows_BC: torch.Tensor | None = None,
    items_RD: torch.Tensor | None = None,
    candidates: Reading | None = None,
    bias_BH: torch.Tensor | None = None,
) -> torch.Tensor:
    """The first layer as it is read, with every block in memory; the gradient is torch's own.

    Args:
        history: what gives F_cs.
        weight_XH: of the first layer; X = D times the number of blocks. Its type, float32 or
            bfloat16, is that of the blocks in their product, whose sums are float32.
        size_BC: B and C.
        rows_BC: int64, rows of all tables; None for R = B C rows that are the candidates
            themselves.
        items_RD: F_can; None leaves it and F_can * F_cs away (the printed concatenation).
        candidates: what gives F_cc; None leaves it away.
        bias_BH: what is added to all candidates of a request.

    Returns:
        [B, C, H] float32.
    """
    cs_BCD = _attended(history, rows_BC, size_BC)
    blocks = [cs_BCD]
    if items_RD is not None:
        can_BCD = _rows_of(items_RD, rows_BC, size_BC)
        blocks += [can_BCD, can_BCD * cs_BCD]
    if candidates is not None:
        blocks.append(_attended(candidates, rows_BC, size_BC))
    hidden_BCH = (torch.cat(blocks, dim=-1).to(weight_XH.dtype) @ weight_XH).float()
    return hidden_BCH if bias_BH is None else hidden_BCH + bias_BH[:, None]


def read_and_project(
    history: Reading,
    weight_XH: torch.Tensor,
    *,
    size_BC: tuple[int, int],
    rows_BC: torch.Tensor | None = None,
    items_RD: torch.Tensor | None = None,
    candidates: Reading | None = None,
    bias_BH: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `naive_read_and_project`, one pass over the candidates where Triton runs."""
    if not runs_triton(weight_XH.device):
        return naive_read_and_project(
            history,
            weight_XH,
            size_BC=size_BC,
            rows_BC=rows_BC,
            items_RD=items_RD,
            candidates=candidates,
            bias_BH=bias_BH,
        )
    from ifa_ray.cuda.reads_triton import ReadAndProject

    second = None if candidates is None else candidates.q_RF
    hidden_BCH: torch.Tensor = ReadAndProject.apply(
        size_BC,
        (history.phi, "none" if candidates is None else candidates.phi),
        rows_BC,
        items_RD,
        history.q_RF,
        history.per_element(),
        second,
        None if candidates is None else candidates.per_element(),
        weight_XH,
        bias_BH,
    )
    return hidden_BCH


def _attended(
    reading: Reading, rows_BC: torch.Tensor | None, size_BC: tuple[int, int]
) -> torch.Tensor:
    """E of equation 6, [B, C, D]."""
    phi_q_BCF = feature_map(_rows_of(reading.q_RF, rows_BC, size_BC), reading.phi)
    read_BCX = phi_q_BCF @ reading.per_element()
    return read_BCX[..., :-1] / (read_BCX[..., -1:] + EPS)


def _rows_of(
    table: torch.Tensor, rows_BC: torch.Tensor | None, size_BC: tuple[int, int]
) -> torch.Tensor:
    gathered = table.unflatten(0, size_BC) if rows_BC is None else table[rows_BC]
    return gathered.float()
