"""deploy/grafana.json against the metrics that a replica declares."""

import json
import re
from pathlib import Path

import pytest

from ifa_ray.serving.app import STAGES, ServeMetrics

PATH = Path(__file__).parents[2] / "deploy" / "grafana.json"
LABELS = {"application", "deployment", "replica", "le"}
"""What Ray adds to every metric of a replica, and a bucket's bound."""


@pytest.fixture(scope="module")
def exported():
    """Names as Prometheus reads them, and the labels of each."""
    found = {}
    for metric in ServeMetrics().metrics.values():
        info = metric.info
        # Ray puts `ray_` before each name, and what OpenMetrics asks for behind it.
        ends = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_count", "_sum"]}
        for end in ends[type(metric).__name__]:
            found[f"ray_{info['name']}{end}"] = {*info["tag_keys"], *LABELS}
    return found


def dashboard():
    return json.loads(PATH.read_text())


def queries():
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_of_ours_and_no_other(exported):
    def base(name):
        return re.sub("_(bucket|count|sum)$", "", name)

    used = {name for expr in queries() for name in re.findall(r"ray_ifa_ray_\w+", expr)}
    for variable in dashboard()["templating"]["list"]:
        used |= set(re.findall(r"ray_ifa_ray_\w+", str(variable)))
    assert used <= set(exported)
    for stages in re.findall(r'stage=~"([\w|]+)"', " ".join(queries())):
        assert set(stages.split("|")) <= set(STAGES)
    shown = {base(name) for name in used}
    assert shown == {base(name) for name in exported}


def test_metrics_are_grouped_by_labels_that_they_have(exported):
    for expr in queries():
        (name,) = re.findall(r"ray_\w+", expr)
        if name not in exported:  # Serve's own
            continue
        grouped = {label.strip() for found in re.findall(r"by \((.*?)\)", expr)
                   for label in found.split(",")}  # fmt: skip
        filtered = set(re.findall(r"(\w+)=~?\"", expr))
        assert grouped | filtered <= exported[name], expr


def test_panels_do_not_overlap_and_say_what_they_show():
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert panel["title"]
        assert panel["description"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_address_of_anybodys_prometheus_is_in_it():
    assert {panel["datasource"]["uid"] for panel in dashboard()["panels"]} == {"${datasource}"}
    assert "http" not in PATH.read_text()
