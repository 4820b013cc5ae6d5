"""The application as the simulator uses it: by handle, two slots, exact versions, no HTTP."""

import pytest
from test_serve_deploy import assert_same_ranking, make_items, make_learner, make_request

from ifa_ray.checkpoints.format import load_model, save_checkpoint, version_folder
from ifa_ray.data.log import write_items
from ifa_ray.errors import CheckpointError, RequestError
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.serving.settings import AppSettings

pytestmark = pytest.mark.cluster

SLOTS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with a catalogue and versions 0, 1 and 2 of the models of two replicates."""
    folder = tmp_path_factory.mktemp("store")
    items = make_items()
    write_items(folder / "items.parquet", items)
    for slot in range(SLOTS):
        for version in range(3):
            save_checkpoint(
                version_folder(folder / f"models-{slot}", version),
                make_learner(items, seed=10 * slot + version),
                version=version, log_watermark={}, metrics={},
            )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def handle(store, local_ray):  # noqa: ARG001 - Ray must be up
    from ray import serve

    from ifa_ray.serving.app import deployment_for

    slots = [
        {"items": str(store / "items.parquet"), "checkpoints": str(store / f"models-{slot}")}
        for slot in range(SLOTS)
    ]
    settings = AppSettings.from_dict({"name": "arm", "slots": slots, "num_cpus": 0.5})
    yield serve.run(deployment_for(settings), name="arm", route_prefix=None)
    serve.delete("arm")


def rank(handle, *args, **kwargs):
    return handle.rank.remote(*args, **kwargs).result(timeout_s=30)


def rank_here(store, slot, requests, version):
    items = make_items()
    model = load_model(version_folder(store / f"models-{slot}", version), items)
    return ModelRanker(model, items, version).rank(requests)


@pytest.mark.parametrize("slot", range(SLOTS))
@pytest.mark.parametrize("version", [2, 0, 1])
def test_an_exact_version_of_a_slot_ranks_as_its_model_does_here(handle, store, slot, version):
    requests = [make_request(i) for i in range(3)]
    served = rank(handle, slot=slot, requests=requests, min_version=version, exact=True)
    assert_same_ranking(served, rank_here(store, slot, requests, version))


def test_errors_keep_their_class_across_processes(handle):
    with pytest.raises(RequestError, match=r"slot == 5, must be in \[0, 1\]"):
        rank(handle, 5, [make_request()])
    with pytest.raises(CheckpointError, match="version=00009"):
        rank(handle, 0, [make_request()], 9)


def test_a_pushed_version_is_reported(handle):
    assert handle.load.remote(0, 1).result(timeout_s=30) == 2  # it started with the newest
    served = handle.models.remote().result(timeout_s=30)
    assert [slot["version"] for slot in served["slots"]] == [2, 2]
