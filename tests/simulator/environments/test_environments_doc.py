"""docs/environments.md is run as it is printed, and its tables are held to the code."""

import re
from pathlib import Path

import gymnasium
import pytest
from gymnasium import spaces

from simulator.environments import IDS, REWARDS

DOC = (Path(__file__).parents[3] / "docs" / "environments.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOC, flags=re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_program_runs_by_itself(number, capsys):
    if "stable_baselines3" in BLOCKS[number]:
        pytest.importorskip("stable_baselines3")
    exec(compile(BLOCKS[number], f"block {number}", "exec"), {})
    capsys.readouterr()


def test_the_table_names_every_observation_with_its_type_and_shape():
    env = gymnasium.make("simulator/Session-v0")
    sizes = {
        "1": 1, "T": env.unwrapped.settings.world.max_history,
        "C": env.unwrapped.settings.world.num_candidates,
    }  # fmt: skip
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\w+) \[(\w)\] \|", DOC, flags=re.M)
    printed = {
        name: (dtype, (sizes[letter],))
        for names, dtype, letter in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert isinstance(env.observation_space, spaces.Dict)
    declared = {n: (str(s.dtype), s.shape) for n, s in env.observation_space.items()}
    assert printed == declared


def test_the_text_names_every_id_and_every_reward():
    for name in (*IDS, *REWARDS):
        assert f"`{name}`" in DOC or f'`"{name}"`' in DOC
