"""The tables of a comparison as text: of the paper's lists, differences with tests, costs.

Knows estimates and how numbers are written; not where they are shown: `markdown` is one form, the
command line's is another. Every table of tests counts them, so that one small p of many is not
taken for a finding.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ifa_ray.evaluation.config import (
    MODEL_LISTS,
    PAPER_TABLES,
    REFERENCES,
    TITLES,
    covered_lists,
)
from ifa_ray.evaluation.figures import time_kind
from ifa_ray.evaluation.result import (
    METRICS,
    Comparison,
    Estimate,
    Evaluation,
    compare,
    model_estimate,
    part_ends,
    part_means,
)
from ifa_ray.schema import OBJECTIVES

ALPHA = 0.05
PAPER_NOTE = "Paper: another data set, not comparable. AUC of impression, click, long view, like."


class TextTable(NamedTuple):
    """One table; its first column is of names, the others of numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


def tables(evaluation: Evaluation) -> list[TextTable]:
    """All tables: for each list of models that was asked for whole, then the rest, then cost."""
    config = evaluation.config
    lists = covered_lists(config.models)
    rest = [m for m in config.models if not any(m in MODEL_LISTS[name] for name in lists)]
    groups = [(f"{TITLES[name]}. ", MODEL_LISTS[name], name) for name in lists]
    if rest:
        groups.append(("Other models. " if lists else "", tuple(rest), ""))
    found: list[TextTable] = []
    for prefix, models, name in groups:
        found += [_metric_table(evaluation, prefix, models, name, metric) for metric in METRICS]
        reference = REFERENCES.get(name, config.control)
        if reference in config.models and set(models) != {reference}:
            found += [
                _difference_table(evaluation, prefix, models, reference, metric)
                for metric in METRICS
            ]
    found.append(_curve_table(evaluation))
    return [*found, _cost_table(evaluation)] if evaluation.costs else found


def facts(evaluation: Evaluation) -> list[str]:
    """The settings that were the same for all models, one sentence or two each."""
    config = evaluation.config
    whole, half = evaluation.runs[0].whole, evaluation.runs[0].second_half
    streams = len({run.stream for run in evaluation.runs})
    if config.seeds == 1:
        spread = "One seed: no spread is known."
    elif streams == config.seeds:
        spread = "Each seed has its own data and weights."
    else:
        shared = f"{config.seeds} seeds share {streams} stream(s)"
        spread = f"{shared}: the spread tells of weights alone."
    first, last = config.seed_range[0], config.seed_range[-1]
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    return [
        *evaluation.notes,
        f"The same for every model: {whole.samples:,} requests, {whole.candidates:,} candidates, "
        f"{whole.steps:,} steps of {config.batch_size}, Adam {config.learning_rate:g}, width "
        f"{config.width}, towers {'-'.join(map(str, config.tower_widths))}, top k {config.top_k}, "
        f"history up to {config.max_history:,}, {seeds}.",
        f"Cross features, the same for every model: {', '.join(config.cross_features) or 'none'}.",
        f"Metrics: test before train, over the last {half.samples:,} requests; mean ± standard "
        f"error over seeds. {spread}",
    ]


def footer(evaluation: Evaluation) -> list[str]:
    """Where the numbers come from."""
    here = evaluation.provenance
    hardware, versions = here["hardware"], here["versions"]
    dirty = " with local changes" if here["git_dirty"] else ""
    lines = [
        f"{hardware['cpu']}, {evaluation.config.threads} thread(s); python {versions['python']}, "
        f"torch {versions['torch']}; commit {here['git_commit']}{dirty}; {here['date']}; "
        f"settings {evaluation.config.settings_hash}."
    ]
    if len(evaluation.programs) > 1:
        commits = {
            str(program["git_commit"])[:12] + ("+changes" if program["git_dirty"] else "")
            for program in evaluation.programs
        }
        lines.append(
            f"The runs were made in parts, by {len(evaluation.programs)} different programs "
            f"(commits {', '.join(sorted(commits))})."
        )
    return lines


def markdown(evaluation: Evaluation) -> str:
    """All of it, ready to paste into a page."""
    lines = [f"- {fact}" for fact in facts(evaluation)]
    for table in tables(evaluation):
        lines += ["", f"**{table.title}**", "", f"| {' | '.join(table.columns)} |"]
        lines.append("|---|" + "---:|" * (len(table.columns) - 1))
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += [f"\n{note}" for note in table.notes]
    return "\n".join([*lines, "", *footer(evaluation), ""])


