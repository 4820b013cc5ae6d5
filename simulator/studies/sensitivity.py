"""Finds the mechanism of the world that decides who wins: the A/B test over its knobs, and zero.

Knows settings and finished runs; a row is one whole run in plain processes in a folder of its own,
so a table that was interrupted goes on where it stopped. One knob is moved at a time, the levels
stay as they were solved, and the control's click rate is printed beside: a row whose rates have
left the real ones says what matters, not how much of it there is in the world.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.config import Config, add_flags, flags_given, read_setting, require, setting
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.processes import in_processes, usable_cores
from simulator.cli.settings import add_command, add_settings, preset_of
from simulator.run.presets import RunConfig
from simulator.run.simulate import simulate

KNOBS: Mapping[str, tuple[float, ...]] = {
    "interest_gain": (0.0, 0.5, 2.0),
    "interest_spread": (0.0, 2.4),
    "dormancy": (0.0,),
    "mood_gain": (0.0, 1.0, 2.0),
    "drift_rate": (0.0, 0.05),
    "loyalty_gain": (0.0, 1.0, 2.0),
    "taste_gain": (0.0, 1.0, 2.0),
    "quality_gain": (0.0, 0.7),
    "popularity_gain": (0.0, 0.4),
    "topic_boredom": (0.0, 0.4),
    "author_boredom": (0.0, 0.6),
    "policy_noise": (0.0, 1.6),
    "policy_popularity": (0.0, 1.2),
    "category_noise": (0.0, 0.6),
    "content_noise": (0.0, 1.5),
    "retrieval_noise": (0.0, 1.0),
}
"""Settings of `WorldConfig` and what each is set to, the rest at the named world's values."""

BASELINE = "as it is"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SensitivitySettings(Config):
    """One table."""

    knobs: tuple[str, ...] = setting(tuple(KNOBS), "settings of the world", choices=KNOBS)
    arms: tuple[str, ...] = setting(("twin", "din", "ifa", "ifa_plus"), "the first is the control")
    replicates: int = setting(8, "worlds of each row, the same seeds in all; 3 for a verdict", ge=3)
    users: int = setting(16, "of each world", ge=1)
    days: int = setting(4, "of each world", ge=2)
    train_requests_per_day: int = setting(24, "samples that each model learns per day", ge=1)

    def configs(self, base: RunConfig) -> dict[str, RunConfig]:
        """The runs of the table by the name of their row, the world as it is first."""
        sizes = {name: value for name, value in self.to_dict().items() if name != "knobs"}
        sized = base.replace({**sizes, "burn_in_days": 1, "shards": 1})
        rows = {BASELINE: sized}
        for knob in self.knobs:
            for value in KNOBS[knob]:
                rows[f"{knob} = {value:g}"] = sized.replace({f"world.{knob}": value})
        return rows


