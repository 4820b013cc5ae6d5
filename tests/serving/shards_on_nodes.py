"""Run as a program: shards on a Ray of two nodes, each where the disk is that holds its file."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from ifa_ray.errors import ConfigError
from ifa_ray.serving.sharded_histories import ShardedHistories

sys.path.insert(0, str(Path(__file__).parents[1] / "ifa_ray" / "serving"))
from lives import append_of

USERS = range(10)


def main(folder):
    head = {"num_cpus": 1, "resources": {"disk-0": 1}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, resources={"disk-1": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    found = {}
    try:
        ShardedHistories(folder, 2**22)
    except ConfigError as error:
        found["refusal"] = str(error)
    store = ShardedHistories(folder, 2**22, resource="disk")
    store.append([append_of(user, 0, 5) for user in USERS])

    def places():
        """Whose disk each shard's node has, and the process."""
        disks = {
            node["NodeID"]: next(name for name in node["Resources"] if name.startswith("disk-"))
            for node in ray.nodes()
        }
        told = [
            actor.__ray_call__.remote(
                lambda _: (ray.get_runtime_context().get_node_id(), os.getpid())
            )
            for actor in store._actors
        ]
        return [(disks[node], process) for node, process in ray.get(told, timeout=60)]

    before = places()
    for _, process in before:
        os.kill(process, signal.SIGKILL)
    time.sleep(1)
    found["stored"] = [store.watermark(user).length for user in USERS]
    after = places()
    found["before"], found["after"] = ([disk for disk, _ in one] for one in (before, after))
    found["same processes"] = len(set(before) & set(after))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # the cluster's daemons are children, and are ended by whoever started this
