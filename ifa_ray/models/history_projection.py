"""What a behaviour adds to the sums of linear attention, computed on the host.

Knows the frozen vectors of items and actions and the weights of one attention; knows no user.

Letters: T behaviours, R rows of the catalogue, P action bytes, D width, F features of phi, E width
of values, X = F + E.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.models.base import RankModel
from ifa_ray.models.linear_attention import LinearAttention, SequenceState, feature_map
from ifa_ray.schema import ACTIONS


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
