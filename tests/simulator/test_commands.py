"""The commands of `python -m simulator`: what help loads, and the command that measures recall."""

import subprocess
import sys

import numpy as np
import pytest
from tiny_worlds import live

from simulator.__main__ import main
from simulator.run.presets import preset
from simulator.studies.recall import oracle_recall
from simulator.world.world import World

COMMANDS = (
    "run", "log", "report", "calibration", "calibrate", "rerank-headroom", "sensitivity", "recall",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_listed_and_has_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert f"\n    {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"usage: python -m simulator {command}" in capsys.readouterr().out


def test_help_loads_neither_ray_nor_torch_nor_compiled_loops():
    program = (
        "import sys\n"
        "from simulator.__main__ import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = {'ray', 'torch', 'numba', 'polars', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(loaded)) or 0)\n"  # text is printed, and the status 1
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_recall_is_that_of_a_warm_up_simulated_by_hand(capsys):
    world = World(preset("smoke", "exact_heavy").world, 5)
    expected = oracle_recall(world, live(world, np.arange(3), days=0)[0])
    flags = ["--preset", "smoke", "--world", "exact_heavy", "--seed", "5", "--users", "3"]
    assert main(["recall", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert shown == [
        [str(top), channel, *(f"{value:.3f}" for value in values)]
        for top, channel, *values in expected.rows()
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users", "0"], "users == 0, must be >= 1"),
        (["--seed", "-1"], "seed == -1, must be >= 0"),
        (["--world", "balancd"], "Did you mean 'balanced'?"),
        (["--preset", "quik"], "Did you mean 'quick'?"),
    ],
)
def test_recall_refuses_wrong_arguments_before_anything_is_simulated(arguments, message, capsys):
    assert main(["recall", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert message in err
    assert out == ""
