"""A driver of one arm's training, for tests that kill it or what it has started: argument, JSON."""

import json
import sys
import tempfile
import time
from pathlib import Path

import ray

from ifa_ray.training.stream import StreamSettings
from ifa_ray.training.trainer import ArmTrainer, start_supervisor


def main() -> None:
    settings = StreamSettings.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    ray.init(
        address="local",
        num_cpus=2,
        # Ray Train asks it what a dead controller has left.
        include_dashboard=True,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
        _temp_dir=tempfile.mkdtemp(prefix="ifa-arm-", dir="/tmp"),
    )
    trainer = ArmTrainer(start_supervisor(1), settings, num_cpus=0.5)
    while not trainer.has_ended():
        time.sleep(0.05)


if __name__ == "__main__":
    main()
