"""What a comparison says while it runs: a bar on a terminal, a line now and then elsewhere.

Knows counts and a clock. Everything goes to standard error, so that standard output stays data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ifa_ray.config import CROSS_FEATURES, require
from ifa_ray.errors import ConfigError
from ifa_ray.evaluation.config import (
    EACH,
    EvaluationConfig,
    expand_models,
    known_models,
    model_lists,
)
from ifa_ray.evaluation.protocol import evaluate
from ifa_ray.evaluation.result import Evaluation, to_json
from ifa_ray.evaluation.tables import TextTable, facts, footer, tables

_LINE_EVERY_S = 10.0


class EvaluationProgress:
    """Counts batches over all runs that are still to be done, then the steps of the measurement.

    Args:
        stream: where to; standard error by default.
        clock: seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._begun = clock()
        self._phase_begun = self._begun
        self._last_line = self._begun
        self._runs = 0
        self._done: dict[tuple[str, int], int] = {}
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("reading", total=None, eta="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, runs: int, finished: int) -> None:
        """So many runs are to be done; others were finished by an earlier call."""
        self._runs = runs
        self._phase_begun = self._last_line = self._clock()
        if finished:
            self._say(f"{finished} runs were finished before; {runs} are missing")

    def batch(self, model: str, seed: int, done: int, total: int) -> None:
        """A run has done so many of its batches."""
        self._done[model, seed] = done
        share = sum(self._done.values()) / max(1, self._runs * total)
        self._show(f"{model}, seed {seed}, batch {done} of {total}", share)

    def measure(self, what: str, done: int, total: int) -> None:
        """The measurement of costs has done so many of its steps."""
        if done == 1:
            self._phase_begun = self._clock()
        self._show(f"measuring costs: {what}", done / total)

    def _show(self, text: str, share: float) -> None:
        now = self._clock()
        elapsed = now - self._phase_begun
        # The first batches pay for what is made once, and say nothing about the others.
        eta = f"ETA {elapsed / share * (1 - share):.0f} s" if share >= 0.03 else "ETA -"
        if self._bar:
            self._bar.update(self._task, description=text, total=1.0, completed=share, eta=eta)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._say(f"{share:.0%}, {text}, {eta}")

    def _say(self, text: str) -> None:
        self._console.print(f"[{self._clock() - self._begun:6.1f} s] {text}", markup=False)


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

_SIZES = (
    ("--candidates-sampled", "num_sampled", "films beside the rated one (MovieLens)"),
    ("--batch-size", "batch_size", "requests per training step"),
    ("--learning-rate", "learning_rate", "of Adam"),
    ("--width", "width", "D, of embeddings and attention"),
    ("--top-k", "top_k", "k, behaviours that a two-stage or short model looks at"),
    ("--max-history", "max_history", "T, behaviours beyond the latest T are not read"),
    ("--id-buckets", "id_buckets", "rows of the hashed item table"),
    ("--author-buckets", "author_buckets", "rows of the hashed author table"),
    ("--timed-requests", "timed_requests", "ranked one by one to measure costs, 0 to measure none"),
    ("--threads", "threads", "of torch; compare runs of equal numbers only"),
)


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the subparsers of the command line."""
    command = commands.add_parser(
        "evaluate",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = EvaluationConfig(data="", models=("twin",))
    add = command.add_argument
    add("--data", required=True, metavar="DIR", help="folder of MovieLens, KuaiRand, EB-NeRD (one "
        "split), a run or a warm-up log; or DIR=module:function, an adapter")  # fmt: skip
    add("--models", default="avg_pooling,twin,ifa,ifa_plus", metavar="A,B,...",
        help=f"of {', '.join(known_models())}; or lists: {', '.join(model_lists())} "
        "(default: %(default)s)")  # fmt: skip
    add("--control", default=defaults.control, metavar="NAME",
        help="differences are to this model (default: %(default)s)")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="keep finished runs, evaluation.json, "
        "table.md and two figures here; the same command again does what is missing")  # fmt: skip
    add("--jobs", type=int, default=1, metavar="N",
        help="processes that run models; metrics do not depend on it (default: 1)")  # fmt: skip
    add("--json", metavar="PATH", help="write all numbers here; - prints them instead of tables")
    data = command.add_argument_group("seeds and data")
    data.add_argument("--seeds", type=int, default=defaults.seeds, metavar="S",
                      help="repetitions; tests need 2 or more (default: %(default)s)")  # fmt: skip
    data.add_argument("--first-seed", type=int, default=0, metavar="F",
                      help="seeds are F to F + S - 1 (default: 0)")  # fmt: skip
    data.add_argument("--max-requests", type=int, default=defaults.max_requests, metavar="N",
                      help="of a stream, 0 for all of it (default: %(default)s)")  # fmt: skip
    data.add_argument("--arm", metavar="NAME", help="of a run with several: whose log to learn "
                      "from; warmup is what all share")  # fmt: skip
    data.add_argument("--replicate", metavar="each|R", help="of a run or log: "
                      "replicate s for seed s, or R for all seeds (default: each, if there are "
                      "several)")  # fmt: skip
    size = command.add_argument_group("the same for all models")
    size.add_argument("--cross-features", metavar="A,B,...", help="of "
                      f"{', '.join(CROSS_FEATURES)}; or none (default: channel)")  # fmt: skip
    size.add_argument("--counts", choices=sorted(COUNTS), help="short for --cross-features "
                      f"{','.join(COUNTS['off'])} or {','.join(COUNTS['on'])}")  # fmt: skip
    size.add_argument("--tower-widths", metavar="A,B,...",
                      default=",".join(map(str, defaults.tower_widths)),
                      help="hidden widths of every tower (default: %(default)s)")  # fmt: skip
    for flag, field, text in _SIZES:
        default = getattr(defaults, field)
        size.add_argument(flag, dest=field, type=type(default), default=default, metavar="X",
                          help=f"{text} (default: {default})")  # fmt: skip


def _config(options: argparse.Namespace) -> EvaluationConfig:
    require(options.counts is None or options.cross_features is None, "counts", options.counts,
            "left out where --cross-features says which")  # fmt: skip
    features = COUNTS[options.counts or "off"]
    if options.cross_features is not None:
        words = [word.strip() for word in options.cross_features.split(",")]
        features = () if words == ["none"] else tuple(words)
    return EvaluationConfig(
        data=options.data,
        models=expand_models(options.models),
        control=options.control,
        seeds=options.seeds,
        first_seed=options.first_seed,
        max_requests=options.max_requests,
        arm=options.arm,
        replicate=_replicate(options.replicate),
        tower_widths=_widths(options.tower_widths),
        cross_features=features,
        **{field: getattr(options, field) for _, field, _ in _SIZES},
    )


def run_evaluate(options: argparse.Namespace) -> int:
    """Compares, prints and writes.

    Returns:
        The process's status.
    """
    config = _config(options)
    target = None if options.json in (None, "-") else Path(options.json)
    if target is not None:
        # Now, and not after minutes of work.
        require(target.parent.is_dir(), "json", options.json, "in a folder that exists")
    try:
        with EvaluationProgress() as progress:
            evaluation = evaluate(config, out=options.out, jobs=options.jobs, listener=progress)
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
        console.print(_rich(table))
        for note in table.notes:
            console.print(note, soft_wrap=True, markup=False)
    console.print()
    for line in footer(evaluation):
        console.print(line, soft_wrap=True, markup=False)


def _rich(table: TextTable) -> Table:
    shown = Table(show_edge=False, pad_edge=False)
    shown.add_column(table.columns[0], min_width=12)
    for name in table.columns[1:]:
        shown.add_column(name, justify="right")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _replicate(text: str | None) -> int | str | None:
    if text in (None, EACH):
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"replicate == {text!r}, must be a number >= 0, or each.") from None


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ConfigError(f"tower_widths == {text!r}, must be numbers: 64,32.") from None
