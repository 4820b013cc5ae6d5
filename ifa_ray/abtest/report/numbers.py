"""How numbers are printed in the report; knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Sequence

from ifa_ray.abtest.verdict import percent

__all__ = [
    "NONE",
    "duration",
    "name_text",
    "number",
    "own_units",
    "p_text",
    "percent",
    "percent_or_none",
    "range_text",
]

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