def measure_sensitivity(
    base: RunConfig,
    settings: SensitivitySettings,
    root: Path,
    processes: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Runs what is missing of the table's runs and reads them all.

    Args:
        base: gives world, model sizes, training and seed.
        settings: which rows and arms.
        root: the runs' folder, one below it for each row; finished ones are not run again.
        processes: rows side by side.
        say: is given a line after each row.

    Returns:
        JSON values: the settings and one entry a row, in the order of `SensitivitySettings`.

    Raises:
        ConfigError: if a folder below `root` holds a run of other settings.
        LogError: if a process died.
    """
    require(processes >= 1, "processes", processes, ">= 1")
    configs = settings.configs(base)
    jobs = [(_folder(root, name), config) for name, config in configs.items()]
    names = dict(zip((folder for folder, _ in jobs), configs, strict=True))
    started = time.monotonic()
    for count, ((folder, _), _) in enumerate(in_processes(_run_one, jobs, processes), 1):
        passed = time.monotonic() - started
        left = passed / count * (len(configs) - count)
        row = names[folder]
        say(f"[{passed:6.1f} s] {count}/{len(configs)} rows: {row}; ETA {left:.0f} s")
    return {
        "preset": base.preset,
        "seed": base.seed,
        "settings": settings.to_dict(),
        "rows": [_row(name, _folder(root, name)) for name in configs],
    }


def _run_one(root: Path, config: RunConfig) -> None:
    resume = (root / "config.json").exists()
    simulate(config, root, processes=1, resume=resume, progress=io.StringIO())


def _folder(root: Path, name: str) -> Path:
    return root / name.replace(" ", "").replace("=", "-")


def _row(name: str, root: Path) -> dict[str, Any]:
    """The result of a finished run, cut down to the primary metric."""
    analysis = json.loads((root / "result.json").read_bytes())["ab"]
    primary, control = analysis["primary"], analysis["control"]
    effects = {}
    for arm in analysis["treatments"]:
        effect = analysis["effects"][arm][primary]
        effects[arm] = {
            "relative": effect["relative"],
            "interval": effect["interval"],
            "decision": analysis["verdicts"][arm]["decision"],
        }
    levels = analysis["levels"][control]
    return {
        "row": name,
        "control": control,
        "control_watch_s": levels[primary]["mean"],
        "control_click_rate": levels["click_rate"]["mean"],
        "effects": effects,
        "best": _best(control, effects),
    }


def _best(control: str, effects: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The arm of the highest watch time; None where an effect is undefined."""
    lifts = {control: 0.0, **{arm: effect["relative"] for arm, effect in effects.items()}}
    if any(lift is None for lift in lifts.values()):
        return None
    return max(lifts, key=lambda arm: lifts[arm])


def format_table(report: Mapping[str, Any]) -> str:
    """The report as Markdown: relative watch time against the control, with 95% intervals."""
    rows: Sequence[Mapping[str, Any]] = report["rows"]
    control, arms = rows[0]["control"], list(rows[0]["effects"])
    head = ["world", f"{control}, s", "click rate", *(f"{arm}, % of {control}" for arm in arms)]
    lines = ["| " + " | ".join([*head, "highest"]) + " |", "|" + "---|" * (len(head) + 1)]
    for row in rows:
        cells = [row["row"], f"{row['control_watch_s']:.0f}", f"{row['control_click_rate']:.3f}"]
        cells += [_cell(row["effects"][arm]) for arm in arms]
        lines.append("| " + " | ".join([*cells, row["best"] or "-"]) + " |")
    told = [
        sum(row["effects"][arm]["decision"] in ("better", "worse") for row in rows) for arm in arms
    ]
    lines += [
        "",
        "In bold: told apart from the control, Holm over the arms of a row, not over rows. "
        + "; ".join(
            f"{arm}: {count} of {len(rows)} rows" for arm, count in zip(arms, told, strict=True)
        )
        + ".",
    ]
    return "\n".join(lines)


def _cell(effect: Mapping[str, Any]) -> str:
    if effect["relative"] is None or effect["interval"] is None:
        return "undefined"
    low, high = effect["interval"]
    text = f"{100 * effect['relative']:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"
    return f"**{text}**" if effect["decision"] in ("better", "worse") else text


_HELP = """\
Repeats the A/B comparison with one mechanism of the world moved at a time, zero included, and
prints where each arm wins. Every row is a whole run (plain processes, no Ray) in a folder of its
own below --out: the same command again does only what is missing. About a minute of one core a row.

examples:
  python -m simulator sensitivity --out runs/sensitivity
  python -m simulator sensitivity --knobs mood_gain,loyalty_gain --replicates 12 --out runs/some
  python -m simulator sensitivity --set 'model.cross_features=["channel","category","author"]' \
      --out runs/with-counts
"""


def add_sensitivity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    sensitivity = add_command(commands, "sensitivity", _HELP)
    add_settings(sensitivity, (), default="smoke")
    sensitivity.add_argument("--seed", type=int, default=0, help="of every row (default: 0)")
    add_flags(sensitivity, SensitivitySettings, SensitivitySettings.__dataclass_fields__)
    sensitivity.add_argument("--out", type=Path, required=True, help="a folder for all the runs")
    sensitivity.add_argument("--processes", type=int, metavar="N", help="default: the cores")


def run_sensitivity(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    changes = {"seed": args.seed, **dict(read_setting(text) for text in args.set)}
    report = measure_sensitivity(
        preset_of(args).replace(changes),
        SensitivitySettings().replace(flags_given(args)),
        args.out.resolve(),
        usable_cores() if args.processes is None else args.processes,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    table = format_table(report)
    write_atomically(args.out / "sensitivity.json", json.dumps(report, indent=1).encode())
    write_atomically(args.out / "sensitivity.md", table.encode())
    print(table)
    return 0
