"""`ifa-ray train`: its flags, its help and what it prints; the work is `training.offline`'s."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ifa_ray.config import TrainingConfig, add_flags, flags_given
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS
from ifa_ray.training.gate import GateConfig, PublicationRefused
from ifa_ray.training.offline import Keep, OfflineSettings

EXIT_REFUSED, EXIT_INTERRUPTED = 3, 130

_HELP = """\
Train one model on a log, in the order of its requests: every batch is predicted first and learned
from then (prequential evaluation). After each --publish-every the model is judged and published as
a version, which a ranker can serve.

  OUT/models/version=00003/   weights, settings, metrics and place in the log; checksummed
  OUT/metrics.jsonl           AUC, GAUC, log loss and calibration of each window, by objective;
                              what is not defined is null, and `undefined` says why
  OUT/plots/*.svg             the same as lines
  OUT/gates/*.json            why each version was published, or was not
  OUT/tables.json             how many ids share a row of the hashed tables

A training that was killed, at any moment, goes on with --resume and writes the same bytes that it
would have written undisturbed. So does one whose log has grown since.

  status 0  done      2  a mistake, said in one line      3  the gate refused a version
"""

_EPILOG = """\
examples:
  # Films: all requests, a version and a line of metrics every 500.
  ifa-ray train --data ml-latest-small --out trained/films

  # The log of one arm of a finished run, a version for each day; again with --resume after a kill.
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

MovieLens: https://grouplens.org/datasets/movielens/latest/ (ml-latest-small.zip).
"""

_DATA = ("data", "arm", "replicate", "max_requests", "num_sampled", "seed")
_CUTS = ("publish_every", "metrics_every")
_MODEL = tuple(
    f"model.{name}"
    for name in ("width", "top_k", "max_history", "tower_widths", "cross_features", "id_buckets",
                 "author_buckets", "user_buckets")
)  # fmt: skip
_TRAINING = tuple(
    f"training.{name}"
    for name in TrainingConfig.__dataclass_fields__
    if name != "objective_weights"
)


def add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the subparsers of the command line."""
    command = commands.add_parser(
        "train", description=_HELP, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = command.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="versions, metrics and plots")
    add("--model", default="ifa_plus", metavar="NAME",
        help=f"of {', '.join(sorted(MODELS))} (default: %(default)s)")  # fmt: skip
    add("--resume", action="store_true", help="go on from the newest version in --out")
    add_flags(command, OfflineSettings, _CUTS)
    add_flags(command, Keep, ("keep", "daily"))
    data = command.add_argument_group("data")
    add_flags(data, OfflineSettings, _DATA, num_sampled="candidates_sampled")
    data.add_argument("--skip-damaged", action="store_true", help="leave out shards of a run that "
                      "are damaged, missing or copies; they are counted and named")  # fmt: skip
    gate = command.add_argument_group("the quality gate before a version is published")
    add_flags(gate, GateConfig, GateConfig.__dataclass_fields__, objective="gate_objective")
    start = command.add_argument_group("where weights begin")
    start.add_argument("--warm-start", type=Path, metavar="DIR/version=N", help="begin with the "
                       "weights of this version, optimisers new")  # fmt: skip
    start.add_argument("--allow-added-items", action="store_true", help="go on from a version of "
                       "an earlier catalogue, to which items were only added")  # fmt: skip
    size = command.add_argument_group("the model and how it learns")
    add_flags(size, OfflineSettings, (*_MODEL, *_TRAINING, "threads"))


def run_train(options: argparse.Namespace) -> int:
    """Trains and prints; returns the process's status."""
    from ifa_ray.training.offline_folder import summary_lines

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
    for line in summary_lines(metrics):
        print(line)
    print(options.out)
    return 0


def _train(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ifa_ray.data.run_folder import write_atomically
    from ifa_ray.progress import TrainingProgress
    from ifa_ray.training.offline import train_offline
    from ifa_ray.training.offline_folder import OfflineFolder
    from ifa_ray.training.restore import table_report
    from ifa_ray.training.sources import read_stream

    given = flags_given(options)
    of = {cls: {k: v for k, v in given.items() if k in cls.__dataclass_fields__}
          for cls in (GateConfig, Keep)}  # fmt: skip
    gate, keep = GateConfig(**of[GateConfig]), Keep(**of[Keep])
    rest = {k: v for k, v in given.items() if k not in {**of[GateConfig], **of[Keep]}}
    settings = OfflineSettings(data="").replace({"model.name": options.model, **rest})
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
            skip_damaged=options.skip_damaged,
        )
        for note in stream.notes:
            progress.say(note)
        report = table_report(stream.items, settings.model)
        write_atomically(folder.root / "tables.json", OfflineFolder.encode([report]))
        for name, found in report.items():
            progress.say(
                f"{name} table: {found['ids']:,} ids in {found['rows']:,} rows, "
                f"{found['share_colliding']:.1%} of them share a row"
            )
        return train_offline(
            folder, settings, stream, gate=gate, keep=keep, listener=progress,
            warm_start=options.warm_start, allow_added_items=options.allow_added_items,
        )  # fmt: skip
