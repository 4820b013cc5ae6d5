"""Real figures, how far off is a miss, and the rows that say so.

Knows targets and achieved numbers; nothing of worlds or logs. A miss is shown, not hidden.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ifa_ray.errors import unknown_name

__all__ = ["SURFACES", "compare", "curves", "format_rows", "random_pool", "targets", "wanted_rates"]

DATA = Path(__file__).parent.parent / "data"

SURFACES: Mapping[str, str] = {
    "kuairand": "kuairand_targets.json",
    "kuaishou_paper": "kuaishou_paper_targets.json",
}
"""Surfaces that were measured, and the files of their figures."""

# KuaiRec's quartiles of watch ratio are met as shares of plays beyond them.
RATIO_SHARES = {"q25": 0.75, "q50": 0.5, "q75": 0.25}


@functools.cache
def _read(surface: str) -> dict[str, Any]:
    if surface not in SURFACES:
        raise unknown_name("surface", surface, SURFACES)
    return json.loads((DATA / SURFACES[surface]).read_text())


def targets(surface: str = "kuairand") -> dict[str, dict[str, Any]]:
    """The real figures by key, each with name, target, source, tier, tolerance, solved.

    Raises:
        ConfigError: on an unknown surface, with the near miss.
    """
    found = _read(surface)
    shared = {key: _read("kuairand")["targets"][key] for key in found.get("shared", ())}
    return {**found["targets"], **shared}


def random_pool(surface: str = "kuairand") -> tuple[float, float] | None:
    """Mean and sd of the log durations of the videos that were exposed at random."""
    pool = _read(surface)["random_pool"]
    return None if pool is None else (pool["log_mean"], pool["log_sd"])


def wanted_rates(surface: str = "kuairand") -> dict[str, float]:
    """The targets as the solver of levels wants them."""
    wanted = {key: target["target"] for key, target in targets(surface).items()}
    if "feed_ratio_q25" in wanted:
        wanted |= {f"feed_ratio_beyond_{name}": share for name, share in RATIO_SHARES.items()}
    return wanted


def compare(
    found: Sequence[Mapping[str, float]],
    surface: str = "kuairand",
    notes: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row a target.

    Args:
        found: figures by key of one or more worlds; those that a world lacks are left out.
        surface: whose targets.
        notes: is added to the source of a key.
    """
    rows = []
    for key, target in targets(surface).items():
        values = [each[key] for each in found if key in each]
        if not values:
            continue
        achieved, wanted = float(np.mean(values)), target["target"]
        kind, tolerance = next(iter(target["tolerance"].items()))
        distance = achieved - wanted if kind == "absolute" else achieved / wanted - 1
        source = target["source"] + (" (solved)" if target["solved"] else "")
        note = (notes or {}).get(key)
        rows.append(
            {
                "key": key,
                "name": target["name"],
                "target": wanted,
                "source": f"{source}; {note}" if note else source,
                "tier": target["tier"],
                "achieved": float(f"{achieved:.4g}"),
                "spread": float(f"{np.std(values):.2g}"),
                "distance": float(f"{distance:.3g}"),
                "tolerance": tolerance,
                "tolerance_kind": kind,
                "verdict": "hit" if _within(achieved, wanted, kind, tolerance) else "miss",
            }
        )
    return rows


def _within(achieved: float, wanted: float, kind: str, tolerance: float) -> bool:
    if kind == "absolute":
        return abs(achieved - wanted) <= tolerance
    if kind == "relative":
        return abs(achieved / wanted - 1) <= tolerance
    return achieved > 0 and max(achieved / wanted, wanted / achieved) <= tolerance


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a text table; `spread` is the standard deviation between worlds."""
    lines = [
        f"{'':40}{'target':>9} {'achieved':>9} {'spread':>8} {'distance':>9} {'allowed':>8}"
        "  verdict  source"
    ]
    for row in rows:
        relative = row["tolerance_kind"] != "absolute"
        distance = f"{row['distance']:+.1%}" if relative else f"{row['distance']:+.4f}"
        sign = {"absolute": "±{:.4g}", "relative": "±{:.0%}", "factor": "x{:.4g}"}
        allowed = sign[row["tolerance_kind"]].format(row["tolerance"])
        lines.append(
            f"{row['name']:40}{row['target']:>9.4g} {row['achieved']:>9.4g} {row['spread']:>8.2g} "
            f"{distance:>9} {allowed:>8}  {row['verdict']:7}  {row['source']}, tier {row['tier']}"
        )
    hits = sum(row["verdict"] == "hit" for row in rows)
    return "\n".join([*lines, f"{hits} of {len(rows)} targets hit."])


def curves(surface: str = "kuairand") -> dict[str, Any]:
    """Published curves that figures are drawn against; of other surfaces those that are shared."""
    found = _read("kuairand")["curves"]
    if surface == "kuairand":
        return found
    shared = ("top_share", "history", "duration_s", "per_day", "session")
    return {key: found[key] for key in shared}
