"""How many requests a second the closed loop lives, before and after its rankers were made fast.

    python -m benchmarks.closed_loop [--quick] [--models A,B] [--preset NAME] [--users N]
        [--days N] [--set NAME=VALUE] [--trials N] [--json PATH]

One arm lives its days by the plain path (`python -m simulator run --plain 1`): users ask,
candidates are retrieved, the arm's ranker answers, users respond, the model learns. The same days
are lived with each form of the ranker, in turns, from the same warm-up, seeds and first weights:

    naive  equations 6 and 7 as they are read, through m x n weights; else as plain
    plain  by sums; nothing of the catalogue prepared, towers on the whole concatenation
    fast   `ifa_ray.ranker.ModelRanker`, as served and as every run uses it

What the forms do must be the same: their logs are compared impression by impression. The forms of
a score differ by rounding, which scores are rounded to hide, so all impressions are expected to be
equal; a slate that differs changes what its user does next, and what the model learns. CPU time
of one process; the warm-up, which no ranker is asked in, is not timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.naive_models import FORMS, in_form
from benchmarks.results import write
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import concat_columns, read_impressions, read_timings
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.data.tables import Columns
from ifa_ray.errors import unknown_name
from ifa_ray.models import RankModel
from ifa_ray.ranker import ModelRanker, Ranker
from simulator.commands.settings import add_set, read_setting
from simulator.compile_ahead import compile_ahead
from simulator.opening import open_run
from simulator.plain_run import MakeRanker, live_arm
from simulator.presets import PRESETS, RunConfig, override, preset
from simulator.warmup_log import live_warmups

__all__ = ["Lived", "Size", "equal_share", "main", "measure", "table", "verdicts"]

MODELS = tuple(FORMS["naive"])
FAST = "fast"

# Of impressions, which is what is wanted of a slate's places in another order of float32 sums.
SAME = 0.995


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A run: a preset with few users and days, and other settings by name."""

    preset: str
    users: int
    days: int
    trials: int
    settings: tuple[str, ...] = ()

    def config(self) -> RunConfig:
        """Its settings: one replicate, the arms of all models."""
        changes = {"arms": MODELS, "replicates": 1, "users": self.users, "days": self.days,
                   "shards": 1}  # fmt: skip
        return override(preset(self.preset), changes | dict(map(read_setting, self.settings)))


