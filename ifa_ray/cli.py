"""The command line of the ranking library: parses, runs, prints; knows no other logic.

Tables go to standard output, progress and errors to standard error. A mistake of the user's ends
with one line and status 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ifa_ray.config import require
from ifa_ray.data_cli import add_data_command, run_data
from ifa_ray.errors import IfaRayError
from ifa_ray.evaluate import (
    METRICS,
    Estimate,
    EvaluationConfig,
    ModelRun,
    difference,
    evaluate,
    model_estimate,
    to_json,
)
from ifa_ray.models import MODELS
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.sources import SampleStream

__all__ = ["main"]

_EVALUATE_HELP = """\
Compare models on one real log: every batch is predicted first and learned from then, by every
model over the same requests with the same settings, and metrics are those of the stream's second
half. Each model starts anew for each seed, which sets its weights and, for MovieLens, the sampled
candidates.

  AUC    of p(objective|candidate) over all candidates of all requests
  GAUC   the mean AUC within a request, over the requests that have both classes
"""

_EVALUATE_EPILOG = """\
examples:
  # Films: four models, three seeds, 4,000 requests of 100 candidates (the defaults).
  python -m ifa_ray evaluate --data ml-latest-small

  # The log of one arm of a simulated run, numbers as JSON too.
  python -m ifa_ray evaluate --data runs/quick --arm twin --replicate 0 --json eval.json

  # A first look in under a minute.
  python -m ifa_ray evaluate --data ml-latest-small --models twin,ifa --seeds 1 --max-requests 500

