"""The Pareto plot: valid, complete, and its labels can be read."""

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ifa_ray.evaluation.figures import (
    HEIGHT,
    WIDTH,
    Box,
    Point,
    front,
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
        Point(name="cheap", cost=1, quality=-0.5),
        Point(name="worse", cost=2, quality=-0.6),
        Point(name="fair", cost=3, quality=0.0),
        Point(name="same cost, worse", cost=3, quality=-0.1),
        Point(name="dear", cost=10, quality=0.0),
        Point(name="best", cost=20, quality=0.1),
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
    points = crowd(24, seed)
    boxes = place_labels(points, places)
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    for point, box in zip(points, boxes, strict=True):
        assert min(box.left, box.top) >= 0
        assert (box.right <= WIDTH) & (box.bottom <= HEIGHT)
        assert box.right - box.left >= 7 * len(point.name)
        for x, y in places:
            assert not box.overlaps(Box(x - 4, y - 4, x + 4, y + 4))


def test_places_are_to_scale() -> None:
    points = [
        Point(name="a", cost=1, quality=0.0, is_control=True),
        Point(name="b", cost=10, quality=0.01),
        Point(name="c", cost=100, quality=0.03),
    ]
    dots = list(draw(points).iter(f"{SVG}circle"))
    (x1, y1), (x2, y2), (x3, y3) = ((float(d.attrib["cx"]), float(d.attrib["cy"])) for d in dots)
    assert x3 - x2 == pytest.approx(x2 - x1, abs=0.2), "cost is on a log scale"
    assert y2 - y3 == pytest.approx(2 * (y1 - y2), abs=0.3), "higher is better"


def test_an_interval_beyond_the_figure_is_dashed() -> None:
    points = [
        Point(name="twin", cost=5, quality=0.0, is_control=True),
        Point(name="ifa", cost=4, quality=0.001, half_width=0.5),
        Point(name="din", cost=3, quality=-0.001, half_width=0.0005),
    ]
    root = draw(points)
    assert sum(e.attrib["class"] == "interval cut" for e in root.iter(f"{SVG}line")) == 1
    for line in root.iter(f"{SVG}line"):
        assert all(0 <= float(line.attrib[n]) <= HEIGHT for n in ("y1", "y2"))
