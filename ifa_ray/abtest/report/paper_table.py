"""The form of the paper's Table 4, with its numbers beside ours; estimates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ifa_ray.abtest.report.numbers import p_text, percent_or_none, range_text

__all__ = ["PAPER_TABLE_4", "table_4"]

Row = dict[str, Any]

PAPER_TABLE_4 = (
    ("Watch time", "watch_time", "+0.803%", "-0.10%, 0.10%"),
    ("Impression", "impressions", "+0.291%", "-0.14%, 0.14%"),
    ("Like", "likes", "+0.984%", "-0.36%, 0.37%"),
    ("Comment", "comments", "+1.329%", "-0.56%, 0.56%"),
    ("Follow", "follows", "+1.781%", "-0.49%, 0.49%"),
    ("Share", "forwards", "+0.780%", "-0.86%, 0.86%"),
    ("Diversity", "categories_k", "+0.821%", "-0.05%, 0.05%"),
)
"""The paper's Table 4: objective, our metric for it, improvement, acceptance region.

The paper does not define its diversity; ours is the nearest that longer watching cannot fake.
"""

_NOTHING = dict.fromkeys(("interval", "acceptance_region", "p"))
NOT_IN_LOG: Row = {
    **_NOTHING, "relative": None, "checkpoint": _NOTHING, "p_adjusted": None, "significant": None,
    "undefined": "the log does not have it",
}  # fmt: skip


def table_4(ab: Mapping[str, Any], arm: str) -> Row:
    """One block: each objective's improvement and regions, with the paper's beside them."""
    rows = []
    for objective, metric, improvement, region in PAPER_TABLE_4:
        effect = ab["effects"][arm].get(metric, NOT_IN_LOG)
        rows.append(
            {
                "objective": objective,
                "effect": percent_or_none(effect["relative"]),
                "region": range_text(effect["acceptance_region"], brackets=True),
                "checkpoint": range_text(effect["checkpoint"]["acceptance_region"], brackets=True),
                "p": p_text(effect["p_adjusted"]),
                "significant": effect["significant"],
                "undefined": effect["undefined"],
                "paper_effect": improvement,
                "paper_region": f"[{region}]".replace("-", "\N{MINUS SIGN}"),
            }
        )
    return {"arm": arm, "rows": rows}
