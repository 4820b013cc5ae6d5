"""The log without a closed loop: what it holds, that it repeats, and who can read it."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from ifa_ray.training.sources import read_run
from simulator.__main__ import main
from simulator.run.opening import load_config, open_run

ROOT = Path(__file__).parents[2]
TINY = (
    "--preset", "smoke", "--users", "4", "--replicates", "2", "--requests", "3",
    "--candidates", "40", "--max-history", "60", "--set", "world.min_history=20",
    "--set", "world.history_median=40", "--set", "world.num_items=600",
)  # fmt: skip


def log(out: Path, *flags: str) -> int:
    return main(["log", *TINY, "--out", str(out), *flags])


def digests(root: Path) -> dict[str, str]:
    """Everything but the clocks."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("parts.json", ".lock")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("log") / "made"
    assert log(root, "--processes", "1") == 0
    return root


def test_every_user_asks_so_often_with_all_candidates(made):
    for replicate in (0, 1):
        stream = read_run(made, replicate=replicate, max_history=60)
        users = [sample.request.user_id for sample in stream.samples]
        assert {user: users.count(user) for user in users} == dict.fromkeys(range(4), 3)
        assert {len(sample.request.candidates_C) for sample in stream.samples} == {40}
        assert any(sample.labels_CL.any() for sample in stream.samples)
        assert f"replicate {replicate}, the warm-up alone; 12 of 12" in stream.notes[0]
        assert max(len(sample.request.history) for sample in stream.samples) <= 60


def test_replicates_are_other_worlds(made):
    first, second = (read_run(made, WARMUP, r, max_history=60) for r in (0, 1))
    assert (first.items.author_id_N != second.items.author_id_N).any()


def test_the_settings_are_in_the_folder(made):
    config = load_config(made)
    assert (config.world.warmup_requests_per_user, config.world.num_candidates) == (3, 40)
    assert config.world.max_history == config.model.max_history == 60
    parts = json.loads((made / "parts.json").read_bytes())
    assert len(parts) == 1
    assert {"git_commit", "versions", "wall_s"} <= parts[0].keys()


def test_bytes_do_not_depend_on_the_number_of_processes(made, tmp_path):
    assert log(tmp_path / "two", "--processes", "2") == 0
    assert digests(tmp_path / "two") == digests(made)


def test_another_seed_is_another_log(made, tmp_path):
    assert log(tmp_path / "other", "--processes", "1", "--seed", "1") == 0
    name = "log/impressions/arm=warmup/replicate=0/day=000/shard=00.parquet"
    assert digests(tmp_path / "other")[name] != digests(made)[name]


def test_a_killed_log_is_finished_to_the_same_bytes(made, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "simulator", "log", *TINY, "--out", str(out)]
    process = subprocess.Popen([*command, "--processes", "1"], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("commits/**/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(out.glob("commits/**/*.json"))) <= 4
    (out / "state" / ".shard=01.npz.17.tmp").write_bytes(b"what was being written when it died")
    assert main(["log", "--resume", "--out", str(out), "--processes", "1"]) == 0
    assert not list(out.rglob("*.tmp"))
    assert digests(out) == digests(made)


def test_it_is_the_beginning_of_a_run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    with open_run(tmp_path / "run", load_config(made), resume=True) as folder:
        keys = [ShardDay(WARMUP, r, 0, s) for r in (0, 1) for s in (0, 1)]
        assert all(folder.is_committed(key) for key in keys)
        for key in keys:
            folder.verify(key)


def test_progress_is_not_on_standard_output(tmp_path, capsys):
    assert log(tmp_path / "new", "--processes", "1") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str((tmp_path / "new").resolve())
    assert "24 logged requests of 40 candidates" in out
    assert "4/4 shard-days" in err


def test_mistakes_are_one_line(made, tmp_path, capsys):
    before = digests(made)
    for flags, message in (
        (["--out", str(made)], "must be empty"),
        (["--out", str(tmp_path / "a"), "--processes", "0"], "processes == 0, must be >= 1"),
        (["--out", str(tmp_path / "b"), "--requests", "0"], "warmup_requests_per_user == 0"),
        (["--out", str(tmp_path / "c"), "--world", "balancd"], "Did you mean 'balanced'"),
        (["--out", str(tmp_path / "d"), "--max-history", "10"], "<= max_history == 10"),
    ):
        assert main(["log", *TINY, *flags]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert digests(made) == before
    assert not list(tmp_path.iterdir())


def test_neither_ray_nor_torch_is_imported(tmp_path):
    flags = ["log", *TINY, "--replicates", "1", "--processes", "1", "--out", str(tmp_path / "x")]
    program = (
        "import sys; sys.modules['ray'] = sys.modules['torch'] = None\n"
        "from simulator.__main__ import main\n"
        f"sys.exit(main({flags!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "x").items(0).exists()
