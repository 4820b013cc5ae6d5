"""Settings of a run on the command line: flags, `--set`, and the config that they make.

Knows presets and argparse; no command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from ifa_ray.config import add_flags, flags_given, read_setting
from simulator.run.presets import PRESETS, RunConfig, preset
from simulator.world.config import WORLDS

EXIT_INTERRUPTED = 130


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """A command with its help, as it is written."""
    formatter = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, description=text, formatter_class=formatter)


def add_world(command: argparse.ArgumentParser, default: str = "quick") -> None:
    """The flags of a preset and of a named world."""
    presets = ", ".join(PRESETS)
    command.add_argument(
        "--preset", help=f"one of {presets}, or a file of `calibrate` (default: {default})"
    )
    command.add_argument("--world", help=f"one of {', '.join(WORLDS)} (default: balanced)")
    command.set_defaults(default_preset=default)


def add_settings(
    command: argparse.ArgumentParser, names: Iterable[str], default: str = "quick", **flags: str
) -> None:
    """The flags that make a config of a preset; see `ifa_ray.config.add_flags`."""
    add_world(command, default)
    add_flags(command, RunConfig, names, of_preset=True, **flags)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, as config.json names it: world.mood_gain=0, "
        "model.ranking_rule=long_view, training.learning_rate=0.001; may be repeated",
    )


def preset_of(args: argparse.Namespace) -> RunConfig:
    """The preset that the flags name, as it is."""
    return preset(args.preset or args.default_preset, args.world or "balanced")


def changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given by flags and by `--set`."""
    return flags_given(args) | dict(read_setting(text) for text in args.set)


def config_of(args: argparse.Namespace, saved: RunConfig | None = None) -> RunConfig:
    """The preset with its flags, or the saved config, which flags may only repeat."""
    base, changes = saved, flags_given(args)
    if base is None or args.preset is not None or args.world is not None:
        args.default_preset = saved.preset if saved else args.default_preset
        base = preset_of(args)
    if "world.num_candidates" in changes:  # most of the warm-up makes do with fewer, never more
        fewer = min(changes["world.num_candidates"], base.world.warmup_candidates)
        changes["world.warmup_candidates"] = fewer
    if "world.max_history" in changes:  # of the world and of models that read it
        changes["model.max_history"] = changes["world.max_history"]
    return base.replace(changes | changes_of(args))
