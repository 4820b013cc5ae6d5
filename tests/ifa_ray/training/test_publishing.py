"""Versions that go to a store while a training publishes them, and a store that fails meanwhile."""

import contextlib
import socket
import threading

import pytest
from pyarrow import fs
from tiny_learners import make_learner, make_samples
from tiny_logs import FLAGS, contents, write_run

from ifa_ray.cli import main
from ifa_ray.training.checkpoint import load_checkpoint, save_checkpoint, version_folder
from ifa_ray.training.publishing import StorePublisher
from ifa_ray.training.storage import VersionStore, newest_version, version_here


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("log")).root


def call(log, out, *more):
    return main(["train", "--data", str(log), "--arm", "ifa", "--out", str(out), *FLAGS,
                 "--publish-every", "day", "--keep", "1", *more])  # fmt: skip


def test_each_version_goes_there_as_it_is_published(log, url, tmp_path):
    assert call(log, tmp_path / "out", "--publish-to", url) == 0
    assert VersionStore.at(url).versions() == [0, 1, 2, 3]
    assert newest_version(url) == 3
    # What was copied is what lies here, but for the optimiser state.
    with version_here(url, 3) as there:
        ours = version_folder(tmp_path / "out" / "models", 3)
        names = {path.name for path in ours.iterdir()} - {"optimizer.safetensors"}
        assert {path.name for path in there.iterdir()} == names
        assert all((there / name).read_bytes() == (ours / name).read_bytes() for name in names)
    assert not there.exists(), "what was brought is kept as long as it is read"


def test_the_store_is_no_part_of_what_a_training_is(log, url, tmp_path):
    assert call(log, tmp_path / "with", "--publish-to", url, "--max-requests", "24") == 0
    assert call(log, tmp_path / "without", "--max-requests", "24") == 0
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_only_what_the_gate_let_pass_is_copied(log, url, tmp_path):
    strict = ("--max-auc-drop", "0", "--min-positives", "1", "--publish-every", "12")
    assert call(log, tmp_path / "out", *strict, "--publish-to", url) == 3
    passed = VersionStore.at(url).versions()
    assert newest_version(tmp_path / "out" / "models") == passed[-1]
    assert (tmp_path / "out" / "refused" / f"version={passed[-1] + 1:05d}").exists()


def test_a_resumed_training_brings_what_the_store_has_missed(log, url, tmp_path):
    assert call(log, tmp_path / "out", "--max-requests", "24") == 0
    more = ("--resume", "--publish-to", url)
    assert call(log, tmp_path / "out", "--max-requests", "24", *more) == 0
    assert VersionStore.at(url).versions() == [0, 1]


def test_a_store_that_fails_stops_no_learning_and_is_said(log, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # A file where version 2 must go: the store takes 0 and 1 and fails then.
    blocked = elsewhere / "version=00002"
    blocked.write_text("in the way")
    out, url = tmp_path / "out", f"file://{elsewhere}"
    assert call(log, out, "--publish-to", url) == 5
    said = capsys.readouterr().err
    assert said.count("not copied, and learning goes on") == 1
    assert "not copied: 2, 3; when the store can be reached" in said
    assert newest_version(out / "models") == 3
    blocked.unlink()
    assert main(["versions", "push", str(out), url]) == 0
    assert VersionStore.at(url).versions() == [0, 1, 2, 3]


def test_a_store_that_is_not_there_is_refused_before_the_work(log, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for url, message in (
        (f"file://{tmp_path / 'file' / 'below'}", "error: file://"),
        ("models", "url == 'models', must begin with s3:// or file://"),
    ):
        assert call(log, tmp_path / "out", "--publish-to", url) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bucket_that_is_not_there_is_refused_before_the_work(log, s3_bucket, tmp_path, capsys):
    url = s3_bucket().replace("s3://", "s3://no-such-")
    assert call(log, tmp_path / "out", "--publish-to", url) == 2
    assert "no-such-" in capsys.readouterr().err


class Door:
    """Passes connections on to a server while it is open."""

    def __init__(self, endpoint):
        host, _, port = endpoint.partition(":")
        self.server, self.is_open = (host, int(port)), True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client):
        with client, contextlib.suppress(OSError):
            if self.is_open:
                with socket.create_connection(self.server) as server:
                    back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
                    back.start()
                    self._copy(client, server)
                    back.join()

    def _copy(self, source, target):
        with contextlib.suppress(OSError):
            while self.is_open and (data := source.recv(65536)):
                if self.is_open:  # what was on its way when it closed is lost
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_bucket_out_of_reach_gets_its_versions_once_it_is_back(s3_server, s3_bucket, tmp_path):
    learner, said = make_learner(), []

    def publish(version):
        learner.train(make_samples(4, seed=version))
        save_checkpoint(version_folder(tmp_path, version), learner, version=version,
                        log_watermark={}, metrics={})  # fmt: skip

    door = Door(s3_server)
    publisher = StorePublisher(s3_bucket(door.endpoint), tmp_path, said.append)
    publish(0)
    publisher.rows([])
    assert publisher.missing() == []
    door.is_open = False
    for version in (1, 2):
        publish(version)
        publisher.rows([])
    assert len(said) == 1
    assert "learning goes on" in said[0]
    assert publisher.missing() == [0, 1, 2], "who cannot be asked may lack all"
    door.is_open = True
    publish(3)
    publisher.rows([])
    assert said[1:] == ["the store takes versions again: 1, 2, 3"]
    assert VersionStore.at(s3_bucket()).versions() == [0, 1, 2, 3]
    with version_here(s3_bucket(), 3) as folder:
        load_checkpoint(folder, with_optimizer=False)


def test_half_a_copy_is_no_version_for_those_who_read(log, url, tmp_path):
    assert call(log, tmp_path / "out", "--publish-to", url, "--max-requests", "24") == 0
    filesystem, root = fs.FileSystem.from_uri(url)
    filesystem.delete_file(f"{root}/version=00001/checkpoint.json")
    assert newest_version(url) == 0
