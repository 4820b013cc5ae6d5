import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.quality_cost import column, difference, draw, main, section
from ifa_ray.errors import ConfigError

QUALITY = """\
| log | model | click |
|---|---|---|
| x | `twin` | 0.7 |

| model | impression | click, minus TWIN's |
|---|---|---|
| `ifa` | 0.6 ± 0.1 | -0.0300 [-0.0500, -0.0100] |
| `twin` | 0.6 ± 0.1 |  |
| `eta` | 0.6 ± 0.1 | +0.0100 [+0.0050, +0.0150] |
"""
COSTS = """\
| model | rank ms |
|---|---|
| `ifa` | 50 |
| `twin` | 1,000 |
| `sdim` | 60 |
"""


def test_a_column_is_found_by_its_name_in_a_table_with_the_control():
    found = column(QUALITY, "click, minus TWIN's")
    assert found == {
        "ifa": "-0.0300 [-0.0500, -0.0100]", "twin": "", "eta": "+0.0100 [+0.0050, +0.0150]",
    }  # fmt: skip
    assert column(COSTS, "rank ms")["twin"] == "1,000"


def test_a_table_of_other_models_is_passed_over():
    before = "| model | rank ms |\n|---|---|\n| `mine` | 3 |\n\n"
    assert column(before + COSTS, "rank ms")["ifa"] == "50"


def test_a_section_begins_at_its_heading():
    page = "# Page\n## One\n| a |\n### Two and more\ntext\n## Three\n"
    assert section(page, "Two").startswith("### Two and more\ntext")
    with pytest.raises(ConfigError, match="section == 'Four'"):
        section(page, "Four")


def test_a_page_without_the_table_is_refused():
    with pytest.raises(ConfigError, match="'rank ms', must have one"):
        column(QUALITY, "rank ms")


def test_a_difference_is_read_with_half_its_interval():
    assert difference("-0.0300 [-0.0500, -0.0100]") == pytest.approx((-0.03, 0.02))
    assert difference("") == (0, 0)
    with pytest.raises(ConfigError, match="must be as"):
        difference("0.7")


def test_what_both_pages_have_is_drawn_and_the_rest_is_named():
    svg, left_out = draw(QUALITY, COSTS)
    labels = {element.text for element in ElementTree.fromstring(svg).iter()}
    assert {"ifa", "twin"} <= labels
    assert not {"eta", "sdim"} & labels
    assert left_out == ["eta", "sdim"]
    assert any("ifa: \N{MINUS SIGN}0.03 at 50" in (label or "") for label in labels)
    assert "prefers-color-scheme: dark" in svg


def test_the_pages_of_the_repository_give_a_figure_of_most_models(tmp_path, capsys):
    main(["--out", str(tmp_path / "figure.svg")])
    labels = {e.text for e in ElementTree.parse(tmp_path / "figure.svg").iter()}
    assert {"twin", "ifa", "ifa_plus", "din", "sim_hard", "eta", "ifa_linformer"} <= labels
    assert "figure:" in capsys.readouterr().out


def test_a_page_that_is_not_there_is_an_error_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.quality_cost", "--costs", str(tmp_path / "none.md"),
         "--out", str(tmp_path / "figure.svg")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "none.md" in done.stderr
    assert "Traceback" not in done.stderr
