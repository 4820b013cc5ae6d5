"""Figures are valid and complete, and their labels can be read."""

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from films import fake_evaluation, fake_run

from ifa_ray.evaluation.figures import (
    HEIGHT,
    WIDTH,
    Box,
    Point,
    front,
    learning_svg,
    pareto_svg,
    place_labels,
)

SVG = "{http://www.w3.org/2000/svg}"


def draw(points: list[Point]) -> ElementTree.Element:
    text = pareto_svg(points, title="A & B <C>", x_label="ms", y_label="AUC")
    assert "nan" not in text.lower()
    assert "<script" not in text
    return ElementTree.fromstring(text)


def crowd(number: int, seed: int) -> list[Point]:
    """Many models of nearly the same cost and quality, as ablations are."""
    rng = np.random.default_rng(seed)
    cost, quality = 8 + 2 * rng.random(number), 0.004 * rng.normal(size=number)
    return [
        Point(name=f"ifa_plus-part{i}", cost=float(c), quality=float(q), half_width=0.003)
        for i, (c, q) in enumerate(zip(cost, quality, strict=True))
    ]


def test_the_front_is_what_no_other_beats() -> None:
    points = [
        *(Point("cheap", 1, -0.5), Point("worse", 2, -0.6), Point("fair", 3, 0.0)),
        *(Point("same cost, worse", 3, -0.1), Point("dear", 10, 0.0), Point("best", 20, 0.1)),
    ]
    assert [p.name for p in front(points)] == ["cheap", "fair", "best"]


def test_the_figure_is_well_formed_and_names_every_model() -> None:
    points = [*crowd(6, 0), Point(name="twin <&>", cost=50, quality=0.0, is_control=True)]
    root = draw(points)
    assert [float(v) for v in root.attrib["viewBox"].split()] == [0, 0, WIDTH, HEIGHT]
    labels = [e.text for e in root.iter(f"{SVG}text") if e.attrib["class"] == "label"]
    assert labels == [p.name for p in points]
    assert len(list(root.iter(f"{SVG}circle"))) == 7
    # Intervals of the six, none of the control.
    assert sum(e.attrib["class"] == "interval" for e in root.iter(f"{SVG}line")) == 6
    style = root.findtext(f"{SVG}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in style


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_no_label_and_no_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = [(200 + 60 * rng.random(), 150 + 250 * rng.random()) for _ in range(24)]
    boxes = place_labels(crowd(24, seed), places)
    dots = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(dot) for box in boxes for dot in dots)
    assert all(b.left >= 0 and b.right <= WIDTH for b in boxes)
    assert all(b.top >= 0 and b.bottom <= HEIGHT for b in boxes)


def test_places_are_to_scale() -> None:
    points = [Point("a", 1, 0.0, is_control=True), Point("b", 10, 0.01), Point("c", 100, 0.03)]
    dots = list(draw(points).iter(f"{SVG}circle"))
    (x1, y1), (x2, y2), (x3, y3) = ((float(d.attrib["cx"]), float(d.attrib["cy"])) for d in dots)
    assert x3 - x2 == pytest.approx(x2 - x1, abs=0.2), "cost is on a log scale"
    assert y2 - y3 == pytest.approx(2 * (y1 - y2), abs=0.3), "higher is better"


def test_an_interval_beyond_the_figure_is_dashed() -> None:
    points = [
        Point("twin", 5, 0.0, is_control=True),
        Point("ifa", 4, 0.001, half_width=0.5),
        Point("din", 3, -0.001, half_width=0.0005),
    ]
    root = draw(points)
    assert sum(e.attrib["class"] == "interval cut" for e in root.iter(f"{SVG}line")) == 1
    for line in root.iter(f"{SVG}line"):
        assert all(0 <= float(line.attrib[n]) <= HEIGHT for n in ("y1", "y2"))


def test_five_lines_are_drawn_the_control_among_them() -> None:
    models = ["avg_pooling", "din", "sim_hard", "sim_soft", "ifa", "ifa_plus", "twin"]
    runs = [fake_run(m, 0, 0.6 + i / 100) for i, m in enumerate(reversed(models))]
    text = learning_svg(fake_evaluation(runs))
    assert text is not None
    drawn = [model for model in models if f">{model} " in text]
    assert drawn == ["avg_pooling", "din", "sim_hard", "sim_soft", "twin"]
    assert "twin and the best of the others" in text
