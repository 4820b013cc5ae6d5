"""`python -m ifa_ray train`: its flags, its help and what it prints.

Parses and prints; the work is `ifa_ray.training.offline`'s.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ifa_ray.config import (
    CROSS_FEATURES,
    SPARSE_OPTIMIZERS,
    TOWER_PRECISIONS,
    ModelConfig,
    TrainingConfig,
)
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.models import MODELS
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.catalogues import table_report
from ifa_ray.training.gate import GateConfig, PublicationRefused
from ifa_ray.training.offline import Keep, OfflineSettings, follow, train_offline
from ifa_ray.training.offline_folder import OfflineFolder
from ifa_ray.training.offline_output import summary_lines
from ifa_ray.training.parallel import Ranks
from ifa_ray.training.processes import WorkerLost, run_ranks
from ifa_ray.training.progress import TrainingProgress
from ifa_ray.training.publishing import StorePublisher
from ifa_ray.training.sources import SampleStream, read_stream
from ifa_ray.training.storage import VersionStore
from ifa_ray.training.trackers import MlflowTracker, TensorBoardTracker, Tracker
from ifa_ray.training.train_help import EPILOG, HELP

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_LOST",
    "EXIT_NOT_COPIED",
    "EXIT_REFUSED",
    "add_train",
    "run_train",
]

EXIT_REFUSED, EXIT_LOST, EXIT_NOT_COPIED, EXIT_INTERRUPTED = 3, 4, 5, 130

_MODEL_SIZES = (
    ("--width", "width", 32, "D, of embeddings and attention"),
    ("--top-k", "top_k", 100, "k, behaviours that a two-stage or short model looks at"),
    ("--max-history", "max_history", 10_000, "T, behaviours beyond the latest T are not read"),
    ("--id-buckets", "id_buckets", 20_000, "rows of the hashed item table"),
    ("--author-buckets", "author_buckets", 5_000, "rows of the hashed author table"),
    ("--user-buckets", "user_buckets", 2_000, "rows of the hashed user table"),
)


def add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the subparsers of the command line."""
    command = commands.add_parser(
        "train", help="train a model on a log, test then train", description=HELP,
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = command.add_argument
    add("--data", required=True, metavar="DIR", help="folder of MovieLens, KuaiRand, EB-NeRD (one "
        "split), a run or a warm-up log; or DIR=module:function, an adapter")  # fmt: skip
    add("--model", default="ifa_plus", metavar="NAME",
        help=f"of {', '.join(sorted(MODELS))} (default: %(default)s)")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="versions, metrics and plots")
    add("--resume", action="store_true", help="go on from the newest version in --out; "
        "after a kill, or after the log has grown")  # fmt: skip
    add("--publish-every", default="500", metavar="hour|day|N",
        help="make a version of so much of the stream (default: 500 requests)")  # fmt: skip
    add("--metrics-every", default="500", metavar="hour|day|N",
        help="one line of metrics.jsonl for so much of it (default: 500 requests)")  # fmt: skip
    add("--keep", type=int, default=3, metavar="N", help="versions that stay whole (default: 3)")
    add("--no-daily", action="store_true", help="else the last version of every day stays too, "
        "without its optimiser state")  # fmt: skip
    add("--publish-to", metavar="URL", help="copy each version that is published to a bucket or "
        "another folder too: s3://bucket/prefix?region=... or file:///path")  # fmt: skip
    _add_data(command.add_argument_group("data"))
    _add_gate(command.add_argument_group("the quality gate before a version is published"))
    start = command.add_argument_group("where weights begin")
    start.add_argument("--seed", type=int, default=0, metavar="S", help="of the weights and of "
                       "drawn candidates (default: 0)")  # fmt: skip
    start.add_argument("--warm-start", type=Path, metavar="DIR/version=N", help="begin with the "
                       "weights of this version, optimisers new")  # fmt: skip
    start.add_argument("--allow-added-items", action="store_true", help="go on from a version of "
                       "an earlier catalogue, to which items were only added")  # fmt: skip
    size = command.add_argument_group("the model and how it learns")
    for flag, field, default, text in _MODEL_SIZES:
        size.add_argument(flag, dest=field, type=int, default=default, metavar="X",
                          help=f"{text} (default: {default})")  # fmt: skip
    size.add_argument("--tower-widths", default="64,32", metavar="A,B,...",
                      help="hidden widths of every tower (default: %(default)s)")  # fmt: skip
    size.add_argument("--cross-features", default="channel", metavar="A,B,...", help="of "
                      f"{', '.join(CROSS_FEATURES)}; or none (default: channel)")  # fmt: skip
    size.add_argument("--batch-size", type=int, default=4, metavar="X",
                      help="requests per step (default: 4)")  # fmt: skip
    size.add_argument("--learning-rate", type=float, default=3e-3, metavar="X",
                      help="of Adam (default: 0.003)")  # fmt: skip
    size.add_argument("--sparse-optimizer", choices=SPARSE_OPTIMIZERS, default="adam",
                      help="of the hashed tables (default: adam)")  # fmt: skip
    size.add_argument("--sparse-learning-rate", type=float, metavar="X", help="of the hashed "
                      "tables (default: --learning-rate)")  # fmt: skip
    size.add_argument("--tower-precision", choices=TOWER_PRECISIONS, default="float32",
                      help="of the towers' products; bfloat16 is faster where the processor "
                      "multiplies it (default: float32)")  # fmt: skip
    size.add_argument("--negative-rate", type=float, default=1.0, metavar="X", help="share of the "
                      "candidates without any label that is learned from; all are tested. Below 1 "
                      "for models whose candidates do not read each other "
                      "(default: 1)")  # fmt: skip
    size.add_argument("--evict-after-days", type=float, metavar="X", help="rows of the hashed "
                      "tables that nothing learned from for so many days of the log go back to "
                      "where they began, at the end of a version (default: never)")  # fmt: skip
    size.add_argument("--evict-after-requests", type=int, metavar="N",
                      help="or for so many requests (default: never)")  # fmt: skip
    size.add_argument("--threads", type=int, default=1, metavar="X",
                      help="of torch; compare runs of equal numbers only (default: 1)")  # fmt: skip
    size.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share "
                      "each batch, equal to one worker to rounding (default: 1)")  # fmt: skip
    more = command.add_argument_group("where metrics go beside metrics.jsonl and plots/")
    more.add_argument("--tensorboard", action="store_true", help="event files in OUT/tensorboard")
    more.add_argument("--mlflow", action="store_true", help="MLflow's file backend in OUT/mlflow")


