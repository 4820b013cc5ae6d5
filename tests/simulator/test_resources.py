"""Every process gets a share, and all shares fit the cluster."""

import pytest

from ifa_ray.errors import ConfigError
from simulator.run.cluster import plan_resources


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_all_shares_fit_the_cluster(cpus):
    plan = plan_resources(cpus=cpus, trainers=3, replicas=3, actors=3)
    total = 3 * plan.trainer_cpus + 3 * plan.replica_cpus + 3 * plan.actor_cpus
    assert 0 < total <= cpus
    assert min(plan.trainer_cpus, plan.replica_cpus, plan.actor_cpus) > 0


def test_nobody_reserves_more_than_one_cpu():
    plan = plan_resources(cpus=1000, trainers=3, replicas=3, actors=3)
    assert plan.trainer_cpus == plan.replica_cpus == plan.actor_cpus == 1.0


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ConfigError, match="CPUs == 0, must be > 0"):
        plan_resources(cpus=0, trainers=1, replicas=1, actors=1)
