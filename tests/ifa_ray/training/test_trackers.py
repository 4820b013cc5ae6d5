"""Rows in TensorBoard's and MLflow's own files, read back without our code."""

import importlib
import struct
import sys

import pytest
from tiny_logs import FLAGS, write_run

from ifa_ray.cli import main
from ifa_ray.errors import ConfigError
from ifa_ray.training.trackers import MlflowTracker, TensorBoardTracker, scalars


def row(requests, auc):
    return {
        "requests_so_far": requests, "last_ms": 86_400_000 + requests,
        "auc": {"impression": auc, "is_like": None}, "gauc": {}, "log_loss": {"is_click": 0.5},
        "calibration": {},
    }  # fmt: skip


def events(folder):
    """(tag, step, value) of every scalar in the event files, in order of writing."""
    event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.glob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def test_only_defined_metrics_are_scalars():
    assert list(scalars(row(5, 0.7))) == [("auc/impression", 0.7), ("log_loss/is_click", 0.5)]


def test_tensorboard_files_hold_the_rows(tmp_path):
    pytest.importorskip("tensorboardX")
    tracker = TensorBoardTracker(tmp_path, first_step=1)
    tracker.rows([row(5, 0.5), row(10, 0.75)])
    tracker.close()
    assert events(tmp_path) == [
        ("auc/impression", 5, 0.5), ("log_loss/is_click", 5, 0.5),
        ("auc/impression", 10, 0.75), ("log_loss/is_click", 10, 0.5),
    ]  # fmt: skip


def test_mlflow_goes_on_with_the_same_run(tmp_path):
    pytest.importorskip("mlflow")
    folder = tmp_path / "mlflow"
    MlflowTracker(folder, {"seed": 3}).rows([row(5, 0.5)])
    MlflowTracker(folder, {"seed": 3}).rows([row(10, 0.75)])
    store = importlib.import_module("mlflow.store.tracking.file_store").FileStore(str(folder))
    (run,) = store.search_runs(["0"], "", 1)
    history = store.get_metric_history(run.info.run_id, "auc/impression")
    assert [(each.step, each.value) for each in history] == [(5, 0.5), (10, 0.75)]
    assert run.data.params == {"seed": "3"}


@pytest.mark.parametrize(("flag", "package"), [("tensorboard", "tensorboardX"), ("mlflow",) * 2])
def test_a_tracker_whose_package_is_missing_is_named_with_the_cure(
    flag, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    log = write_run(tmp_path / "log", days=1).root
    status = main(["train", "--data", str(log), "--arm", "ifa", "--out", str(tmp_path / "out"),
                   *FLAGS, f"--{flag}"])  # fmt: skip
    assert status == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"--{flag} needs the package {package}" in last
    assert f"pip install 'ifa-ray[{flag}]'" in last
    with pytest.raises(ConfigError):
        TensorBoardTracker(tmp_path, 0) if flag == "tensorboard" else MlflowTracker(tmp_path, {})
