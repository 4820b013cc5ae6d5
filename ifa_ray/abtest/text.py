"""Numbers as people read them, with true minus signs; a dash where there is none."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "\N{EN DASH}"


def number(value: object) -> str:
    """Any scalar: whole numbers in full, others to four significant digits; lists by commas."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(number, value)) or NONE
    if not isinstance(value, float):
        return str(value)
    if value == 0:
        return "0"
    exponent = int(f"{value:.3e}".partition("e")[2])  # after rounding to the digits that are kept
    return _signed(f"{value:,.{max(0, 3 - exponent)}f}" if abs(value) >= 1e-4 else f"{value:.2e}")


def whole(value: float | None) -> str:
    """A count that was averaged."""
    return number(None if value is None else round(value))


def plain(value: object) -> str:
    """A name, as a seed is one: no separators."""
    return NONE if value is None else str(value)


def percent(ratio: float | None) -> str:
    """A relative effect with its sign: +0.80%."""
    if ratio is None:
        return NONE
    text = f"{ratio * 100:+,.{2 if abs(ratio) < 1 else 0}f}%"
    # An effect that rounds to nothing has no direction to print.
    return text[1:] if not text.strip("+-0.%") else _signed(text)


def difference(value: float | None) -> str:
    """A difference in a metric's own units, with its sign."""
    if value is None:
        return NONE
    text = f"{value:+.3g}"
    return "0" if float(text) == 0 else _signed(text)


def differences(bounds: Sequence[float] | None) -> str:
    """An interval in a metric's own units."""
    return NONE if bounds is None else " to ".join(map(difference, bounds))


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of relative effects: `+0.41% to +1.23%`."""
    return NONE if bounds is None else " to ".join(map(percent, bounds))


def region(bounds: Sequence[float] | None) -> str:
    """An acceptance region: `[-0.10%, +0.10%]`."""
    return NONE if bounds is None else f"[{', '.join(map(percent, bounds))}]"


def p_value(p: float | None) -> str:
    """Small ones by their bound."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def duration(seconds: float | None) -> str:
    """A run time: `8 min 20 s`."""
    if seconds is None:
        return NONE
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _signed(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
