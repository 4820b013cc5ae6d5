"""`python -m ifa_ray train` and `versions`: what they print, write and refuse."""

import io
import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from tiny_logs import NUM_ITEMS, make_items, train_arguments, write_run

from ifa_ray.checkpoints.format import load_model, version_folder
from ifa_ray.cli import main
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_items
from ifa_ray.progress import TrainingProgress
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.training.sources import read_run


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("log")).root


def call(log, out, *more):
    return main(train_arguments(log, out, *more))


@pytest.fixture(scope="module")
def trained(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out"
    assert call(log, out) == 0
    return out


def test_the_command_prints_the_whole_streams_metrics(log, tmp_path, capsys):
    assert call(log, tmp_path / "out") == 0
    shown, said = capsys.readouterr()
    lines = shown.splitlines()
    assert lines[0].startswith("48 requests, 576 candidates, 12 steps")
    assert lines[1].split() == ["AUC", "GAUC", "log", "loss", "calibration"]
    assert lines[2].startswith("impression")
    # Nobody likes anything, comments or not: only three actions happen in this log.
    assert lines[-1] == str(tmp_path / "out")
    assert "item table: 40 ids in 64 rows, 0.0% of them share a row" in said


def test_what_is_written_can_be_read(trained, log):
    for name in ("auc", "gauc", "log_loss", "calibration"):
        assert ElementTree.parse(trained / "plots" / f"{name}.svg").getroot().tag.endswith("svg")
    stream = read_run(log, "ifa", 0, max_history=50)
    ranker = ModelRanker(
        load_model(version_folder(trained / "models", 3), stream.items), stream.items, version=3
    )
    (answer,) = ranker.rank([stream.samples[-1].request])
    assert np.isin(answer.ids_K, stream.samples[-1].request.candidates_C).all()


def test_collisions_are_counted(log, tmp_path, capsys):
    call(log, tmp_path / "out", "--id-buckets", "30", "--max-requests", "8")
    # Ids 0 to 39 in 30 rows: 0 to 9 meet 30 to 39.
    assert "40 ids in 30 rows, 50.0% of them share a row" in capsys.readouterr().err


def test_a_refusal_is_status_3_and_a_rollback_goes_back(log, tmp_path, capsys):
    out = tmp_path / "out"
    strict = ("--max-auc-drop", "0", "--min-positives", "1", "--publish-every", "12")
    assert call(log, out, *strict, "--keep", "9") == 3
    assert "is not published: progressive AUC" in capsys.readouterr().err
    assert main(["versions", "list", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "refused: version" in shown
    assert "max_auc_drop" in shown
    assert call(log, out, *strict, "--resume", "--max-auc-drop", "none", "--keep", "9") == 0
    assert main(["versions", "rollback", str(out), "--to", "1"]) == 0
    assert "version 4 is version 1 again" in capsys.readouterr().out
    assert main(["versions", "list", str(out)]) == 0
    assert "version 1 again" in capsys.readouterr().out


def test_a_rollback_without_optimiser_state_says_so(tmp_path, log, capsys):
    out = tmp_path / "out"
    assert call(log, out, "--keep", "1") == 0
    assert main(["versions", "rollback", str(out), "--to", "0"]) == 0
    assert "training cannot go on from it" in capsys.readouterr().err


def test_mistakes_end_with_one_line_and_status_2(log, trained, tmp_path, capsys):
    out = str(tmp_path / "new")
    data = ["train", "--data", str(log), "--arm", "ifa", "--out", out]
    for arguments, message in (
        (["train", "--data", str(tmp_path), "--out", out], "holds neither"),
        ([*data, "--model", "ifa_pluss"], "Did you mean 'ifa_plus'"),
        ([*data, "--publish-every", "week"], "publish_every == 'week', must be hour, day"),
        ([*data, "--keep", "0"], "keep == 0, must be >= 1"),
        ([*data, "--threads", "0"], "threads == 0, must be >= 1"),
        ([*data, "--max-auc-drop", "-1"], "max_auc_drop == -1.0, must be >= 0"),
        ([*data, "--gate-objective", "click"], "Did you mean 'is_click'"),
        ([*data, "--tower-widths", "8;4"], "tower_widths == '8;4', must be of type"),
        ([*data, "--warm-start", str(tmp_path / "none")], "no such file"),
        (train_arguments(log, trained), "go on from them with --resume"),
        (["versions", "list", str(tmp_path)], "must be the folder of a training"),
        (["versions", "rollback", str(trained), "--to", "99"], "to == 99, must be an earlier"),
    ):
        assert main(arguments) == 2, arguments
        captured = capsys.readouterr()
        last = captured.err.splitlines()[-1]
        assert last.startswith("error: ")
        assert message in last
        assert captured.out == ""
    assert not (tmp_path / "new" / "models").exists()


def test_a_later_catalogue_is_refused_unless_items_were_only_added(trained, tmp_path, capsys):
    grown = write_run(tmp_path / "grown")
    write_items(grown.items(0), make_items(NUM_ITEMS + 5))
    start = ("--warm-start", str(version_folder(trained / "models", 3)))
    assert call(grown.root, tmp_path / "a", *start) == 2
    assert "If items were only added, --allow-added-items" in capsys.readouterr().err
    assert call(grown.root, tmp_path / "b", *start, "--allow-added-items") == 0
    first = json.loads((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[0])
    cold = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    # It begins with what the earlier one has learned of the very same requests.
    assert first["log_loss"]["impression"] < cold["log_loss"]["impression"]
    changed = make_items(NUM_ITEMS + 5)
    columns = {name: getattr(changed, name) for name in ItemTable.__dataclass_fields__}
    columns["category_N"] = (columns["category_N"] + 1).astype(np.int32)
    write_items(grown.items(0), ItemTable(**columns))
    assert call(grown.root, tmp_path / "c", *start, "--allow-added-items") == 2
    assert "features of 40 items are not those" in capsys.readouterr().err


def test_a_resumed_training_may_meet_added_items_if_told_so(tmp_path, capsys):
    folder, out = write_run(tmp_path / "log", days=1), tmp_path / "out"
    assert call(folder.root, out) == 0
    folder = write_run(tmp_path / "log", days=2)
    write_items(folder.items(0), make_items(NUM_ITEMS + 7))
    assert call(folder.root, out, "--resume") == 2
    assert "--allow-added-items" in capsys.readouterr().err
    assert call(folder.root, out, "--resume", "--allow-added-items") == 0
    stream = read_run(folder.root, "ifa", 0, max_history=50)
    load_model(version_folder(out / "models", 2), stream.items)


def test_progress_tells_the_rate_and_how_long_it_will_take():
    stream, ticks = io.StringIO(), itertools.count(step=3)
    with TrainingProgress(stream, clock=lambda: float(next(ticks))) as progress:
        progress.begin(first=100, total=200)
        progress.published(4, 0.75)
        for done in range(110, 201, 10):
            progress.learned(done)
    lines = stream.getvalue().splitlines()
    assert "continuing after 100 of 200 requests" in lines[0]
    assert all("a second; version 4, AUC 0.7500, ETA" in line for line in lines[1:])
    assert 2 <= len(lines[1:]) <= 5
