import asyncio
import logging

import pytest
from serving_fakes import SETTINGS, LargestIdFirst, make_request

from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.sequence_states import SequenceStates
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.pins import UnknownSlotError, apply_pins
from ifa_ray.serving.settings import LiveSettings
from ifa_ray.serving.slots import Loaded, Slot


def load_version(version):
    if version > 9:
        raise CheckpointError(f"version {version} is missing")
    return LargestIdFirst(version)


def slots(count=2, first=5):
    return [Slot(Loaded(first, LargestIdFirst(first)), load_version) for _ in range(count)]


def live(**pins):
    return {"pins": [{"slot": int(name[1:]), "version": pins[name]} for name in pins]}


def apply(config, held, roots=None, states=()):
    apply_pins(LiveSettings.model_validate(config), held, roots or [None] * len(held), states)


def answering(held):
    return [slot.current.version for slot in held]


def test_listed_slots_are_pinned_and_all_others_are_not():
    held = slots()
    apply(live(s0=3), held)
    assert answering(held) == [3, 5]
    apply(live(s1=2), held)
    assert answering(held) == [5, 2]
    apply({}, held)
    assert answering(held) == [5, 5]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (live(s0=3, s1=77), CheckpointError, "version 77 is missing"),
        (live(s0=3, s2=1), UnknownSlotError, r"slot == 2, must be in \[0, 1\]"),
    ],
)
def test_slots_change_together_or_not_at_all(config, error, message):
    held = slots()
    with pytest.raises(error, match=message):
        apply(config, held)
    assert answering(held) == [5, 5]


def test_an_unpinned_slot_catches_up_with_what_was_published(tmp_path):
    held = slots(1)
    apply(live(s0=3), held, [tmp_path])
    (tmp_path / "version=00007").mkdir()
    (tmp_path / "version=00007" / "checkpoint.json").touch()
    apply(live(s0=3), held, [tmp_path])
    assert answering(held) == [3]
    apply({}, held, [tmp_path])
    assert answering(held) == [7]


def test_states_of_a_version_that_is_given_up_are_dropped():
    class Recorded(SequenceStates):
        def forget_version(self, version):
            forgotten.append(version)

    forgotten = []
    held, states = slots(1), [Recorded(1000)]
    apply(live(s0=3), held, states=states)
    assert forgotten == []
    apply(live(s0=2), held, states=states)
    apply({}, held, states=states)
    assert forgotten == [3, 2]


def replica():
    return RankerDeployment(SETTINGS, slots(1))


def versions(served, *configs):
    """The version of an answer at the start and after each change, and what models says last."""

    async def story():
        found = [(await served.rank(0, [make_request()]))[0].model_version]
        for config in configs:
            await served.reconfigure(config)
            found.append((await served.rank(0, [make_request()]))[0].model_version)
        return found, await served.models()

    return asyncio.run(story())


def test_answers_say_the_pinned_version_and_the_log_says_the_pin(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    caplog.set_level(logging.INFO, "ray.serve")
    found, models = versions(replica(), live(s0=3))
    assert found == [5, 3]
    assert models["slots"] == [{"slot": 0, "version": 3, "in_memory": [5, 3], "pinned": 3}]
    assert "slot 0 pinned: version 3 answers" in caplog.text
    found, models = versions(replica(), live(s0=3), {})
    assert found == [5, 3, 5]
    assert models["slots"] == [{"slot": 0, "version": 5, "in_memory": [5]}]
    assert "slot 0 unpinned: version 5 answers" in caplog.text


def test_a_pinned_replica_reads_nothing_that_is_pushed_and_refuses_newer_minimums():
    async def story():
        served = replica()
        await served.reconfigure(live(s0=3))
        pushed = await served.load(0, 8)
        with pytest.raises(CheckpointError, match="must be <= 3"):
            await served.rank(0, [make_request()], min_version=8)
        return pushed, (await served.models())["slots"][0]["in_memory"]

    assert asyncio.run(story()) == (3, [5, 3])


WRONG = [
    ({"pin": []}, ConfigError, "Extra inputs are not permitted"),
    ({"pins": [{"slot": 0, "version": -1}]}, ConfigError, "greater than or equal to 0"),
    ({"pins": [{"slot": 0, "version": 1}] * 2}, ConfigError, "must name each once"),
    (live(s4=1), ConfigError, r"slot == 4, must be in \[0, 0\]"),
    (live(s0=77), CheckpointError, "version 77 is missing"),
]


@pytest.mark.parametrize(("config", "error", "message"), WRONG)
def test_a_replica_that_starts_refuses_a_wrong_user_config(config, error, message):
    with pytest.raises(error, match=message):
        asyncio.run(replica().reconfigure(config))


@pytest.mark.parametrize(("config", "error", "message"), WRONG)
def test_a_replica_that_serves_goes_on_and_says_so(config, error, message):  # noqa: ARG001
    found, models = versions(replica(), live(s0=3), config)
    assert found == [5, 3, 3]
    assert "user_config == " in models["user_config_error"]
    found, models = versions(replica(), config, live(s0=2))
    assert found == [5, 5, 2]
    assert "user_config_error" not in models
