"""Versions in another place: a folder by URL, and a server that speaks S3."""

import pytest
from pyarrow import fs
from tiny_logs import FLAGS, write_run

from ifa_ray.cli import main
from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.training.checkpoint import load_model
from ifa_ray.training.sources import read_run
from ifa_ray.training.storage import VersionStore


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    log = write_run(root / "log").root
    assert main(["train", "--data", str(log), "--arm", "ifa", "--out", str(root / "out"), *FLAGS,
                 "--publish-every", "day", "--keep", "9"]) == 0  # fmt: skip
    return root


def test_versions_go_there_and_come_back_to_the_byte(trained, url, tmp_path, capsys):
    assert main(["versions", "push", str(trained / "out"), url]) == 0
    assert "4 versions copied: 0, 1, 2, 3" in capsys.readouterr().out
    assert main(["versions", "push", str(trained / "out"), url]) == 0
    assert "0 versions copied: all were there" in capsys.readouterr().out
    assert main(["versions", "fetch", url, str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "here" / "version=00003")
    ours = trained / "out" / "models" / "version=00003"
    names = {p.name for p in (tmp_path / "here" / "version=00003").iterdir()}
    assert names == {p.name for p in ours.iterdir()} - {"optimizer.safetensors"}
    for name in names:
        assert (tmp_path / "here" / "version=00003" / name).read_bytes() == (
            ours / name
        ).read_bytes()
    items = read_run(trained / "log", "ifa", 0, max_history=50).items
    assert load_model(tmp_path / "here" / "version=00003", items) is not None


def test_a_copy_that_was_cut_short_is_no_version_and_is_made_again(trained, url):
    store = VersionStore.at(url)
    store.push(trained / "out" / "models")
    filesystem, root = fs.FileSystem.from_uri(url)
    filesystem.delete_file(f"{root}/version=00002/checkpoint.json")
    assert store.versions() == [0, 1, 3]
    assert store.push(trained / "out" / "models") == [2]
    assert store.versions() == [0, 1, 2, 3]


def test_what_is_not_there_or_damaged_is_said(trained, url, tmp_path, capsys):
    store = VersionStore.at(url)
    assert store.versions() == []
    assert main(["versions", "fetch", url, str(tmp_path / "x")]) == 2
    assert "must be of a store that has versions" in capsys.readouterr().err
    store.push(trained / "out" / "models")
    with pytest.raises(CheckpointError, match="has no whole version 9"):
        store.fetch(9, tmp_path / "x")
    filesystem, root = fs.FileSystem.from_uri(url)
    with filesystem.open_output_stream(f"{root}/version=00001/model.safetensors") as file:
        file.write(b"not weights")
    assert main(["versions", "fetch", url, str(tmp_path / "y"), "--version", "1"]) == 2
    assert "its checksum is not that of checkpoint.json" in capsys.readouterr().err


def test_urls_are_checked_and_hold_no_keys():
    with pytest.raises(ConfigError, match="must begin with s3:// or file://"):
        VersionStore.at("runs/versions")
    for url in ("s3://me:secret@bucket/x", "s3://bucket/x?access_key=me&secret_key=secret"):
        with pytest.raises(ConfigError, match="holds a key, must not") as refused:
            VersionStore.at(url)
        assert "secret@" not in str(refused.value)
        assert "=secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be opened"):
        VersionStore.at("s3://bucket/x?no_such_setting=1")


def test_the_optimiser_state_stays_where_learning_goes_on(trained, url):
    VersionStore.at(url).push(trained / "out" / "models")
    filesystem, root = fs.FileSystem.from_uri(url)
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    assert not [info.path for info in found if "optimizer" in info.path]
