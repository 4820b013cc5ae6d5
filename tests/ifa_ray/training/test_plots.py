"""Lines of metrics: whole SVG, gaps, and nothing that is not defined."""

import re
import xml.etree.ElementTree as ElementTree

from ifa_ray.training.offline_folder import lines_svg


def test_a_gap_breaks_the_line():
    svg = lines_svg({"a": [(1, 0.5), (2, 0.6), (3, None), (4, 0.7)]}, title="AUC", x_label="x")
    path = re.findall(r'class="line"[^>]* d="([^"]*)"', svg)[0]
    assert path.count("M") == 2
    assert path.count("L") == 1


def test_figures_are_whole_svg_files_with_every_series_named():
    svg = lines_svg(
        {"a<b": [(1, 1.0)], "flat": [(1, 0.0), (9, 0.0)], "none": [(1, None)]},
        title="T & t",
        x_label="requests",
    )
    texts = [each.text for each in ElementTree.fromstring(svg).iter() if each.text]
    assert "a<b 1" in texts
    assert "flat 0" in texts
    assert "T & t" in texts
    assert not any(text.startswith("none") for text in texts)
    assert "nan" not in svg


def test_a_figure_without_points_says_so():
    svg = lines_svg({"a": [(1, None)]}, title="AUC", x_label="x")
    assert "nothing is defined" in svg
