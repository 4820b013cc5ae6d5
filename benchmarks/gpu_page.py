"""What `benchmarks.gpu` found, as text: a table, and a verdict for each number that was wanted.

Knows names and numbers alone, so it can be tested without a GPU.
"""

from __future__ import annotations

from typing import Any


def verdicts(found: dict[str, Any]) -> list[str]:
    """A line for each number that was wanted of an H100, where it was measured."""
    lines = []

    def wanted(what: str, value: float | None, sign: str, limit: float, unit: str) -> None:
        if value is None:
            lines.append(f"  {what}: not measured")
            return
        met = value <= limit if sign == "<=" else value >= limit
        verdict = "met" if met else "missed"
        lines.append(f"  {what}: {value:.3g}{unit}, wanted {sign} {limit:g}{unit}: {verdict}")

    def at(*path: str) -> float | None:
        value: Any = found
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def share(value: float | None, floor: float | None) -> float | None:
        return None if value is None or floor is None else 100 * value / floor

    us = at("request", "graph_staged", "p50_ms")
    wanted("one request, host to host, p50", None if us is None else us * 1e3, "<=", 200, " us")
    us = at("request", "slate_by_graphs", "p50_ms")
    what = "a slate by the served ranker, features included, p50"
    wanted(what, None if us is None else us * 1e3, "<=", 200, " us")
    rates = [
        spent["candidates_per_s"]
        for spent in found["batched"].values()
        if isinstance(spent, dict) and "candidates_per_s" in spent
    ]
    wanted("candidates/s, best batch", max(rates, default=None), ">=", 1e8, "")
    for kind, floor in (("float32", "tf32"), ("bfloat16", "bfloat16")):
        rate = at("kernels", f"reads_{kind}", "tflop_per_s")
        part = share(rate, at("floors", f"first_layer_{floor}_tflop_per_s"))
        wanted(f"reads in {kind}, of the matrix rate at that shape", part, ">=", 60, "%")
        moved = at("kernels", f"sums_{kind}", "gb_per_s")
        part = share(moved, at("floors", "copy_gb_per_s"))
        wanted(f"sums in {kind}, of the copy bandwidth", part, ">=", 60, "%")
    mine = at("request", "kernels", "p50_ms")
    for other in ("eager", "compiled", "sdpa_4_heads_bfloat16"):
        theirs = at("request", other, "p50_ms")
        times = None if mine is None or theirs is None else theirs / mine
        wanted(f"{other} over the kernels", times, ">=", 1, "x")
    return lines


def what_ran(found: dict[str, Any]) -> dict[str, Any]:
    """The same parts without a figure: that each ran, or why it did not."""
    return {
        part: {
            name: value if name == "error" else _ran(value)
            for name, value in rows.items()
            if name != "seconds_spent"
        }
        for part, rows in found.items()
    }


def _ran(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: value[key] for key in ("error", "bucket", "largest_error") if key in value}
        return kept or "ran"
    return "ran"


def table(found: dict[str, Any]) -> str:
    """The results as aligned text, a block for each part."""
    lines = []
    for part, rows in found.items():
        spent = f" ({rows['seconds_spent']} s)" if "seconds_spent" in rows else ""
        lines += ["", part + spent]
        for name, value in rows.items():
            if name == "seconds_spent":
                continue
            if isinstance(value, dict):
                numbers = (
                    f"{key} {number:,.4g}" if isinstance(number, float) else f"{key} {number}"
                    for key, number in value.items()
                )
                lines.append(f"  {name:<28} " + "  ".join(numbers))
            else:
                shown = f"{value:,.4g}" if isinstance(value, float) else value
                lines.append(f"  {name:<28} {shown}")
    return "\n".join(lines[1:])