def _add_data(data: argparse._ArgumentGroup) -> None:
    data.add_argument("--arm", metavar="NAME", help="of a run with several: whose log to learn "
                      "from; warmup is what all share")  # fmt: skip
    data.add_argument("--replicate", type=int, default=0, metavar="R", help="of a run (default: 0)")
    data.add_argument("--max-requests", type=int, default=0, metavar="N",
                      help="of the stream; 0 for all of it (default: 0)")  # fmt: skip
    data.add_argument("--skip-damaged", action="store_true", help="leave out shards of a run that "
                      "are damaged, missing or copies; they are counted and named")  # fmt: skip
    data.add_argument("--candidates-sampled", dest="num_sampled", type=int, default=99,
                      metavar="X", help="drawn beside the shown ones, where a log has no candidate "
                      "sets (default: 99)")  # fmt: skip


def _add_gate(group: argparse._ArgumentGroup) -> None:
    defaults = GateConfig()
    group.add_argument("--gate-objective", default=defaults.objective, metavar="NAME",
                       help=f"of {', '.join(OBJECTIVES)} (default: %(default)s)")  # fmt: skip
    group.add_argument("--max-auc-drop", default=defaults.max_auc_drop, type=_number_or_none,
                       metavar="X|none", help="of the progressive AUC against the previous "
                       "version's (default: %(default)s)")  # fmt: skip
    group.add_argument("--min-positives", default=defaults.min_positives, type=int, metavar="N",
                       help="an AUC of fewer is not judged (default: %(default)s)")  # fmt: skip
    group.add_argument("--max-loss-ratio", default=defaults.max_loss_ratio, type=_number_or_none,
                       metavar="X|none", help="of the mean loss to the previous version's "
                       "(default: %(default)s)")  # fmt: skip


