"""`ifa-ray evaluate`: its flags, its help and its tables on a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ifa_ray.config import CROSS_FEATURES, add_flags, flags_given, require
from ifa_ray.evaluation.config import KNOWN_MODELS, MODEL_LISTS, EvaluationConfig, expand_models
from ifa_ray.evaluation.protocol import evaluate
from ifa_ray.evaluation.result import Evaluation, to_json
from ifa_ray.evaluation.tables import facts, footer, tables
from ifa_ray.progress import CommandProgress

EXIT_INTERRUPTED = 130
COUNTS = {"off": ("channel",), "on": CROSS_FEATURES}

_HELP = """\
Compare models on one log: every batch is predicted first and learned from then, by every model over
the same requests with the same settings, and metrics are those of the stream's second half. Each
model starts anew for each seed. A seed has data of its own where it can: the replicate of its
number of a simulated log, newly drawn candidates of MovieLens.

  AUC    of p(objective|candidate) over all candidates of all requests
  GAUC   the mean AUC within a request, over the requests that have both classes

Differences are paired by seed, with a t-test for each, the number of tests, and Holm's adjustment
for all tests of a table. Costs are measured afterwards, alone, models taking turns.
"""

_EPILOG = """\
examples:
  # Films: four models, three seeds, 4,000 requests of 100 candidates (the defaults).
  python -m ifa_ray evaluate --data ml-latest-small

  # The paper's protocol on simulated worlds, a fresh one for every seed; kept, and resumable:
  # the same command again does only what is missing.
  python -m simulator log --preset quick --replicates 5 --out logs/quick
  python -m ifa_ray evaluate --data logs/quick --models all --seeds 5 --top-k 20 \\
      --out evaluations/quick --jobs 2

  # The same features for all, now with counts of the category and the author.
  python -m ifa_ray evaluate --data logs/quick --models table2,ifa_plus --counts on --out e/on

  # The log of one arm of a finished run, one world, numbers as JSON too.
  python -m ifa_ray evaluate --data runs/quick --arm twin --replicate 0 --json eval.json

  # A first look in under a minute.
  python -m ifa_ray evaluate --data ml-latest-small --models twin,ifa --seeds 1 --max-requests 500

MovieLens: https://grouplens.org/datasets/movielens/latest/ (ml-latest-small.zip).
"""

_DATA = ("seeds", "first_seed", "max_requests", "arm", "replicate", "num_sampled")
_SIZES = (
    *("batch_size", "learning_rate", "width", "top_k", "max_history", "id_buckets"),
    *("author_buckets", "timed_requests", "threads", "tower_widths", "cross_features"),
)


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the subparsers of the command line."""
    command = commands.add_parser(
        "evaluate",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add_flags(command, EvaluationConfig, ("data", "control"))
    default = "avg_pooling,twin,ifa,ifa_plus"
    models = f"of {', '.join(KNOWN_MODELS)}; or lists: {', '.join(MODEL_LISTS)}"
    kept = "keep finished runs, evaluation.json, table.md and two figures here; the same command "
    jobs = "processes that run models; metrics do not depend on it"
    counts = [f"--cross-features {','.join(COUNTS[name])}" for name in ("off", "on")]
    add("--models", default=default, metavar="A,B", help=f"{models} (default: {default})")
    add("--out", type=Path, metavar="DIR", help=f"{kept}again does what is missing")
    add("--jobs", type=int, default=1, metavar="N", help=f"{jobs} (default: 1)")
    add("--json", metavar="PATH", help="write all numbers here; - prints them instead of tables")
    data = command.add_argument_group("seeds and data")
    add_flags(data, EvaluationConfig, _DATA, num_sampled="candidates_sampled")
    size = command.add_argument_group("the same for all models")
    add_flags(size, EvaluationConfig, _SIZES)
    size.add_argument("--counts", choices=sorted(COUNTS), help=f"short for {' or '.join(counts)}")


def run_evaluate(options: argparse.Namespace) -> int:
    """Compares, prints and writes; returns the process's status."""
    given = flags_given(options)
    require("data" in given, "data", None, "given: a folder, by --data")
    if options.counts is not None:
        is_free = "cross_features" not in given
        require(is_free, "counts", options.counts, "left out where --cross-features says which")
        given["cross_features"] = COUNTS[options.counts]
    config = EvaluationConfig.from_dict(given | {"models": expand_models(options.models)})
    target = None if options.json in (None, "-") else Path(options.json)
    if target is not None:
        # Now, and not after minutes of work.
        require(target.parent.is_dir(), "json", options.json, "in a folder that exists")
    try:
        with CommandProgress() as progress:
            evaluation = evaluate(config, out=options.out, jobs=options.jobs, tell=progress.tell)
    except KeyboardInterrupt:
        kept = "" if options.out is None else "; the same command continues"
        print(f"\ninterrupted{kept}", file=sys.stderr)
        return EXIT_INTERRUPTED
    text = json.dumps(to_json(evaluation), indent=2, allow_nan=False)
    if options.json == "-":
        print(text)
        return 0
    if target is not None:
        target.write_text(text + "\n")
    _print(evaluation)
    if options.out is not None:
        print(options.out)
    return 0


def _print(evaluation: Evaluation) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=130, highlight=False)
    for fact in facts(evaluation):
        console.print(f"- {fact}", soft_wrap=True, markup=False)
    for table in tables(evaluation):
        # Not rich's own title, which is broken at the table's width.
        console.print(f"\n{table.title}", style="bold")
        shown = Table(show_edge=False, pad_edge=False)
        shown.add_column(table.columns[0], min_width=12)
        for name in table.columns[1:]:
            shown.add_column(name, justify="right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(note, soft_wrap=True, markup=False)
    console.print()
    for line in footer(evaluation):
        console.print(line, soft_wrap=True, markup=False)
