"""Quality against cost of every model as one figure, from the tables of two pages.

    python -m benchmarks.quality_cost [--quality docs/models.md] [--section "Tables 2 and 3"]
        [--costs docs/performance.md] [--out docs/quality-cost.svg]

Nothing is measured here. Quality is the column "click, minus TWIN's" of the first table that has it
in a section of one page, with its 95% intervals (`python -m ifa_ray evaluate`); cost is the column
"rank ms" of the first table of the other that has it (`python -m benchmarks.rank_latency --only
rank`). Models that stand in one of the tables alone are named and left out. Torch and numpy alone,
but for the drawing, which is `ifa_ray.evaluation`'s.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ifa_ray.errors import ConfigError

__all__ = ["column", "difference", "draw", "main", "section"]

QUALITY, COST, CONTROL = "click, minus TWIN's", "rank ms", "twin"
SECTION = "Tables 2 and 3"
DOCS = Path(__file__).parents[1] / "docs"
_DIFFERENCE = re.compile(r"([+-]\d*\.\d+) \[([+-]\d*\.\d+), ([+-]\d*\.\d+)\]")


def section(page: str, heading: str) -> str:
    """The page from the first heading that begins so to its end.

    Raises:
        ConfigError: if there is no such heading.
    """
    found = re.search(rf"^#+ {re.escape(heading)}", page, flags=re.MULTILINE)
    if found is None:
        raise ConfigError(f"section == {heading!r}, must be how a heading of the page begins.")
    return page[found.start() :]


def column(page: str, name: str, *, containing: str = CONTROL) -> dict[str, str]:
    """One column by the column `model`, of the first Markdown table that has both and a model.

    Raises:
        ConfigError: if there is no such table.
    """
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]]
                            for line in table.splitlines())  # fmt: skip
        if {"model", name} <= set(header):
            model, value = header.index("model"), header.index(name)
            found = {row[model].strip("`"): row[value] for row in rows}
            if containing in found:
                return found
    raise ConfigError(f"page has no table of models with the column {name!r}, must have one.")


def difference(text: str) -> tuple[float, float]:
    """`+0.1 [-0.1, +0.3]` as the difference and half the interval's width; nothing is 0 and 0.

    Raises:
        ConfigError: on anything else.
    """
    if not text:
        return 0.0, 0.0
    match = _DIFFERENCE.fullmatch(text)
    if match is None:
        raise ConfigError(f"difference == {text!r}, must be as +0.0123 [-0.0123, +0.0369].")
    middle, low, high = map(float, match.groups())
    return middle, (high - low) / 2


def draw(quality: str, costs: str) -> tuple[str, list[str]]:
    """The figure as SVG, and the models that only one of the pages has.

    Raises:
        ConfigError: if a page lacks its table.
    """
    from ifa_ray.evaluation.pareto import Point, pareto_svg  # it needs what a GPU machine lacks

    differences, rank_ms = column(quality, QUALITY), column(costs, COST)
    points = []
    for model in differences:
        if model in rank_ms:
            middle, half_width = difference(differences[model])
            points.append(
                Point(
                    name=model, cost=float(rank_ms[model].replace(",", "")), quality=middle,
                    half_width=half_width or None, is_control=model == CONTROL,
                )
            )  # fmt: skip
    svg = pareto_svg(
        points,
        title="Quality against cost of a request",
        x_label="CPU milliseconds to rank 10,000 candidates with 10,000 behaviours (log scale)",
        y_label=f"AUC of p(click|candidate) minus {CONTROL}'s, with 95% intervals",
    )
    return svg, sorted(differences.keys() ^ rank_ms.keys())


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the figure."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.quality_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default, what in (
        ("quality", "models.md", "page with the table of quality"),
        ("costs", "performance.md", "page with the table of costs"),
        ("out", "quality-cost.svg", "the figure"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, default=DOCS / default, metavar="PATH",
            help=f"{what} (default: docs/{default})",
        )  # fmt: skip
    parser.add_argument(
        "--section", default=SECTION, help="of the first page (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        quality = section(options.quality.read_text(), options.section)
        svg, left_out = draw(quality, options.costs.read_text())
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    options.out.write_text(svg)
    print(f"figure: {options.out}")
    if left_out:
        print(f"left out, as only one page has them: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
