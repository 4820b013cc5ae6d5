"""The command lines of the library and, with another table, of the world: finds a command, runs it.

Only the command that is asked for is imported, so `--help` answers at once. Tables go to standard
output, progress and errors to standard error. A mistake of the user's ends with one line and
status 2.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ifa_ray.errors import IfaRayError

EXIT_USAGE = 2

COMMANDS = {
    "evaluate": ("ifa_ray.evaluation.command", "compare models on one log, test then train"),
    "train": ("ifa_ray.training.command", "train a model on a log"),
    "versions": ("ifa_ray.training.versions", "list what was trained, or go back"),
    "serve": ("ifa_ray.serving.command", "serve a model from this machine"),
    "data": ("ifa_ray.data_cli", "look at logs"),
    "abtest": ("ifa_ray.abtest.command", "analyse an A/B test from anybody's logs"),
}
"""A command's module, which has its `add_…` and `run_…`, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command of the library.

    Returns:
        The process's status: 0, 2 after a mistake of the user's, or what the command says.
    """
    return run_command_line(
        "ifa-ray", "ifa_ray", "Rank with a whole life of behaviour.", COMMANDS, arguments
    )


def run_command_line(
    script: str,
    package: str,
    description: str,
    commands: Mapping[str, tuple[str, str]],
    arguments: Sequence[str] | None,
) -> int:
    """Runs one of `commands`.

    Args:
        script: the name under which the command line is installed.
        package: what `python -m` names.
        description: one sentence.
        commands: as `COMMANDS`.
        arguments: None stands for those of the process.

    Returns:
        The process's status: 0, 2 after a mistake of the user's, or what the command says.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    called = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=script if called == script else f"python -m {package}", description=description
    )
    version = importlib.metadata.version("ifa-ray")
    parser.add_argument("--version", action="version", version=f"{script} {version}")
    places = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((argument for argument in given if not argument.startswith("-")), None)
    module = None
    for name, (where, text) in commands.items():
        if name == asked:
            module = importlib.import_module(where)
            getattr(module, f"add_{_identifier(name)}")(places)
        else:
            places.add_parser(name, help=text)
    options = parser.parse_args(given)
    try:
        status: int = getattr(module, f"run_{_identifier(options.command)}")(options)
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return status


def _identifier(name: str) -> str:
    return name.replace("-", "_")