def run_train(options: argparse.Namespace) -> int:
    """Trains and prints.

    Returns:
        The process's status.
    """
    settings = _settings(options)
    if options.publish_to is not None:
        VersionStore.at(options.publish_to).open()  # a mistake in it is found before hours of work
    try:
        if settings.workers == 1:
            metrics = _train(options, None)
        else:
            metrics = run_ranks(_work, options, settings.workers)
    except PublicationRefused as error:
        print(f"refused: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except WorkerLost as error:
        print(f"failed: {error}\ncontinue with --resume --out {options.out}", file=sys.stderr)
        return EXIT_LOST
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with --resume --out {options.out}", file=sys.stderr)
        return EXIT_INTERRUPTED
    for line in summary_lines(metrics):
        print(line)
    print(options.out)
    return 0 if options.publish_to is None else _copied(options)


def _copied(options: argparse.Namespace) -> int:
    """Whether the store has all versions; says which it lacks."""
    missing = _publisher(options, print).missing()
    if not missing:
        return 0
    print(
        f"not copied: {', '.join(map(str, missing))}; when the store can be reached: python -m "
        f"ifa_ray versions push {options.out} '{options.publish_to}'",
        file=sys.stderr,
    )
    return EXIT_NOT_COPIED


def _publisher(options: argparse.Namespace, say: Callable[[str], None]) -> StorePublisher:
    return StorePublisher(options.publish_to, OfflineFolder(options.out).models, say)


def _work(ranks: Ranks, options: argparse.Namespace) -> dict[str, Any]:
    """What one of several processes does; the first prints progress and writes."""
    if ranks.rank == 0:
        return _train(options, ranks)
    settings = _settings(options)
    torch.set_num_threads(settings.threads)
    follow(
        OfflineFolder(options.out), settings, _read(settings, options.skip_damaged), ranks,
        warm_start=options.warm_start, allow_added_items=options.allow_added_items,
    )  # fmt: skip
    return {}


def _train(options: argparse.Namespace, ranks: Ranks | None) -> dict[str, Any]:
    settings = _settings(options)
    gate = GateConfig(
        objective=options.gate_objective, max_auc_drop=options.max_auc_drop,
        min_positives=options.min_positives, max_loss_ratio=options.max_loss_ratio,
    )  # fmt: skip
    keep = Keep(last=options.keep, daily=not options.no_daily)
    folder = OfflineFolder(options.out)
    torch.set_num_threads(settings.threads)
    with folder.locked(), TrainingProgress() as progress:
        folder.open(settings.to_dict(), resume=options.resume)
        stream = _read(settings, options.skip_damaged)
        for note in stream.notes:
            progress.say(note)
        _report_tables(folder, stream, settings, progress)
        return train_offline(
            folder, settings, stream, gate=gate, keep=keep, listener=progress,
            trackers=functools.partial(_trackers, options, settings, progress.say),
            warm_start=options.warm_start, allow_added_items=options.allow_added_items,
            ranks=ranks,
        )  # fmt: skip


def _read(settings: OfflineSettings, skip_damaged: bool) -> SampleStream:
    return read_stream(
        settings.data,
        arm=settings.arm,
        replicate=settings.replicate,
        num_sampled=settings.num_sampled,
        max_history=settings.model.max_history,
        max_requests=settings.max_requests or None,
        seed=settings.seed,
        skip_damaged=skip_damaged,
    )


def _report_tables(
    folder: OfflineFolder,
    stream: SampleStream,
    settings: OfflineSettings,
    progress: TrainingProgress,
) -> None:
    report = table_report(stream.items, settings.model)
    write_atomically(folder.root / "tables.json", OfflineFolder.encode([report]))
    for name, found in report.items():
        progress.say(
            f"{name} table: {found['ids']:,} ids in {found['rows']:,} rows, "
            f"{found['share_colliding']:.1%} of them share a row"
        )


def _trackers(
    options: argparse.Namespace,
    settings: OfflineSettings,
    say: Callable[[str], None],
    first_step: int,
) -> Sequence[Tracker]:
    found: list[Tracker] = []
    if options.publish_to is not None:
        found.append(_publisher(options, say))
    if options.tensorboard:
        found.append(TensorBoardTracker(options.out / "tensorboard", first_step))
    if options.mlflow:
        flat = {**settings.to_dict(), **settings.to_dict()["model"]}
        found.append(MlflowTracker(options.out / "mlflow", flat))
    return found


def _settings(options: argparse.Namespace) -> OfflineSettings:
    if options.model not in MODELS:
        raise unknown_name("model", options.model, MODELS)
    words = [word.strip() for word in options.cross_features.split(",")]
    sizes = {field: getattr(options, field) for _, field, _, _ in _MODEL_SIZES}
    model = ModelConfig(
        name=options.model,
        tower_widths=_widths(options.tower_widths),
        cross_features=() if words == ["none"] else tuple(words),
        **sizes,
    )
    training = TrainingConfig(
        batch_size=options.batch_size, learning_rate=options.learning_rate,
        sparse_optimizer=options.sparse_optimizer,
        sparse_learning_rate=options.sparse_learning_rate,
        tower_precision=options.tower_precision,
        negative_rate=options.negative_rate,
        evict_after_days=options.evict_after_days,
        evict_after_requests=options.evict_after_requests,
    )  # fmt: skip
    return OfflineSettings(
        data=options.data, arm=options.arm, replicate=options.replicate,
        num_sampled=options.num_sampled, max_requests=options.max_requests, seed=options.seed,
        publish_every=options.publish_every, metrics_every=options.metrics_every,
        threads=options.threads, workers=options.workers, model=model, training=training,
    )  # fmt: skip


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ConfigError(f"tower_widths == {text!r}, must be numbers: 64,32.") from None


def _number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)