def _metric_table(
    evaluation: Evaluation, prefix: str, models: Sequence[str], name: str, metric: str
) -> TextTable:
    cells = {
        model: [model_estimate(evaluation.runs, model, metric, goal) for goal in OBJECTIVES]
        for model in models
    }
    rows = [(model, *map(_mean, found)) for model, found in cells.items()]
    title, columns = f"{prefix}{metric.upper()}", ("model", *OBJECTIVES)
    paper = PAPER_TABLES.get(name) if metric == "auc" else None
    if paper is None:
        return TextTable(title, columns, rows, [])
    rows = [(*row, " ".join(f"{value:.4f}" for value in paper[row[0]])) for row in rows]
    return TextTable(title, (*columns, "paper"), rows, [PAPER_NOTE, _order_note(cells, paper)])


def _order_note(
    cells: Mapping[str, Sequence[Estimate]], paper: Mapping[str, tuple[float, ...]]
) -> str:
    """Counts the pairs of models that stand in the paper's order here, by objective."""
    texts = []
    for place, objective in enumerate(OBJECTIVES):
        means = {model: found[place].mean for model, found in cells.items()}
        known = [(paper[model][place], mean) for model, mean in means.items() if mean is not None]
        pairs = list(itertools.combinations(known, 2))
        same = sum((a[0] < b[0]) == (a[1] < b[1]) for a, b in pairs)
        texts.append(f"{objective} {same} of {len(pairs)}")
    return f"Pairs of models in the paper's order, by means: {', '.join(texts)}."


def _difference_table(
    evaluation: Evaluation, prefix: str, models: Sequence[str], reference: str, metric: str
) -> TextTable:
    found = compare(evaluation.runs, models, reference, metric)
    return TextTable(
        f"{prefix}{metric.upper()} minus {reference}'s, paired by seed",
        ("model, objective", "difference", "s.e.", "95% t-interval", "p", "p, Holm"),
        [(f"{each.model} {each.objective}", *_comparison(each)) for each in found],
        [_count_note(found)],
    )


def _count_note(found: Sequence[Comparison]) -> str:
    tested = [each.difference.p for each in found if each.difference.p is not None]
    if not tested:
        return f"{len(found)} comparisons and no test: 2 or more seeds are needed."
    small = sum(p < ALPHA for p in tested)
    left = sum(each.p_holm is not None and each.p_holm < ALPHA for each in found)
    return (
        f"{len(tested)} comparisons in this table: {small} have p < {ALPHA:g}, where chance alone "
        f"gives {ALPHA * len(tested):.1f}; {left} after Holm's adjustment for all of them."
    )


def _curve_table(evaluation: Evaluation) -> TextTable:
    runs, models = evaluation.runs, evaluation.config.models
    ends = part_ends(runs)
    note = (
        f"Mean over seeds, in {len(ends)} consecutive parts, of the requests up to that number; "
        "each was tested before it was learned. A model that still rises at the end has not "
        "learned all that it can. A dash: not defined for some seed."
    )
    return TextTable(
        "Along the stream: AUC of p(click|candidate)",
        ("model", *(f"to {end:,}" for end in ends)),
        [(m, *("-" if v is None else f"{v:.4f}" for v in part_means(runs, m))) for m in models],
        [note],
    )


def _cost_table(evaluation: Evaluation) -> TextTable:
    costs = [(name, evaluation.costs[name]) for name in evaluation.config.models]
    peaks = [c.peak_bytes and f"{c.peak_bytes / 2**20:.1f}" for _, c in costs]
    note = (
        f"{time_kind(evaluation.config)}. Medians over the stream's last "
        f"{evaluation.config.timed_requests} requests, models taking turns; training is a "
        "request's share of its batch. Peak: resident memory while ranking beyond model and "
        "catalogue, in a fresh process, of the largest 3 requests."
    )
    return TextTable(
        "Cost of a request, measured alone after the comparison",
        ("model", "rank, ms", "train, ms", "peak, MiB"),
        [
            (name, f"{cost.rank_ms:.2f}", f"{cost.train_ms:.2f}", str(peak or "not known"))
            for (name, cost), peak in zip(costs, peaks, strict=True)
        ],
        [note],
    )


def _comparison(each: Comparison) -> tuple[str, ...]:
    value = each.difference
    if value.mean is None:
        return (f"not defined: {value.undefined}", "", "", "", "")
    if value.half_width is None or value.p is None or each.p_holm is None:
        return (f"{value.mean:+.4f}", "", "", "", "")
    low, high = value.mean - value.half_width, value.mean + value.half_width
    ps = ("< .0001" if p < 0.0001 else f"{p:.4f}" for p in (value.p, each.p_holm))
    interval = f"{low:+.4f} to {high:+.4f}"
    return (f"{value.mean:+.4f}", f"{value.standard_error:.4f}", interval, *ps)


def _mean(value: Estimate) -> str:
    if value.mean is None:
        return f"not defined: {value.undefined}"
    spread = "" if value.standard_error is None else f" ± {value.standard_error:.4f}"
    return f"{value.mean:.4f}{spread}"
