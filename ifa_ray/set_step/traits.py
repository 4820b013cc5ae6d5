"""What makes two items alike for the set step: category, author, content.

Knows the catalogue's columns; knows numpy alone.

Letters: R rows of the catalogue (row 0 is the unknown item), X content width.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

from ifa_ray.data.items import ItemTable

_NOBODY = -1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ItemTraits:
    """The catalogue by row.

    Attributes:
        category_R, author_R: int64; -1 for the unknown item, which no candidate is.
        content_RX: float32, of length 1, or zeros where an item has no content vector.
    """

    category_R: npt.NDArray[np.int64]
    author_R: npt.NDArray[np.int64]
    content_RX: npt.NDArray[np.float32]

    @classmethod
    def of(cls, items: ItemTable) -> Self:
        """The traits of a catalogue; O(items), once."""
        content_NX = items.content_ND.astype(np.float64)
        length_N1 = np.linalg.norm(content_NX, axis=1, keepdims=True)
        content_NX = np.divide(
            content_NX, length_N1, out=np.zeros_like(content_NX), where=length_N1 > 0
        )
        content_RX = np.concatenate([np.zeros((1, content_NX.shape[1])), content_NX])
        return cls(
            category_R=np.concatenate([[_NOBODY], items.category_N.astype(np.int64)]),
            author_R=np.concatenate([[_NOBODY], items.author_id_N.astype(np.int64)]),
            content_RX=content_RX.astype(np.float32),
        )
