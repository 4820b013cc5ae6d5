"""`ifa-ray train`: its flags, its help and what it prints; the work is `training.offline`'s."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifa_ray.config import Config, TrainingConfig, add_flags, flags_given
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS
from ifa_ray.progress import TrainingProgress
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.driver import GateConfig, PublicationRefused
from ifa_ray.training.offline import Keep, OfflineSettings, train_offline
from ifa_ray.training.offline_folder import TITLES, OfflineFolder
from ifa_ray.training.sources import read_stream

EXIT_REFUSED, EXIT_INTERRUPTED = 3, 130

_HELP = """\
Train one model on a log, in the order of its requests: every batch is predicted first and learned
from then (prequential evaluation). After each --publish-every the model is judged and published as
a version, which a ranker can serve. What is in --out: docs/training.md, metrics.jsonl first.

A training that was killed, at any moment, goes on with --resume and writes the same bytes that it
would have written undisturbed. So does one whose log has grown since.

  status 0  done      2  a mistake, said in one line      3  the gate refused a version
"""

_EPILOG = """\
examples:
  # Films, from https://grouplens.org/datasets/movielens/latest/; again with --resume after a kill.
  ifa-ray train --data ml-latest-small --out trained/films
  # The log of one arm of a finished run, a version for each day.
  ifa-ray train --data runs/quick --arm twin --model ifa_plus --out trained/quick \\
      --publish-every day --metrics-every hour
  # A log of your own (docs/adapters.md).
  ifa-ray train --data my_log=my_adapters:read_shop --out trained/shop
  # New items came: begin with what an earlier catalogue has taught.
  ifa-ray train --data shop_may --out trained/may --allow-added-items \\
      --warm-start trained/april/models/version=00029
  # What is there, and back to an earlier version.
  ifa-ray versions list trained/shop
  ifa-ray versions rollback trained/shop --to 7
"""

_DATA = ("data", "arm", "replicate", "max_requests", "num_sampled", "seed")
_MODEL = (
    *("width", "top_k", "max_history", "tower_widths", "cross_features"),
    *("id_buckets", "author_buckets", "user_buckets"),
)
_TRAINING = [name for name in TrainingConfig.__dataclass_fields__ if name != "objective_weights"]


def add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the subparsers of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser("train", description=_HELP, epilog=_EPILOG, formatter_class=raw)
    add = command.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="versions, metrics and plots")
    names = f"of {', '.join(sorted(MODELS))} (default: %(default)s)"
    add("--model", default="ifa_plus", metavar="NAME", help=names)
    add("--resume", action="store_true", help="go on from the newest version in --out")
    add_flags(command, OfflineSettings, ("publish_every", "metrics_every"))
    add_flags(command, Keep, ("keep", "daily"))
    data = command.add_argument_group("data")
    add_flags(data, OfflineSettings, _DATA, num_sampled="candidates_sampled")
    gate = command.add_argument_group("the quality gate before a version is published")
    add_flags(gate, GateConfig, GateConfig.__dataclass_fields__, objective="gate_objective")
    add = command.add_argument_group("where weights begin").add_argument
    begin = "begin with the weights of this version, optimisers new"
    add("--warm-start", type=Path, metavar="DIR/version=N", help=begin)
    added = "go on from a version of an earlier catalogue, to which items were only added"
    add("--allow-added-items", action="store_true", help=added)
    size = command.add_argument_group("the model and how it learns")
    add_flags(size, OfflineSettings, (f"model.{name}" for name in _MODEL))
    add_flags(size, OfflineSettings, (*(f"training.{name}" for name in _TRAINING), "threads"))


def run_train(options: argparse.Namespace) -> int:
    """Trains and prints; returns the process's status."""
    if options.model not in MODELS:
        raise unknown_name("model", options.model, MODELS)
    try:
        metrics = _train(options)
    except PublicationRefused as error:
        print(f"refused: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with --resume --out {options.out}", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(
        f"{metrics['requests']:,} requests, {metrics['candidates']:,} candidates, "
        f"{metrics['steps']:,} steps; every request predicted before it was learned from"
    )
    print(f"{'':<12}{'AUC':>10}{'GAUC':>10}{'log loss':>10}{'calibration':>13}")
    for objective in OBJECTIVES:
        values = [metrics[name][objective] for name in TITLES]
        cells = ["undefined" if value is None else f"{value:.4f}" for value in values]
        print(f"{objective:<12}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}{cells[3]:>13}")
    print(options.out)
    return 0


def _train(options: argparse.Namespace) -> dict[str, Any]:
    given = {"model.name": options.model, **flags_given(options)}

    def taken(cls: type[Config]) -> dict[str, Any]:
        return {name: given.pop(name) for name in cls.__dataclass_fields__ if name in given}

    gate, keep = GateConfig(**taken(GateConfig)), Keep(**taken(Keep))
    settings = OfflineSettings(data="").replace(given)
    folder = OfflineFolder(options.out)
    torch.set_num_threads(settings.threads)
    with folder.locked(), TrainingProgress() as progress:
        folder.open(settings.to_dict(), resume=options.resume)
        stream = read_stream(
            settings.data,
            arm=settings.arm,
            replicate=settings.replicate,
            num_sampled=settings.num_sampled,
            max_history=settings.model.max_history,
            max_requests=settings.max_requests or None,
            seed=settings.seed,
        )
        for note in stream.notes:
            progress.say(note)
        items, model = stream.items, settings.model
        for name, ids, rows in (
            ("item", items.video_id_N, model.id_buckets),
            ("author", np.unique(items.author_id_N), model.author_buckets),
        ):
            counts = np.bincount(ids % rows)
            shared = counts[counts > 1].sum() / len(ids)
            text = (
                f"{name} table: {len(ids):,} ids in {rows:,} rows, {shared:.1%} of them share a row"
            )
            progress.say(text)
        return train_offline(
            folder,
            settings,
            stream,
            gate=gate,
            keep=keep,
            listener=progress,
            warm_start=options.warm_start,
            allow_added_items=options.allow_added_items,
        )
