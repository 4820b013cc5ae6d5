"""An arm's models learned by two workers: as by one to rounding, and the same to the byte again."""

import dataclasses
import time

import pytest
import torch
from test_stream import DAYS, make_folder, never_wait, published, settings, train

from ifa_ray.errors import ConfigError
from ifa_ray.training.checkpoint import load_checkpoint, version_folder
from ifa_ray.training.gate import GateConfig, PublicationRefused
from ifa_ray.training.processes import run_ranks
from ifa_ray.training.stream import StreamSettings, train_stream
from ifa_ray.training.trainer import ArmTrainer, start_supervisor


def follow_log(ranks, asked):
    train_stream(asked, lambda *_: None, sleep=never_wait, ranks=ranks)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("together"), lambda _day: 4)
    asked = settings(folder, workers=2)
    # In two goes, so that the second begins with what the first has published.
    run_ranks(follow_log, dataclasses.replace(asked, days=1), 2)
    run_ranks(follow_log, asked, 2)
    return folder


def test_two_workers_of_an_arm_publish_what_one_does_to_rounding(together, tmp_path):
    alone = make_folder(tmp_path, lambda _day: 4)
    train(alone)
    for replicate in range(2):
        one, two = (
            load_checkpoint(version_folder(folder.models("ifa", replicate), DAYS))
            for folder in (alone, together)
        )
        assert two.metrics["samples"] == one.metrics["samples"]
        assert two.metrics["log_loss"] == pytest.approx(one.metrics["log_loss"], rel=1e-3)
        for name, tensor in one.arrays.model.items():
            torch.testing.assert_close(two.arrays.model[name], tensor, atol=1e-3, rtol=1e-2)


def test_a_refusal_stops_every_worker(tmp_path):
    folder = make_folder(tmp_path, lambda _day: 4)
    strict = GateConfig(max_loss_ratio=1.000001, max_auc_drop=0.0, min_positives=1)
    with pytest.raises(PublicationRefused, match="stays the newest"):
        run_ranks(follow_log, settings(folder, gate=strict, workers=2), 2)


def test_more_workers_than_requests_in_a_batch_are_refused(tmp_path):
    folder = make_folder(tmp_path, lambda _day: 4)
    with pytest.raises(ConfigError, match="workers == 5, must be <= batch_size, 4"):
        settings(folder, workers=5)
    assert StreamSettings.from_dict(settings(folder, workers=2).to_dict()).workers == 2


@pytest.mark.cluster
@pytest.mark.timeout(200)
def test_two_workers_of_a_ray_train_fit_publish_the_same_bytes(together, local_ray, tmp_path):  # noqa: ARG001
    folder = make_folder(tmp_path, lambda _day: 4)
    supervisor = start_supervisor(1)
    with pytest.raises(ConfigError, match=r"each of workers == 2 .* must be <= 2 together"):
        ArmTrainer(supervisor, settings(folder, workers=2), num_cpus=1.5)
    trainer = ArmTrainer(supervisor, settings(folder, workers=2), num_cpus=0.5)
    while not trainer.has_ended():
        time.sleep(0.05)
    assert published(folder) == published(together)
