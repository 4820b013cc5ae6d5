"""Codes of items by content: two levels of k-means, the second on what the first leaves.

Residual quantisation, as of semantic ids (Rajput et al., "TIGER", NeurIPS 2023). A code is a sparse
feature of an item that does not change while a model learns, so sums by code stay exact. Knows
content vectors; knows no ids and no labels.

Letters: N items, R rows of the catalogue (row 0 is the unknown item), X content width, S codes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ifa_ray.data.items import ItemTable

__all__ = ["Codebook", "k_means"]

# Fitting more items than this moves no centre visibly.
_SAMPLE = 20_000
_ROUNDS = 12
_SEED = 0


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
