"""IFA with eyes for exact matches, for how much there is and for what was just seen, O(m + n).

Normalised linear attention blurs: it says what the history is like on average as seen from a
candidate, not how often this author was watched, nor how that went. Here the same kernel gets
sparse features (`ifa_ray.models.code_heads`) beside the dense ones, with values typed by action and
sums that forget. All of these are sums over the history, so a state kept from request to request
stays exact. The latest `top_k` behaviours, as many as a two-stage model looks at, are also attended
to by softmax; what is kept of them is themselves. What was tried and added nothing is in
docs/models.md: ReLU², the mass that the normalisation divides away, F_cc. This is ours; `ifa` stays
the paper's.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models.baselines import FullAttention, Twin
from ifa_ray.models.code_heads import FAMILIES, Cached, CacheSpec, CodeHeads
from ifa_ray.models.embedding import PerItem
from ifa_ray.models.inputs import Attended, Candidates, HistoryFeatures
from ifa_ray.models.linear_attention import LinearAttention, SequenceState

PARTS = ("dense", "recent", *FAMILIES, "rates", "decay")
"""Parts that `ModelConfig.ifa_plus_without` may switch off, one ablation each.

`dense`: linear attention to the whole history; `recent`: softmax attention to the latest
behaviours; the families of codes; `rates`: values typed by action in the code heads, so that only
counts are left; `decay`: the code heads' sums that forget.
"""


class IFAPlus(FullAttention):
    """F_cs is linear attention to all plus softmax attention to the latest; beside it code heads.

    The softmax is that of `FullAttention`, with all that its scores know.
    """

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        on = _parts_on(config)
        families = tuple(family for family in FAMILIES if family in on)
        codes = CodeHeads(items, families=families, rates="rates" in on, decay="decay" in on)
        super().__init__(config, items, extra_width=codes.width)
        self._on = on
        self.codes = codes
        if "dense" in on:
            self.candidates_to_sequence = LinearAttention(config.width, config.phi)
            self.dense_queries = PerItem(self.candidates_to_sequence.queries)

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
        """F_cs, and what the codes recall."""
        cs_BCD = self._recent(candidates, behaviours)
        if "dense" in self._on:
            state = self.candidates_to_sequence.state(behaviours.features_BTD, behaviours.mask_BT)
            cs_BCD = cs_BCD + self._dense(candidates, state)
        bits_BTA = self.actions.bits(behaviours.actions_BT)
        blocks = self.codes(candidates, behaviours, bits_BTA, self.items.category_R)
        return Attended(cs_BCD, tuple(blocks))

    def cache_spec(self) -> CacheSpec:
        """All that `attend` reads."""
        return CacheSpec(
            latest=self.config.top_k if "recent" in self._on else 0,
            dense=self.candidates_to_sequence if "dense" in self._on else None,
            codes=self.codes if self.codes.families else None,
        )

    def attend_cached(
        self, candidates: Candidates, latest: HistoryFeatures, cached: Cached
    ) -> Attended:
        """As `RankModel.attend_cached`."""
        cs_BCD = self._recent(candidates, latest)
        if cached.dense is not None:
            cs_BCD = cs_BCD + self._dense(candidates, cached.dense)
        return Attended(cs_BCD, cached.code_blocks)

    def _recent(self, candidates: Candidates, behaviours: HistoryFeatures) -> torch.Tensor:
        if "recent" not in self._on:
            return torch.zeros_like(candidates.features_BCD)
        return super().attend(candidates, behaviours.latest(self.config.top_k)).cs_BCD

    def _dense(self, candidates: Candidates, state: SequenceState) -> torch.Tensor:
        return state.read(self.dense_queries(candidates.features_BCD, candidates.rows_BC))[0]


class TwinWithCodes(Twin):
    """TWIN with IFA+'s code heads beside its attention: what is the attention worth, given them?"""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        codes = CodeHeads(items, families=FAMILIES, rates=True, decay=True)
        super().__init__(config, items, extra_width=codes.width)
        self.codes = codes

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
        """TWIN's F_cs, and what the codes recall."""
        bits_BTA = self.actions.bits(behaviours.actions_BT)
        blocks = self.codes(candidates, behaviours, bits_BTA, self.items.category_R)
        return Attended(super().attend(candidates, behaviours).cs_BCD, tuple(blocks))


def _parts_on(config: ModelConfig) -> frozenset[str]:
    """The parts that are not switched off.

    Raises:
        ConfigError: on an unknown part, with the near miss, or if nothing reads the history.
    """
    for part in config.ifa_plus_without:
        if part not in PARTS:
            raise unknown_name("ifa_plus_without", part, PARTS)
    on = frozenset(PARTS) - set(config.ifa_plus_without)
    rule = "such that a part which reads the history is left"
    reads = bool(on & {"dense", "recent", *FAMILIES})
    require(reads, "ifa_plus_without", config.ifa_plus_without, rule)
    return on
