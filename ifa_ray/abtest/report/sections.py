"""Sections of the report as rows of a page, and numbers for people; draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifa_ray.abtest.checks import percent
from ifa_ray.abtest.report import svg

NONE = "\N{EN DASH}"
"""Printed where there is no number."""


def number(value: object) -> str:
    """Any scalar: whole numbers in full, others to four significant digits."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    digits = max(0, 3 - _exponent(value))
    text = f"{value:,.{digits}f}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"
    return text.replace("-", "\N{MINUS SIGN}")


def name_text(value: object) -> str:
    """What names a thing, as a seed does: no separators; a dash where there is none."""
    return NONE if value is None else str(value)


def own_units(value: float | None) -> str:
    """A difference in a metric's own units, with its sign."""
    if value is None:
        return NONE
    text = f"{value:+.3g}"
    return "0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def percent_or_none(value: float | None) -> str:
    """A relative effect with its sign, or a dash."""
    return NONE if value is None else percent(value)


def range_text(bounds: Sequence[float] | None, *, brackets: bool = False) -> str:
    """An interval of relative effects: `+0.41% to +1.23%`, or `[−0.10%, +0.10%]`."""
    if bounds is None:
        return NONE
    low, high = (percent(bound) for bound in bounds)
    return f"[{low}, {high}]" if brackets else f"{low} to {high}"


def p_text(p: float | None) -> str:
    """A p-value; small ones by their bound."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def duration(seconds: float | None) -> str:
    """A run time for people: `8 min 20 s`."""
    if seconds is None:
        return NONE
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _exponent(value: float) -> int:
    # "1.235e+02": the exponent after rounding to the digits that are kept. Zero has exponent 3, so
    # that it prints without decimals.
    return int(f"{value:.3e}".partition("e")[2]) if value else 3


Row = dict[str, Any]

STATUS = {"held": "ok", "breached": "failed", "open": "missed"}
"""The chip's colour for each state of a guardrail."""


def days(ab: Mapping[str, Any], arm: str) -> list[Row]:
    """Two figures: the effect of each day, and of the days so far; bands over what decides."""
    over = "" if ab["replicates"] >= 3 else "checkpoint_"
    overall = ab["effects"][arm][ab["primary"]]["relative"]
    figures = []
    for key, caption in (("daily", "each day"), ("cumulative", "all counted days so far")):
        rows = [
            {
                **row,
                "interval": row[f"{over}interval"],
                "band": row[f"{over}band"],
            }
            for row in ab[key][arm]
        ]
        figures.append(
            {
                "arm": arm,
                "caption": caption,
                "figure": svg.daily(rows, overall, f"{arm}, {caption}"),
                "rows": [
                    {
                        "day": row["day"],
                        "counted": row["counted"],
                        "effect": percent_or_none(row["relative"]),
                        "interval": range_text(row["interval"]),
                        "band": range_text(row["band"]),
                    }
                    for row in rows
                ],
            }
        )
    return figures


def guardrails(ab: Mapping[str, Any], arm: str) -> list[Row]:
    """One row per guardrail: the effect, the worst that isn't ruled out, the margin, the state."""
    return [
        {
            "label": row["label"],
            "bad": "more is harm" if row["harm"] > 0 else "less is harm",
            "effect": percent(row["relative"]),
            "worst": percent(row["worst"]),
            "margin": percent(row["harm"] * row["margin"]),
            "p": p_text(row["p_harm"]),
            "status": row["status"],
            "chip": STATUS[row["status"]],
        }
        for row in ab["guardrails"][arm]
    ]


