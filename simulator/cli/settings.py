"""Settings of a run on the command line: flags, `--set`, and the config that they make.

Knows presets and argparse; no command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from ifa_ray.errors import ConfigError
from simulator.run.presets import PRESETS, RunConfig, preset
from simulator.world.config import WORLDS

EXIT_INTERRUPTED = 130


# Flags that replace one setting of the preset.
SETTINGS = {
    "seed": ("seed", "everything random derives from it"),
    "replicates": ("replicates", "independent worlds; fewer than 3 give no verdict"),
    "users": ("users", "per replicate"),
    "days": ("days", "simulated under the arms"),
    "burn-in-days": ("burn_in_days", "the first of them, shown but not counted"),
    "candidates": ("world.num_candidates", "C, ranked per request"),
    "slate-size": ("world.slate_size", "how many of them are shown, at most"),
    "top-k": ("model.top_k", "k, behaviours that two-stage models look at"),
    "train-requests-per-day": ("train_requests_per_day", "samples each model learns per day"),
}


def add_settings(command: argparse.ArgumentParser, settings: Mapping[str, tuple[str, str]]) -> None:
    """The flags that make a config of a preset."""
    command.add_argument(
        "--preset", help=f"one of {', '.join(PRESETS)}, or a file of `calibrate` (default: quick)"
    )
    command.add_argument("--world", help=f"named world: {', '.join(WORLDS)} (default: balanced)")
    for flag, (_, text) in settings.items():
        command.add_argument(f"--{flag}", type=int, metavar="N", help=text)
    add_set(command)
    command.set_defaults(settings=settings)


def add_set(command: argparse.ArgumentParser) -> None:
    """The flag that changes any other setting."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, as config.json names it: world.mood_gain=0, "
        "model.ranking_rule=long_view, training.learning_rate=0.001; may be repeated",
    )


def config_of(args: argparse.Namespace, saved: RunConfig | None) -> RunConfig:
    """The preset with its flags, or the saved config, which flags may only repeat."""
    base = saved
    if base is None or args.preset is not None or args.world is not None:
        name = args.preset or (saved.preset if saved else "quick")
        base = preset(name, args.world or "balanced")
    changes = {
        name: getattr(args, flag.replace("-", "_"))
        for flag, (name, _) in args.settings.items()
        if getattr(args, flag.replace("-", "_")) is not None
    }
    if args.candidates is not None:  # most of the warm-up makes do with fewer, never with more
        fewer = min(args.candidates, base.world.warmup_candidates)
        changes["world.warmup_candidates"] = fewer
    if "world.max_history" in changes:  # of the world and of models that read it
        changes["model.max_history"] = changes["world.max_history"]
    changes |= dict(read_setting(text) for text in args.set)
    if args.arms is not None:
        changes["arms"] = tuple(text.strip() for text in args.arms.split(","))
    return base.replace(changes)


def read_setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE; the value is JSON, or a plain word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"set == {text!r}, must be NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
