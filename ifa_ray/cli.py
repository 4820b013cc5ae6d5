"""The command line of the ranking library: finds the command and runs it; knows no other logic.

Tables go to standard output, progress and errors to standard error. A mistake of the user's ends
with one line and status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ifa_ray.abtest.command import add_abtest, run_abtest
from ifa_ray.data_cli import add_data_command, run_data
from ifa_ray.errors import IfaRayError
from ifa_ray.evaluation.command import add_evaluate, run_evaluate
from ifa_ray.serving.command import add_serve, run_serve
from ifa_ray.training.command import add_train, run_train
from ifa_ray.training.versions import add_versions, run_versions

_COMMANDS = {
    "abtest": run_abtest,
    "evaluate": run_evaluate,
    "serve": run_serve,
    "train": run_train,
    "versions": run_versions,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The process's status: 0, 2 after a mistake of the user's, or what the command says.
    """
    options = _parser().parse_args(arguments)
    if options.command == "data":  # a problem in a log has a status of its own
        return run_data(options)
    try:
        return _COMMANDS[options.command](options)
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ifa_ray", description="Rank with a whole life of behaviour."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_evaluate(commands)
    add_train(commands)
    add_versions(commands)
    add_serve(commands)
    add_data_command(commands)
    add_abtest(commands)
    return parser
