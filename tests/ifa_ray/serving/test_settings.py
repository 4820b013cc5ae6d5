import pytest

from ifa_ray.errors import ConfigError
from ifa_ray.serving.settings import AppSettings


def settings(**changes):
    values = {"name": "ifa", "slots": [{"items": "i.parquet", "checkpoints": "models"}]}
    return AppSettings.from_dict({**values, **changes})


def test_a_slot_without_checkpoints_needs_a_ranker():
    with pytest.raises(ConfigError, match=r"slots\[0\].checkpoints == None, must be set"):
        settings(slots=[{"items": "i"}])
    assert settings(slots=[{"items": "i"}], ranker="my.module:Ranker").ranker == "my.module:Ranker"


@pytest.mark.parametrize("extra", [{"checkpoints": "models"}, {"version": 3}])
def test_a_ranker_of_ones_own_has_no_checkpoints(extra):
    with pytest.raises(ConfigError, match=r"must be unset.* with ranker == 'm:C'"):
        settings(slots=[{"items": "i", **extra}], ranker="m:C")


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": []},
        {"num_thread": 2},
        {"slots": [{"items": "i", "checkpoints": "m", "versoin": 3}]},
        {"num_threads": 0},
        {"num_replicas": 0},
        {"max_body_bytes": 0},
        {"slots": [{"items": "i", "checkpoints": "m", "version": -1}]},
    ],
)
def test_settings_outside_their_rule_and_unknown_ones_are_refused(changes):
    with pytest.raises(ConfigError):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_store": "s", "num_replicas": 2}, "num_replicas == 2, must be 1 with sequence_"),
        ({"state_bytes": 1}, "state_bytes == 1, must be 0 without sequence_store"),
        (
            {"state_bytes": 1, "sequence_store": "s", "ranker": "m:C", "slots": [{"items": "i"}]},
            "state_bytes == 1, must be 0 with ranker == 'm:C'",
        ),
        ({"sequence_store": "s", "store_bytes": 1}, "store_bytes"),
        (
            {"ranker": "m:C", "num_gpus": 1, "slots": [{"items": "i"}]},
            "num_gpus == 1.0, must be 0 with ranker",
        ),
        ({"graphs": True}, "graphs == True, must be False with num_gpus == 0"),
        (
            {"graphs": True, "num_gpus": 1, "sequence_store": "s", "state_bytes": 2**20},
            "graphs == True, must be False with state_bytes == 1048576",
        ),
        ({"store_class": "m:C"}, "sequence_store == None, must be set with store_class == 'm:C'"),
        (
            {"sequence_store": "s", "store_options": {"shards": 2}},
            "store_options == .*, must be None without store_class",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_with_a_shared_store_any_number_of_replicas_keeps_states():
    made = settings(sequence_store="s", store_class="m:C", num_replicas=3, state_bytes=9)
    assert made.num_replicas == 3


def test_a_missing_path_is_named_with_the_folder_it_was_looked_for_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i.parquet").touch()
    with pytest.raises(ConfigError) as missing:
        settings().check_paths()
    assert "slots[0].checkpoints == 'models', must be there" in str(missing.value)
    assert str(tmp_path) in str(missing.value)
    (tmp_path / "models").mkdir()
    settings().check_paths()


def test_the_default_body_limit_holds_the_largest_request_of_the_contract():
    from ifa_ray.schema import MAX_CANDIDATES, MAX_HISTORY

    arrow_bytes = MAX_CANDIDATES * (4 + 1) + MAX_HISTORY * (4 + 1 + 8)
    assert arrow_bytes + 10_000 < settings().max_body_bytes