def segments(ab: Mapping[str, Any], arm: str) -> list[Row]:
    """Of each segmentation a table and a forest plot; empty where nothing is known of the past."""
    found = ab["segments"][arm]
    if not found:
        return []
    blocks = []
    for name, block in found.items():
        extents = [_extent(row) for row in block["rows"]]
        scale = svg.Scale.around(extents, max([*extents, 0.0]) / 2.5)
        blocks.append(
            {
                "name": name,
                "by": block["by"],
                "axis": svg.axis(scale),
                "tick": f"{scale.tick_offset:.1f}",
                "p_trend": p_text(block["p_trend"]),
                "p_users": p_text(block["p_users"]),
                "rows": [
                    {
                        "label": row["label"],
                        "range": _whole_range(row["range"]),
                        "users": number(round(row["users"])),
                        "figure": svg.strip(
                            scale, {**row, "significant": False, "acceptance_region": None}
                        ),
                        "effect": percent_or_none(row["relative"]),
                        "interval": range_text(row["interval"]),
                        "checkpoint": range_text(row["checkpoint"]["interval"]),
                        "undefined": row["undefined"],
                    }
                    for row in block["rows"]
                ],
            }
        )
    return blocks


def platform(ab: Mapping[str, Any], arm: str) -> Row:
    """The unpaired analysis as a table."""
    found = ab["platform"][arm]
    return {
        "arm": arm,
        "users": " and ".join(number(count) for count in found["users"]),
        "srm_p": p_text(found["srm_p"]),
        "rows": [
            {
                "label": f"{row['label']}{', with CUPED' if row['cuped'] else ''}",
                "levels": f"{number(row['control'])} \N{RIGHTWARDS ARROW} "
                f"{number(row['treatment'])}",
                "effect": percent_or_none(row["relative"]),
                "interval": range_text(row["interval"]),
                "p": p_text(row["p"]),
                "price": NONE
                if row["price"] is None
                else f"{row['price']:.1f}\N{MULTIPLICATION SIGN}",
            }
            for row in found["rows"]
        ],
    }


def planning(ab: Mapping[str, Any], arm: str) -> Row:
    """What this run could see and what another would need."""
    found = ab["planning"][arm]
    return {
        "arm": arm,
        "target": f"\N{PLUS-MINUS SIGN}{found['target']:.2%}",
        "detectable": percent_or_none(found["detectable"]),
        "users_for_target": number(found["users_for_target"]),
        "rows": [
            {
                "users": "endless" if row["users"] is None else number(row["users"]),
                "half_width": f"\N{PLUS-MINUS SIGN}{row['half_width']:.2%}",
                "replicates": (
                    "over a million"
                    if row["replicates_needed"] is None
                    else number(row["replicates_needed"])
                ),
            }
            for row in found["rows"]
        ],
    }


def floor(ab: Mapping[str, Any]) -> list[str]:
    """What the health banner says beside the checks: the noise floor, and who came at all."""
    lines = []
    aa = ab["aa"]
    if aa is not None and aa["floor_sd"] is not None:
        lines.append(
            f"Noise floor: {aa['arm']}, a retrained copy of {ab['control']}, is off by "
            f"{aa['floor_sd']:.2%} (root mean square over replicates)."
        )
    else:
        known = [
            ab["effects"][arm][ab["primary"]]["noise"]
            for arm in ab["treatments"]
            if ab["effects"][arm][ab["primary"]]["noise"]
        ]
        sds = [noise["checkpoint_sd"] for noise in known]
        if not sds:
            lines.append("No A/A arm in this run, and too few replicates for a noise floor.")
        elif max(sds) == 0:
            lines.append("No A/A arm in this run; users' noise explains all of the spread.")
        else:
            lines.append(
                f"No A/A arm in this run; checkpoints and worlds alone move the lift by "
                f"{max(sds):.2%} (standard deviation, the largest over arms)."
            )
    shares = sorted(ab["came"].values())
    lines.append(
        f"Of all users, {shares[0]:.1%} came on a counted day."
        if shares[0] == shares[-1]
        else f"Of all users, {shares[0]:.1%} to {shares[-1]:.1%} came on a counted day, by arm."
    )
    return lines


def _extent(row: Mapping[str, Any]) -> float:
    bounds: Sequence[float] = [
        *(row["interval"] or ()),
        *(row["checkpoint"]["interval"] or ()),
        row["relative"] or 0.0,
    ]
    return max(abs(bound) for bound in bounds)


def _whole_range(bounds: Sequence[float] | None) -> str:
    if bounds is None:
        return NONE
    low, high = (number(round(bound)) for bound in bounds)
    return low if low == high else f"{low} to {high}"
