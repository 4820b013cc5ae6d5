"""Items, impressions, users and channels as vectors, for all models alike.

Knows the catalogue's columns; knows no attention. An item is the sum of embeddings of its id,
category, author and duration and of a projection of its content vector, so that candidates
(F_can) and behaviours (F_seq) live in one space.

Letters: R rows of the catalogue (row 0 is the unknown item), D width, U width of user features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import COUNTS, NUM_GAPS, NUM_HOURS, NUM_LENGTHS, Batch, counted_keys
from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS

QUERY_KEY_SCALE = 2.0
"""Where projections of queries and keys start: attention is nearly uniform for small ones; with
larger ones it chooses from the first step."""


class Dense(nn.Linear):
    """A linear layer whose weights start at N(0, gain² / fan-in), biases at 0."""

    def __init__(
        self, in_width: int, out_width: int, *, bias: bool = True, gain: float = 1.0
    ) -> None:
        super().__init__(in_width, out_width, bias=bias)
        self.std = gain / math.sqrt(max(1, in_width))

    def reset_parameters(self) -> None:
        """Does nothing: `initialise` does, from a seed."""


class Projection(nn.Linear):
    """A linear layer inside an attention, without bias, that starts as a multiple of the identity.

    A score is then the likeness of two items from the first step, and what is attended to can be
    compared with the candidate feature by feature. From random projections the same models need
    thousands of requests to find that out: after 768 requests of the quick world TWIN reaches an
    AUC of 0.779 for clicks instead of 0.690, IFA 0.735 instead of 0.699 [measured, one seed].
    """

    def __init__(self, in_width: int, out_width: int, *, scale: float = 1.0) -> None:
        super().__init__(in_width, out_width, bias=False)
        self.scale = scale

    def reset_parameters(self) -> None:
        """Does nothing: `initialise` does."""


class Table(nn.Embedding):
    """An embedding table whose rows start at N(0, std²).

    A sparse one hands the optimiser the gradient of visited rows alone.
    """

    def __init__(self, rows: int, width: int, *, std: float, sparse: bool = False) -> None:
        super().__init__(rows, width, sparse=sparse)
        self.std = std

    def reset_parameters(self) -> None:
        """Does nothing: `initialise` does, from a seed."""


class RandomPlanes(nn.Module):
    """Fixed random directions, N(0, I), that vectors are hashed by.

    Drawn from the seed as weights are, saved with them, never trained: a model that was loaded
    hashes as the one that was saved.
    """

    weight: torch.Tensor

    def __init__(self, planes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(planes, width))
        self.std = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lengths of vectors [*, D] along each direction, [*, P]."""
        return nn.functional.linear(x, self.weight)


