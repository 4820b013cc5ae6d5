"""docs/abtest.md is run as it is printed; the run of the simulator itself is tests/simulator's."""

import re
import shlex
import sys
from pathlib import Path

import ab_logs
import numpy as np
import pytest
from test_ab_own_logs import impressions

from ifa_ray.abtest.checks import GUARDRAILS
from ifa_ray.abtest.logs import OPTIONAL, REQUIRED
from ifa_ray.cli import main
from ifa_ray.plugins import load_ranker_class
from ifa_ray.schema import History, RankRequest, validate_response
from simulator.run.presets import Arm

DOC = (Path(__file__).parents[3] / "docs" / "abtest.md").read_text()


@pytest.fixture
def ranker(tmp_path, monkeypatch):
    name, text = re.search(r"```python (\S+)\n(.*?)```", DOC, re.DOTALL).groups()
    (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield text
    sys.modules.pop("newest", None)


def test_the_ranker_has_fewer_than_15_lines_of_code_and_ranks(ranker):
    assert sum(bool(line.strip()) for line in ranker.splitlines()) < 15
    arms = re.search(r"--arms (\S+)", DOC).group(1).split(",")
    made = [Arm.parse(text) for text in arms]
    assert [arm.name for arm in made] == ["twin", "newest"]
    items = ab_logs.make_items()
    items.upload_ms_N[:] = np.arange(len(items)) * 10**9
    request = RankRequest(
        request_id=1, user_id=2, time_ms=3, candidates_C=items.video_id_N[[5, 9, 1, 7]],
        history=History.empty(), k=2,
    )  # fmt: skip
    (response,) = load_ranker_class(made[1].ranker)(items=items, seed=0).rank([request])
    validate_response(request, response)
    assert response.ids_K.tolist() == items.video_id_N[[9, 7]].tolist()


def test_the_commands_on_anybodys_logs_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    impressions(1, range(0, 400, 2)).write_csv("control.csv")
    impressions(2, range(1, 400, 2)).write_csv("treatment.csv")
    for folder, seed, users in (("a", 1, range(0, 400, 2)), ("b", 2, range(1, 400, 2))):
        (tmp_path / "logs" / folder).mkdir(parents=True)
        impressions(seed, users, days=10).write_parquet(f"logs/{folder}/part-0.parquet")
        impressions(seed, range(100)).write_parquet(f"{folder}.parquet")
    with Path("items.csv").open("w") as file:
        file.write("video_id,author_id,category\n")
        file.writelines(f"{i},{i % 9},{i % 5}\n" for i in range(50))
    commands = re.findall(r"^python -m ifa_ray (abtest .+)$", DOC, re.MULTILINE)
    assert len(commands) == 4
    for command in commands[:3]:
        assert main(shlex.split(command)) == 0, command
    assert Path("report/report.html").exists()
    Path("runs").mkdir()
    Path("report").rename("runs/newest")
    assert main(shlex.split(commands[1])) == 0
    assert main(shlex.split(commands[3])) == 0
    capsys.readouterr()


def test_the_document_names_every_column_and_guardrail():
    for column in (*REQUIRED, *OPTIONAL):
        assert f"`{column}`" in DOC, column
    for margin in (f"{rail.margin * rail.harm:+.1%}".replace(".0%", "%") for rail in GUARDRAILS):
        assert margin in DOC, margin
