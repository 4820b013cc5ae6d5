"""Ray Train for real: worker, controller and driver SIGKILLed while a version is being written.

What is published must be, to the byte, what plain training in one process publishes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_stream import make_folder, never_wait, published, settings

from ifa_ray.config import ModelConfig
from ifa_ray.errors import ConfigError
from ifa_ray.training.driver import GateConfig
from ifa_ray.training.stream import train_stream
from ifa_ray.training.trainer import ArmTrainer, TrainingFailed, start_supervisor

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

HERE = Path(__file__).parent
# Large enough that writing a version takes long enough to be hit in the middle.
MODEL = ModelConfig(name="ifa", width=8, tower_widths=(8,), max_history=50, id_buckets=200_000)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    train_stream(settings(folder, model=MODEL), lambda *_: None, sleep=never_wait)
    return published(folder)


@contextlib.contextmanager
def driver(folder):
    """The driver of an arm as a process of its own, with a private Ray that ends with it."""
    path = folder.root / "arm.json"
    path.write_text(json.dumps(settings(folder, model=MODEL).to_dict()))
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    env |= {"PYTHONPATH": str(HERE.parents[2]), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    # A file: Ray's processes hold a pipe open for as long as they outlive their driver.
    with open(folder.root / "arm.err", "w") as err:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "arm_driver.py"), str(path)], env=env, stderr=err
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def being_written(folder, version):
    return list((folder.root / "models").glob(f"ifa/*/.version={version:05d}.*.tmp/*.safetensors"))


def wait_until(process, condition, timeout_s=200):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the driver ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def below(process, title):
    """The processes below a driver that Ray gave this title."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if child.cmdline()[0].startswith(title):
                found.append(child)
    return found


def finish(process, timeout_s=200):
    assert process.wait(timeout=timeout_s) == 0


def test_a_worker_and_then_the_controller_killed_while_publishing_change_no_byte(
    undisturbed, tmp_path
):
    folder = make_folder(tmp_path)
    with driver(folder) as process:
        wait_until(process, lambda: below(process, "ray::RayTrainWorker"))
        (worker,) = below(process, "ray::RayTrainWorker")
        wait_until(process, lambda: being_written(folder, 1))
        worker.kill()
        assert being_written(folder, 1), "what a kill interrupts is left, and cleaned later"
        wait_until(process, lambda: below(process, "ray::TrainController"))
        (controller,) = below(process, "ray::TrainController")
        wait_until(process, lambda: being_written(folder, 2))
        controller.kill()
        finish(process)
    assert published(folder) == undisturbed
    assert not list((folder.root / "models").glob("**/.*.tmp")), "nothing half-written is left"


def test_a_driver_killed_while_publishing_is_taken_over_by_a_fresh_one(undisturbed, tmp_path):
    folder = make_folder(tmp_path)
    with driver(folder) as process:
        wait_until(process, lambda: being_written(folder, 1))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # Ray's own processes notice; a test must not leave any.
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    with driver(folder) as process:
        finish(process)
    assert published(folder) == undisturbed
    assert not list((folder.root / "models").glob("**/.*.tmp"))
    # Each fit had a name of its own: Ray Train would have resumed one of the same name.
    names = [path.name for path in (folder.root / "train").iterdir()]
    assert len(names) == len(set(names)) == 2


def test_a_fit_that_cannot_be_placed_is_refused_at_once_with_numbers(local_ray, tmp_path):  # noqa: ARG001
    folder = make_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"num_cpus == 3 .* must be <= 2, all that the largest"):
        ArmTrainer(start_supervisor(1), settings(folder), num_cpus=3)


def wait_for_the_end(trainer):
    while not trainer.has_ended():
        time.sleep(0.05)


def test_a_refusal_ends_a_fit_once_with_its_reasons(local_ray, tmp_path):  # noqa: ARG001
    refused = make_folder(tmp_path)
    strict = GateConfig(max_loss_ratio=1.000001, max_auc_drop=0.0, min_positives=1)
    trainer = ArmTrainer(start_supervisor(1), settings(refused, gate=strict), num_cpus=0.5)
    with pytest.raises(TrainingFailed, match=r"stopped: replicate .* is not published"):
        wait_for_the_end(trainer)