class TowerLayer(nn.Module):
    """One layer of L towers side by side, each with its own weights."""

    def __init__(
        self, towers: int, in_width: int, out_width: int, *, gain: float, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(towers, in_width, out_width))
        self.bias = nn.Parameter(torch.empty(towers, 1, out_width)) if bias else None
        self.std = gain / math.sqrt(in_width)

    def forward(self, x_LNI: torch.Tensor) -> torch.Tensor:
        """Maps [L, N, in] to [L, N, out]."""
        if self.bias is None:
            return torch.bmm(x_LNI, self.weight)
        return torch.baddbmm(self.bias, x_LNI, self.weight)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draws every weight of the model's layers from (seed, its name) alone.

    So what two models share by name and shape starts equal in both, and adding a layer to one
    changes nothing else: arms of a comparison differ by what they are, not by luck.
    """
    for name, layer in sorted(model.named_modules()):
        if isinstance(layer, Projection):
            nn.init.eye_(layer.weight).mul_(layer.scale)
        if not isinstance(layer, Dense | Table | TowerLayer | RandomPlanes):
            continue
        layer.weight.normal_(0.0, layer.std, generator=_generator(seed, name))
        bias = getattr(layer, "bias", None)
        if bias is not None:
            bias.zero_()


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


NUM_CATEGORIES = 256
"""Rows of the category table: 0 is unknown, category c is 1 + c modulo 255."""

# Two per doubling, from one second to an hour and a half; row 0 has no duration.
_DURATION_EDGES_MS = (1000 * 2.0 ** (np.arange(26) / 2)).astype(np.int64)
_SMALL_WIDTH = 8

_ROWS_AT_ONCE = 65_536
_MAX_FROZEN_BYTES = 1 << 30


class ItemEmbedding(nn.Module):
    """Rows of the catalogue to vectors.

    The item features are buffers by row, rebuilt from the catalogue and never saved, so a
    checkpoint's tensors do not depend on the catalogue's size.
    """

    category_R: torch.Tensor
    _id_R: torch.Tensor
    _author_R: torch.Tensor
    _duration_R: torch.Tensor
    _content_RX: torch.Tensor

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__()
        buckets = {
            "_id_R": 1 + items.video_id_N % config.id_buckets,
            "_author_R": 1 + items.author_id_N % config.author_buckets,
            "category_R": 1 + items.category_N % (NUM_CATEGORIES - 1),
            "_duration_R": np.searchsorted(_DURATION_EDGES_MS, items.duration_ms_N, side="right"),
        }
        for name, bucket_N in buckets.items():
            bucket_R = np.concatenate([[0], bucket_N]).astype(np.int64)
            self.register_buffer(name, torch.from_numpy(bucket_R), persistent=False)
        content_width = items.content_ND.shape[1]
        content_RX = np.zeros((len(items) + 1, content_width), np.float32)
        content_RX[1:] = items.content_ND
        self.register_buffer("_content_RX", torch.from_numpy(content_RX), persistent=False)
        width = config.width
        # Hashed ids and authors start small: most rows are seen a few times only, and until then
        # they are noise to everything that shares the sum.
        self.id = Table(config.id_buckets + 1, width, std=0.02, sparse=True)
        self.author = Table(config.author_buckets + 1, width, std=0.2, sparse=True)
        self.category = Table(NUM_CATEGORIES, width, std=0.4)
        self.duration = Table(len(_DURATION_EDGES_MS) + 1, width, std=0.2)
        self.content = Dense(content_width, width, bias=False) if content_width else None
        self._frozen_RD: torch.Tensor | None = None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Embeds rows of any shape; adds a last dimension of D."""
        if self._frozen_RD is not None and not torch.is_grad_enabled():
            return nn.functional.embedding(rows, self._frozen_RD)
        return self._embed(rows)

    def freeze(self) -> None:
        """Embeds the whole catalogue once, 4 R D bytes: a request then reads one row per item.

        Until the module is put back into training mode its weights must not change.
        """
        with torch.inference_mode():
            rows_R = torch.arange(len(self._id_R), device=self._id_R.device)
            self._frozen_RD = torch.cat([self._embed(rows) for rows in rows_R.split(_ROWS_AT_ONCE)])

    @property
    def frozen_RD(self) -> torch.Tensor | None:
        """The result of `freeze`, itself and no copy; None where nothing is frozen."""
        return self._frozen_RD

    def train(self, mode: bool = True) -> ItemEmbedding:
        """Sets the mode; training forgets what `freeze` computed."""
        if mode:
            self._frozen_RD = None
        return super().train(mode)

    def _embed(self, rows: torch.Tensor) -> torch.Tensor:
        embedded = (
            self.id(self._id_R[rows])
            + self.author(self._author_R[rows])
            + self.category(self.category_R[rows])
            + self.duration(self._duration_R[rows])
        )
        if self.content is not None:
            embedded = embedded + self.content(self._content_RX[rows])
        return embedded


