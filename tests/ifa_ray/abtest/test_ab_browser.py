"""The report in a real browser: nothing overflows on a phone, dark is dark, paper has the numbers.

Skipped where no Chromium is installed (Debian: `apt-get install chromium`).
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ifa_ray.abtest.report.render import render_comparison, render_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
RESULT = Path(__file__).parent / "golden" / "result.json"

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

# Headless windows have a least width, so a phone is a frame.
PROBE = """<!doctype html><meta charset=utf-8><iframe width={width} height=900 srcdoc="{page}">
</iframe><pre id=found></pre><script>
document.querySelector("iframe").addEventListener("load", event => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  const box = element => element.getBoundingClientRect();
  const all = selector => [...inside.querySelectorAll(selector)];
  document.getElementById("found").textContent = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth,
    figures: all("svg").length,
    invisible: all("svg").filter(svg => box(svg).width < 50 || box(svg).height < 10).length,
    headings: all("h2").length,
    background: event.target.contentWindow.getComputedStyle(inside.body).backgroundColor,
    unreachable: all(".card").filter(card => card.scrollWidth > card.clientWidth + 1
                                             && card.tabIndex < 0).length,
    text: all("td, th").map(cell => parseFloat(
      event.target.contentWindow.getComputedStyle(cell).fontSize)).filter(size => size > 0)
      .reduce((a, b) => Math.min(a, b)),
  }});
}});
</script>"""


def browse(tmp_path, *arguments):
    """Runs the browser with a home of its own and no network."""
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
         *arguments],
        capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    ).stdout  # fmt: skip


def probe(tmp_path, page, width, *arguments):
    path = tmp_path / "probe.html"
    path.write_text(PROBE.format(width=width, page=html.escape(page)))
    dom = browse(tmp_path, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom",
                 *arguments, path.as_uri())  # fmt: skip
    found = re.search(r'<pre id="found">(.+?)</pre>', dom)
    assert found, dom[-500:]
    return json.loads(html.unescape(found.group(1)))


@pytest.fixture(scope="module")
def pages():
    result = json.loads(RESULT.read_text())
    return {
        "report": render_report(result),
        "comparison": render_comparison({"one": result, "two": result}),
    }


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_pages_fit_phones_and_desks_and_all_figures_show(tmp_path, pages, name, width):
    found = probe(tmp_path, pages[name], width)
    assert found["overflow"] <= 0
    assert found["figures"] > 10
    assert found["invisible"] == 0
    assert found["text"] >= 12
    # What scrolls sideways can be reached by the keyboard.
    assert found["unreachable"] == 0


def test_dark_is_dark_and_light_is_light(tmp_path, pages):
    light = probe(tmp_path, pages["report"], 1100, "--blink-settings=preferredColorScheme=1")
    dark = probe(tmp_path, pages["report"], 1100, "--blink-settings=preferredColorScheme=0")
    assert light["background"] == "rgb(250, 250, 247)"
    assert dark["background"] == "rgb(16, 18, 22)"


def test_it_prints(tmp_path, pages):
    (tmp_path / "report.html").write_text(pages["report"])
    paper = tmp_path / "paper.pdf"
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}",
           (tmp_path / "report.html").as_uri())  # fmt: skip
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 25