FULL = Size(preset="quick", users=16, days=4, trials=3)
QUICK = Size(preset="smoke", users=4, days=2, trials=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lived:
    """One model's days in one form; medians over the trials, CPU time.

    Attributes:
        candidates, history: m, and the longest n that is read.
        requests: answered in a trial.
        requests_per_s: of living: world, ranking and log.
        whole_per_s: the same with the steps of learning, which no form changes.
        ranked_per_s: of the ranker alone, by its own clock.
        times_naive: `requests_per_s` over the naive form's.
        impressions: in the fast form's log.
        equal: the share of them that this form's log holds too, feedback and all.
    """

    model: str
    form: str
    candidates: int
    history: int
    requests: int
    trials: int
    requests_per_s: float
    whole_per_s: float
    ranked_per_s: float
    times_naive: float
    impressions: int
    equal: float


def measure(
    size: Size,
    models: tuple[str, ...] = MODELS,
    clock: Callable[[], float] = time.process_time,
) -> list[Lived]:
    """Lives every model's days in every form, in turns."""
    config = size.config()
    compile_ahead()  # compiling is not what is measured
    with tempfile.TemporaryDirectory() as name:
        begun = Path(name) / "begun"
        with open_run(begun, config, resume=False) as folder:
            for _ in live_warmups(folder.root, config, 1):
                pass
        return [lived for model in models for lived in _live(size, config, begun, model, clock)]


def _live(
    size: Size, config: RunConfig, begun: Path, model: str, clock: Callable[[], float]
) -> list[Lived]:
    """One model's days, in all forms."""
    (arm,) = (arm for arm in config.parsed_arms if arm.name == model)
    makers: dict[str, MakeRanker] = {
        **{form: functools.partial(_ranker, form) for form in FORMS},
        FAST: ModelRanker,
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    logs: dict[str, Columns] = {}
    requests: dict[str, int] = {}
    for trial in range(-1, size.trials):  # one more, before those that count
        for form, make_ranker in makers.items():
            root = begun.with_name(f"{model}-{form}")
            shutil.copytree(begun, root)
            start = clock()
            requests[form] = live_arm(root, config, arm, make_ranker)
            whole_s, folder = clock() - start, RunFolder(root)
            spent = {
                "whole": whole_s, "living": whole_s - _learning_s(folder, model),
                "ranking": _ranking_s(folder, model),
            }  # fmt: skip
            logs[form] = _impressions(folder, model)
            shutil.rmtree(root)
            for task, task_s in spent.items() if trial >= 0 else ():
                seconds.setdefault((form, task), []).append(task_s)
    per_s = {
        (form, task): requests[form] / statistics.median(spent)
        for (form, task), spent in seconds.items()
    }
    return [
        Lived(
            model=model, form=form, candidates=config.candidates_of(model),
            history=config.model.max_history, requests=requests[form], trials=size.trials,
            requests_per_s=per_s[form, "living"], whole_per_s=per_s[form, "whole"],
            ranked_per_s=per_s[form, "ranking"],
            times_naive=per_s[form, "living"] / per_s["naive", "living"],
            impressions=len(logs[FAST]["user_id"]), equal=equal_share(logs[FAST], logs[form]),
        )
        for form in makers
    ]  # fmt: skip


def _ranker(
    form: str, model: RankModel, items: ItemTable, version: int, clock: Callable[[], float]
) -> Ranker:
    return ModelRanker(in_form(form, model, items), items, version, clock)


def _ranking_s(folder: RunFolder, arm: str) -> float:
    files = sorted((folder.log / "timings" / f"arm={arm}").glob("**/*.parquet"))
    return float(sum(read_timings(path)["rank_ms"].sum() for path in files)) / 1e3


def _learning_s(folder: RunFolder, arm: str) -> float:
    files = (folder.root / "training_times" / f"arm={arm}").glob("**/*.json")
    return float(sum(json.loads(path.read_bytes())["seconds"] for path in files))


def _impressions(folder: RunFolder, arm: str) -> Columns:
    files = sorted((folder.log / "impressions" / f"arm={arm}").glob("**/*.parquet"))
    return concat_columns([read_impressions(path) for path in files])


def equal_share(one: Columns, other: Columns) -> float:
    """The share of one log's impressions that another holds, every column alike."""
    rows = [np.rec.fromarrays([log[name] for name in sorted(one)]) for log in (one, other)]
    return float(np.isin(rows[0], rows[1]).mean())


def table(found: list[Lived]) -> str:
    """The results as aligned text, a block for each model."""
    lines = []
    for previous, r in zip([None, *found], found, strict=False):
        if previous is None or previous.model != r.model:
            lines += [
                "",
                f"closed loop of {r.model}: m = {r.candidates:,}, n up to {r.history:,}, "
                f"{r.requests:,} requests, {r.impressions:,} impressions, {r.trials} trials",
                f"  {'form':<6} {'requests/s':>11} {'x naive':>8} {'ranked/s':>9} "
                f"{'with learning':>14} {'equal impressions':>18}",
            ]
        lines.append(
            f"  {r.form:<6} {r.requests_per_s:11.1f} {r.times_naive:8.2f} {r.ranked_per_s:9.1f} "
            f"{r.whole_per_s:14.1f} {r.equal:18.2%}"
        )
    return "\n".join(lines[1:])


def verdicts(found: list[Lived]) -> list[str]:
    """Two lines for each form that was there before: the loop is faster, and does the same."""
    fast = {r.model: r for r in found if r.form == FAST}
    lines = []
    for r in found:
        if r.form == FAST:
            continue
        times = fast[r.model].requests_per_s / r.requests_per_s
        lines += [
            f"  {r.model}, fast over {r.form}: {times:.2f}x requests/s, wanted > 1x: "
            f"{'met' if times > 1 else 'missed'}",
            f"  {r.model}, fast and {r.form}: {r.equal:.2%} of impressions equal, "
            f"wanted >= {SAME:.1%}: {'met' if r.equal >= SAME else 'missed'}",
        ]
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.closed_loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--models", default=",".join(MODELS), metavar="A,B", help="default: all")
    parser.add_argument("--preset", choices=sorted(PRESETS), help=f"default: {FULL.preset}")
    parser.add_argument("--users", type=int, metavar="N", help=f"default: {FULL.users}")
    parser.add_argument("--days", type=int, metavar="N", help=f"default: {FULL.days}")
    parser.add_argument("--trials", type=int, metavar="N", help=f"default: {FULL.trials}")
    add_set(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    models = tuple(dict.fromkeys(options.models.split(",")))
    for name in models:
        if name not in MODELS:
            parser.error(str(unknown_name("models", name, MODELS)))
    named = ("preset", "users", "days", "trials")
    changes = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    size = dataclasses.replace(
        QUICK if options.quick else FULL, settings=tuple(options.set), **changes
    )
    found = measure(size, models)
    print(table(found))
    lines = verdicts(found)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {
            "benchmark": "closed_loop", "machine": machine, "verdicts": lines,
            "size": dataclasses.asdict(size),
            "results": [dataclasses.asdict(lived) for lived in found],
        }  # fmt: skip
        write(options.json, document)


if __name__ == "__main__":
    main()
