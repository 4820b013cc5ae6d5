import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from tiny_learners import MODELS as LEARNERS
from tiny_learners import assert_equal, make_items, make_learner, make_samples

from ifa_ray.checkpoints.format import (
    drop_optimizer,
    items_fingerprint,
    latest_version,
    load_checkpoint,
    load_model,
    read_record,
    save_checkpoint,
    version_folder,
)
from ifa_ray.data.features import build_batch
from ifa_ray.errors import CheckpointError
from ifa_ray.models import MODELS
from ifa_ray.training.learner import Learner
from ifa_ray.training.versions import load_learner

FILES = ["checkpoint.json", "model.safetensors", "optimizer.safetensors"]


def save(root: Path, learner: Learner, version: int = 0) -> Path:
    folder = version_folder(root, version)
    save_checkpoint(
        folder, learner, version=version, log_watermark={"days": version}, metrics={"auc": None}
    )
    return folder


@pytest.fixture(scope="module")
def learner() -> Learner:
    made = make_learner("ifa")
    made.train(make_samples(12))
    return made


@pytest.fixture
def folder(tmp_path: Path, learner: Learner) -> Path:
    return save(tmp_path / "models" / "ifa" / "replicate=0", learner, version=3)


def test_a_version_is_a_folder_of_three_files_with_its_facts(
    folder: Path, learner: Learner
) -> None:
    assert folder.name == "version=00003"
    assert sorted(os.listdir(folder)) == FILES
    assert os.listdir(folder.parent) == ["version=00003"], "nothing temporary is left"
    loaded = load_checkpoint(folder, make_items())
    record = read_record(folder)
    assert record["version"] == 3
    assert loaded.model_config == learner.model_config
    assert loaded.training_config == learner.training_config
    assert loaded.seed == learner.seed
    assert record["log_watermark"] == {"days": 3}
    assert record["metrics"] == {"auc": None}
    assert_equal(loaded.arrays, learner.arrays())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_loaded_in_the_middle_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    samples = make_samples(24)
    straight = make_learner(name)
    straight.train(samples[:12])
    folder = save(tmp_path, straight)
    expected = straight.train(samples[12:])
    restored = load_learner(folder, make_items())
    assert restored.train(samples[12:]).to_dict() == expected.to_dict()
    assert_equal(restored.arrays(), straight.arrays())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_loaded_as_it_was_saved_and_says_the_same(tmp_path: Path, name: str) -> None:
    # What is loaded is drawn from no seed, so anything that a checkpoint lacked would be seen here.
    learner, samples = make_learner(name), make_samples(6)
    learner.train(samples)
    model = load_model(save(tmp_path, learner), make_items())
    assert not model.training
    saved = learner.model.eval()
    for mine, theirs in zip(saved.state_dict().items(), model.state_dict().items(), strict=True):
        assert mine[0] == theirs[0]
        assert torch.equal(mine[1], theirs[1]), mine[0]
    batch = build_batch([s.request for s in samples], make_items(), learner.model_config)
    with torch.no_grad():
        assert torch.equal(model.log_probabilities(batch), saved.log_probabilities(batch))


def test_a_published_version_is_never_written_again(folder: Path, learner: Learner) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(CheckpointError, match="version=00003 exists, a published version is never"):
        save(folder.parent, learner, version=3)
    assert before == {name: (folder / name).read_bytes() for name in FILES}


def test_a_save_that_fails_leaves_nothing(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, learner)
    assert os.listdir(tmp_path) == []
    assert latest_version(tmp_path) is None


def test_a_version_appears_at_once_or_not_at_all(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    rename = os.rename

    def watched(source: Path, target: Path) -> None:
        seen.append(sorted(os.listdir(source)))
        assert not target.exists()
        assert latest_version(tmp_path) is None
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    save(tmp_path, learner)
    assert seen == [FILES], "whole when it got its name"


def test_what_a_killed_process_left_is_cleared_and_never_counted(
    tmp_path: Path, learner: Learner
) -> None:
    stale = tmp_path / ".version=00007.123.tmp"
    stale.mkdir()
    (stale / "checkpoint.json").write_text("{")
    (tmp_path / "version=00008").mkdir()
    (tmp_path / "version=9").mkdir()
    assert latest_version(tmp_path) is None
    save(tmp_path, learner, version=7)
    assert not stale.exists()
    assert latest_version(tmp_path) == 7


def test_a_version_without_optimizer_serves_but_does_not_learn(folder: Path) -> None:
    drop_optimizer(folder)
    drop_optimizer(folder)
    assert not load_checkpoint(folder).has_optimizer
    load_model(folder, make_items())
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors was dropped"):
        load_learner(folder, make_items())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 5, -2])  # The last byte of the record is a line break.
def test_truncated_files_are_refused_by_name(folder: Path, name: str, kept: int) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES[1:])
def test_one_changed_bit_is_noticed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="its checksum is not that of"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES[:2])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema_version == 99, must be 1"),
        ({"version": "3"}, "field version must be a int"),
        ({"sha256": {}}, "its checksum is not that of"),
        ({"model": {"name": "ifa", "widht": 8}}, "Did you mean 'width'"),
        ({"model": {"name": "ifa", "width": 16}}, "config_hash == .* settings, objectives"),
        ({"model": {"name": "ifa", "width": "8"}}, "checkpoint.json: "),
    ],
)
def test_a_changed_record_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["[]", "{", "\xff"])
def test_a_record_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "checkpoint.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: (not JSON|must hold)"):
        load_checkpoint(folder)


def test_another_catalogue_is_refused(folder: Path) -> None:
    items = make_items()
    other = dataclasses.replace(items, category_N=items.category_N[::-1].copy())
    assert items_fingerprint(other) != items_fingerprint(items)
    assert items_fingerprint(make_items()) == items_fingerprint(items)
    for load in (load_model, load_learner):
        with pytest.raises(CheckpointError, match="it was trained on another catalogue"):
            load(folder, other)


def test_tensors_of_another_model_are_refused(tmp_path: Path, learner: Learner) -> None:
    folder = save(tmp_path / "ifa", learner)
    other = make_learner("avg_pooling")
    other.train(make_samples(4))
    foreign = save(tmp_path / "avg", other)
    record = json.loads((folder / "checkpoint.json").read_text())
    theirs = json.loads((foreign / "checkpoint.json").read_text())
    for name in FILES[1:]:
        (folder / name).write_bytes((foreign / name).read_bytes())
    (folder / "checkpoint.json").write_text(json.dumps(record | {"sha256": theirs["sha256"]}))
    for load in (load_model, load_learner):
        with pytest.raises(CheckpointError, match="its tensors are not of the model it names"):
            load(folder, make_items())


def test_metrics_that_are_no_json_are_not_published(tmp_path: Path, learner: Learner) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(
            tmp_path / "v", learner, version=0, log_watermark={}, metrics={"auc": float("nan")}
        )
    assert not (tmp_path / "v").exists()