class PerItem(nn.Module):
    """A function of an item's embedding alone: computed while learning, looked up when frozen.

    A request then costs one read of a row for each item in place of products.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Wraps the function: embeddings [..., D] to [..., X], row by row."""
        super().__init__()
        self._function = function
        self._frozen_RX: torch.Tensor | None = None

    def forward(self, embedded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Applies the function to items, given their embeddings [..., D] and their rows [...]."""
        if self._frozen_RX is not None and not torch.is_grad_enabled():
            return nn.functional.embedding(rows, self._frozen_RX)
        return self._function(embedded)

    @property
    def frozen_RX(self) -> torch.Tensor | None:
        """The result of `freeze`, itself and no copy; None where nothing is frozen."""
        return self._frozen_RX

    def freeze(self, items: ItemEmbedding) -> None:
        """Applies it to the whole catalogue, 4 R X bytes; not where that is more than a GiB."""
        with torch.inference_mode():
            rows_R = torch.arange(len(items.category_R), device=items.category_R.device)
            width = self._function(items(rows_R[:1])).shape[-1]
            if 4 * width * len(rows_R) <= _MAX_FROZEN_BYTES:
                parts = rows_R.split(_ROWS_AT_ONCE)
                self._frozen_RX = torch.cat([self._function(items(rows)) for rows in parts])

    def train(self, mode: bool = True) -> PerItem:
        """Sets the mode; training forgets what `freeze` computed."""
        if mode:
            self._frozen_RX = None
        return super().train(mode)


class ActionEmbedding(nn.Module):
    """Action bytes to vectors: the sum of one embedding per action that happened."""

    _bits_PA: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        bits = (np.arange(1 << len(ACTIONS))[:, None] >> np.arange(len(ACTIONS))) & 1
        self.register_buffer("_bits_PA", torch.tensor(bits, dtype=torch.float32), persistent=False)
        self.actions = Dense(len(ACTIONS), width, bias=False, gain=0.2 * len(ACTIONS) ** 0.5)

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        """Embeds action bytes of any shape; adds a last dimension of D."""
        # All 128 sums are formed, then looked up: that is less than one product per behaviour.
        return nn.functional.embedding(actions, self.all_bytes())

    def all_bytes(self) -> torch.Tensor:
        """The embedding of every action byte, [P, D]."""
        return self.actions(self._bits_PA)

    def bits(self, actions: torch.Tensor) -> torch.Tensor:
        """The actions as 0 and 1, float32; adds a last dimension of len(ACTIONS)."""
        return nn.functional.embedding(actions, self._bits_PA)


class UserEmbedding(nn.Module):
    """User-wide features F_u: user, hour of the day, length of the history.

    The length's row 0 is the empty history: where the sums over it are defined as 0, this says so.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.user = Table(config.user_buckets, config.width, std=0.02, sparse=True)
        self.hour = Table(NUM_HOURS, _SMALL_WIDTH, std=0.2)
        self.length = Table(NUM_LENGTHS, _SMALL_WIDTH, std=0.2)
        self.width = config.width + 2 * _SMALL_WIDTH

    def forward(self, batch: Batch) -> torch.Tensor:
        """F_u, [B, U]."""
        parts = (self.user(batch.user_B), self.hour(batch.hour_B), self.length(batch.length_B))
        return torch.cat(parts, dim=-1)


class CrossEmbedding(nn.Module):
    """Cross features F_cro of a user and a candidate, but for the channel, which `Towers` folds.

    Of each counted key: the logarithms of its counts, and an embedding of the time since the user
    last met it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        keys = counted_keys(config)
        self.gap = nn.ModuleDict({key: Table(NUM_GAPS + 1, _SMALL_WIDTH, std=0.2) for key in keys})
        self.width = len(keys) * (len(COUNTS) + _SMALL_WIDTH)

    def forward(self, batch: Batch) -> list[torch.Tensor]:
        """Blocks [B, C, *], `width` wide together; none where no key is counted."""
        if not self.width:
            return []
        C, width = batch.cross_gap_BCK.shape[1], len(COUNTS)
        blocks = []
        for k, (key, table) in enumerate(self.gap.items()):
            # The user's own counts are those of any candidate; expanded, they cost one row.
            reads = slice(0, 1) if key == "user" else slice(None)
            counts = batch.cross_counts_BCX[:, reads, k * width : (k + 1) * width]
            gaps = table(batch.cross_gap_BCK[:, reads, k])
            blocks += [counts.expand(-1, C, -1), gaps.expand(-1, C, -1)]
        return blocks
