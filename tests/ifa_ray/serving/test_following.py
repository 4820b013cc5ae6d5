"""Slots whose versions lie in a store: read by URL, followed, pinned, and the store goes away."""

import asyncio
import shutil
import threading
import time

import pytest
from pydantic import ValidationError
from serving_fakes import LargestIdFirst, make_request, small_training

from ifa_ray.errors import CheckpointError
from ifa_ray.ranker import ModelRanker
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.following import Following, look_once
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.slots import Loaded, Slot
from ifa_ray.training.checkpoint import load_model, version_folder
from ifa_ray.training.storage import VersionStore

ASKED = make_request(5, candidates=range(12), k=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A catalogue, and the folder of a training with versions 0 to 2."""
    folder = tmp_path_factory.mktemp("made")
    return folder, small_training(folder, versions=3)


def push(made, url, versions, tmp_path):
    """Publishes some of the versions, as a training would one by one."""
    for version in range(versions):
        here = version_folder(tmp_path / "models", version)
        if not here.exists():
            shutil.copytree(version_folder(made[0] / "models", version), here)
    VersionStore.at(url).push(tmp_path / "models")


def serving(made, url, **slot):
    items = str(made[0] / "items.parquet")
    slots = [{"items": items, "checkpoints": url, **slot}]
    return RankerDeployment(AppSettings.model_validate({"name": "arm", "slots": slots}))


def answer(served, **how):
    (response,) = asyncio.run(served.rank(0, [ASKED], **how))
    return response


def test_a_slot_takes_its_versions_from_a_url(made, url, tmp_path):
    push(made, url, 1, tmp_path)
    served = serving(made, url)
    assert answer(served).model_version == 0
    push(made, url, 3, tmp_path)
    found = answer(served, min_version=2)
    model = load_model(version_folder(made[0] / "models", 2), made[1])
    (expected,) = ModelRanker(model, made[1], 2).rank([ASKED])
    assert found.model_version == 2
    assert found.ids_K.tolist() == expected.ids_K.tolist()
    assert found.scores_K.tolist() == expected.scores_K.tolist()
    assert answer(served, min_version=1, exact=True).model_version == 1
    with pytest.raises(CheckpointError, match="has no whole version 9"):
        answer(served, min_version=9)
    served.close()


def test_a_slot_that_follows_takes_newer_versions_unasked(made, url, tmp_path):
    push(made, url, 1, tmp_path)
    served = serving(made, url, follow_s=0.02)
    push(made, url, 3, tmp_path)
    deadline = time.monotonic() + 60
    while answer(served).model_version < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    served.close()
    assert not [t for t in threading.enumerate() if t.name == "following"]


def test_an_unpinned_slot_catches_up_with_its_url(made, url, tmp_path):
    push(made, url, 2, tmp_path)
    served = serving(made, url)

    async def story():
        await served.reconfigure({"pins": [{"slot": 0, "version": 0}]})
        push(made, url, 3, tmp_path)
        (pinned,) = await served.rank(0, [ASKED])
        await served.reconfigure({})
        (free,) = await served.rank(0, [ASKED])
        return pinned.model_version, free.model_version

    assert asyncio.run(story()) == (0, 2)
    served.close()


def test_a_shadow_reads_its_version_from_the_slots_url(made, url, tmp_path):
    push(made, url, 3, tmp_path)
    shadow = {"log": str(tmp_path / "log"), "version": 1, "share": 1.0}
    served = serving(made, url, shadow=shadow)
    (slot,) = asyncio.run(served.models())["slots"]
    served.close()
    assert (slot["version"], slot["shadow"]["version"]) == (2, 1)


def test_a_url_without_versions_is_an_error_at_the_start(made, url):
    with pytest.raises(CheckpointError, match=r"slots\[0\] of arm: .* holds no version"):
        serving(made, url)


def slot_at(version):
    return Slot(Loaded(version, LargestIdFirst(version)), LargestIdFirst, "slot 0")


def test_a_store_that_goes_away_leaves_the_slot_as_it_is(made, url, tmp_path, caplog):
    slot = slot_at(0)

    def load(place, version):
        assert place == 0
        slot.load(version)

    push(made, url, 2, tmp_path)
    assert look_once(0, slot, url, load)
    assert slot.current.version == 1
    assert not look_once(0, slot, url, load), "nothing newer came"
    assert not look_once(0, slot, "s3://x/y?endpoint_override=127.0.0.1:9&scheme=http", load)
    assert "slot 0 goes on with version 1" in caplog.text
    assert slot.current.version == 1


def test_a_pinned_slot_does_not_follow(made):
    slot = slot_at(0)
    slot.pin(slot.newest)
    assert not look_once(0, slot, str(made[0] / "models"), lambda _, version: slot.load(version))
    slot.pin(None)
    assert look_once(0, slot, str(made[0] / "models"), lambda _, version: slot.load(version))
    assert slot.current.version == 2


def test_following_looks_until_it_is_closed():
    looked, twice = [], threading.Event()

    def look():
        looked.append(1)
        if len(looked) == 2:
            twice.set()

    following = Following(look, 0.001)
    assert twice.wait(10)
    following.close()
    count = len(looked)
    time.sleep(0.02)
    assert len(looked) == count


@pytest.mark.parametrize("slot", [{"checkpoints": "m", "version": 3}, {}])
def test_only_what_can_change_is_followed(slot):
    with pytest.raises(ValidationError, match=r"follow_s == 1\.0, must be None with checkpoints"):
        AppSettings.model_validate(
            {"name": "x", "ranker": "a.b:C", "slots": [{"items": "i", "follow_s": 1.0, **slot}]}
        )