MovieLens: https://grouplens.org/datasets/movielens/latest/ (ml-latest-small.zip).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The process's status: 0, or 2 after a mistake of the user's.
    """
    options = _parser().parse_args(arguments)
    if options.command == "data":
        return run_data(options)
    try:
        _evaluate(options)
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ifa_ray", description="Rank with a whole life of behaviour."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _describe_evaluate(
        commands.add_parser(
            "evaluate",
            help="compare models on one real log, test then train",
            description=_EVALUATE_HELP,
            epilog=_EVALUATE_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_data_command(commands)
    return parser


def _describe_evaluate(command: argparse.ArgumentParser) -> None:
    defaults = EvaluationConfig(data="", models=("twin",))
    add = command.add_argument
    add(
        "--data",
        required=True,
        metavar="DIR",
        help="folder of MovieLens, KuaiRand, EB-NeRD (one split) or a run; or DIR=module:function",
    )
    add(
        "--models",
        default="avg_pooling,twin,ifa,ifa_plus",
        metavar="A,B,...",
        help=f"of {', '.join(MODELS)}; or all (default: %(default)s)",
    )
    add(
        "--control",
        default=defaults.control,
        metavar="NAME",
        help="differences are to this model (default: %(default)s)",
    )
    add(
        "--seeds",
        type=int,
        default=defaults.seeds,
        metavar="S",
        help="repetitions; intervals need 2 or more (default: %(default)s)",
    )
    add(
        "--max-requests",
        type=int,
        default=defaults.max_requests,
        metavar="N",
        help="length of the stream, 0 for all of it (default: %(default)s)",
    )
    add("--json", metavar="PATH", help="write all numbers here; - prints them instead of tables")
    run = command.add_argument_group("of a run's folder")
    run.add_argument(
        "--arm",
        default=defaults.arm,
        metavar="NAME",
        help="whose log to learn from (default: %(default)s)",
    )
    run.add_argument(
        "--replicate",
        type=int,
        default=defaults.replicate,
        metavar="R",
        help="of which world (default: %(default)s)",
    )
    size = command.add_argument_group("the same for all models")
    for flag, field, text in (
        ("--candidates-sampled", "num_sampled", "films beside the rated one (MovieLens)"),
        ("--batch-size", "batch_size", "requests per training step"),
        ("--learning-rate", "learning_rate", "of Adam"),
        ("--width", "width", "of embeddings and attention"),
        ("--top-k", "top_k", "behaviours that a two-stage or short model looks at"),
    ):
        default = getattr(defaults, field)
        size.add_argument(
            flag,
            dest=field,
            type=type(default),
            default=default,
            metavar="X",
            help=f"{text} (default: {default})",
        )
    size.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="X",
        help="of torch; compare runs of equal numbers only (default: %(default)s)",
    )


def _evaluate(options: argparse.Namespace) -> None:
    names = tuple(MODELS) if options.models == "all" else tuple(options.models.split(","))
    config = EvaluationConfig(
        data=options.data,
        models=names,
        control=options.control,
        seeds=options.seeds,
        max_requests=options.max_requests,
        arm=options.arm,
        replicate=options.replicate,
        num_sampled=options.num_sampled,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        width=options.width,
        top_k=options.top_k,
    )
    require(options.threads >= 1, "threads", options.threads, ">= 1")
    target = None if options.json in (None, "-") else Path(options.json)
    if target is not None:
        # Now, and not after minutes of work.
        require(target.parent.is_dir(), "json", options.json, "in a folder that exists")
    torch.set_num_threads(options.threads)
    runs, stream = _with_progress(config)
    result = to_json(config, runs, stream.notes) | {"threads": torch.get_num_threads()}
    text = json.dumps(result, indent=2, allow_nan=False)
    if options.json == "-":
        print(text)
        return
    if target is not None:
        target.write_text(text + "\n")
    _print(Console(width=110, highlight=False), config, runs, stream.notes, result["provenance"])


def _with_progress(config: EvaluationConfig) -> tuple[list[ModelRun], SampleStream]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # In a file or a pipe a bar is noise.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=None)

        def on_progress(name: str, seed: int, done: int, total: int) -> None:
            bar.update(task, description=f"{name}, seed {seed}", completed=done, total=total)

        return evaluate(config, on_progress=on_progress)


def _print(
    console: Console,
    config: EvaluationConfig,
    runs: Sequence[ModelRun],
    notes: Sequence[str],
    context: Mapping[str, Any],
) -> None:
    whole, half = runs[0].whole, runs[0].second_half
    lines = (
        *notes,
        f"The same for every model: {whole.samples:,} requests, {whole.candidates:,} candidates, "
        f"{whole.steps:,} steps of {config.batch_size}, Adam {config.learning_rate:g}, width "
        f"{config.width}, top k {config.top_k}, seeds 0 to {config.seeds - 1}.",
        f"Metrics: test before train, over the last {half.samples:,} requests; mean ± standard "
        "error over seeds, which tells of weights and draws and not of other users.",
    )
    for line in lines:
        console.print(f"- {line}", soft_wrap=True)
    for metric in METRICS:
        _print_table(console, metric.upper(), _metric_table(config, runs, metric))
    if config.control in config.models and len(config.models) > 1:
        for metric in METRICS:
            title = f"{metric.upper()} minus {config.control}'s, paired by seed, 95% t-interval"
            _print_table(console, title, _difference_table(config, runs, metric))
    title = "Milliseconds per request, median, a request ranked alone or trained in its batch"
    _print_table(console, title, _cost_table(config, runs))
    hardware, versions = context["hardware"], context["versions"]
    console.print(
        f"\n{hardware['cpu']}, {torch.get_num_threads()} thread(s); python {versions['python']}, "
        f"torch {versions['torch']}; commit {context['git_commit']}; {context['date']}",
        soft_wrap=True,
    )


def _print_table(console: Console, title: str, table: Table) -> None:
    # Not rich's own title, which is broken at the table's width.
    console.print(f"\n{title}", style="bold")
    console.print(table)


def _table(columns: Sequence[str]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("model", min_width=12)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _metric_table(config: EvaluationConfig, runs: Sequence[ModelRun], metric: str) -> Table:
    table = _table(OBJECTIVES)
    for model in config.models:
        cells = [_mean(model_estimate(runs, model, metric, name)) for name in OBJECTIVES]
        table.add_row(model, *cells)
    return table


def _difference_table(config: EvaluationConfig, runs: Sequence[ModelRun], metric: str) -> Table:
    table = _table(OBJECTIVES)
    for model in config.models:
        if model != config.control:
            cells = [
                _interval(difference(runs, model, config.control, metric, name))
                for name in OBJECTIVES
            ]
            table.add_row(model, *cells)
    return table


def _cost_table(config: EvaluationConfig, runs: Sequence[ModelRun]) -> Table:
    table = _table(("rank", "train"))
    for model in config.models:
        mine = [run for run in runs if run.model == model]
        rank = statistics.median(run.rank_ms for run in mine)
        train = statistics.median(run.train_ms for run in mine)
        table.add_row(model, f"{rank:.2f}", f"{train:.2f}")
    return table


def _mean(value: Estimate) -> str:
    if value.mean is None:
        return "not defined"
    spread = "" if value.standard_error is None else f" ± {value.standard_error:.4f}"
    return f"{value.mean:.4f}{spread}"


def _interval(value: Estimate) -> str:
    if value.mean is None:
        return "not defined"
    spread = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{value.mean:+.4f}{spread}"
