"""The experiment's command: parts side by side, continued where they were, compared at the end."""

import json

import pytest

from simulator.__main__ import main

SMALL = [
    "--preset",
    "smoke",
    "--replicates",
    "1",
    "--users",
    "4",
    "--days",
    "2",
    "--processes",
    "1",
    "--budget",
    "10000",  # milliseconds; what a busy machine measures decides nothing here
]
PARTS = ["quality-balanced", "equal-latency-balanced"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment")
    assert main(["experiment", *SMALL, "--parts", ",".join(PARTS), "--out", str(out)]) == 0
    return out


def test_both_regimes_are_compared(out):
    sections = (out / "comparison.md").read_text().split("## ")[1:]
    assert [section.splitlines()[0] for section in sections] == PARTS
    assert (out / "comparison.html").exists()
    run = json.loads((out / PARTS[1] / "result.json").read_bytes())["run"]
    assert run["regime"] == "equal_latency"
    assert run["parts"] == 2  # the first regime's, which gave it what is the same, and its own


def test_the_same_command_does_nothing_again(out, capsys):
    before = {part: (out / part / "parts.json").read_bytes() for part in PARTS}
    assert main(["experiment", *SMALL, "--parts", ",".join(PARTS), "--out", str(out)]) == 0
    assert {part: (out / part / "parts.json").read_bytes() for part in PARTS} == before
    assert str(out / "comparison.html") in capsys.readouterr().out


def test_other_settings_do_not_continue_it(out, capsys):
    other = ["--seed", "7", "--parts", PARTS[0], "--out", str(out)]
    assert main(["experiment", *SMALL, *other]) == 2
    assert "seed == 7, must be 0" in capsys.readouterr().err


def test_an_unknown_part_names_the_near_miss(tmp_path, capsys):
    assert main(["experiment", "--parts", "quality-balancd", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'quality-balanced'?" in capsys.readouterr().err
