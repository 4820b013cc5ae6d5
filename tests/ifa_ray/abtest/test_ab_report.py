"""The report holds every number of its result, and nothing from anywhere else."""

# ruff: noqa: RUF001 (the report prints true minus signs, dashes and multiplication signs)

import copy
import json
import re
from html.parser import HTMLParser

import ab_results
import pytest

from ifa_ray.abtest.report import svg
from ifa_ray.abtest.report.render import render_report, write_report
from ifa_ray.abtest.text import difference, duration, interval, number, p_value, percent, region
from ifa_ray.errors import LogError

VOID = {"meta", "br", "hr", "img", "link"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return ab_results.make_result(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def html(result):
    return render_report(result)


class Outline(HTMLParser):
    """Collects text and tags, and refuses tags that don't nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.headings = [], [], [], []
        self.feed(text)
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_every_effect_and_level_appears(result, html):
    text = Outline(html).text
    ab = result["ab"]
    assert len(ab["effects"]) == 2
    for arm, rows in ab["effects"].items():
        assert ab["verdicts"][arm]["line"].replace("'", "&#39;") in html
        assert ab["verdicts"][arm]["decision"] in text
        for name, row in rows.items():
            if name == "wtg":
                bounds = " to ".join(difference(bound) for bound in row["interval"])
                assert f"{difference(row['difference'])} {bounds}" in text
                continue
            assert percent(row["relative"]) in text, name
            assert interval(row["interval"]) in text, name
            assert p_value(row["p_adjusted"]) in text, name
            for which in ("twin", arm):
                assert number(ab["levels"][which][name]["mean"]) in text, name
        for row in rows["watch_time"]["replicates"]:
            assert f"{percent(row['relative'])} {interval(row['interval'])}" in text
        for row in (*ab["daily"][arm], *ab["cumulative"][arm]):
            both = f"{interval(row['interval'])} {interval(row['band'])}"
            assert f"{percent(row['relative'])} {both}" in text
        for name in ("watch_time", "impressions", "likes", "forwards", "categories_k"):
            of_both = [rows[name], rows[name]["checkpoint"]]
            assert " ".join(region(row["acceptance_region"]) for row in of_both) in text, name


def test_guardrails_segments_platform_and_power_appear(result, html):
    text, ab = Outline(html).text, result["ab"]
    for arm in ab["treatments"]:
        assert len(ab["guardrails"][arm]) == 3
        for row in ab["guardrails"][arm]:
            numbers = [percent(row["relative"]), percent(row["worst"]),
                       percent(row["harm"] * row["margin"]), p_value(row["p_harm"])]  # fmt: skip
            assert f"{' '.join(numbers)} {row['status']}" in text
        for block in ab["segments"][arm].values():
            if block["p_trend"] is not None:
                assert f"trend: p = {p_value(block['p_trend'])}".replace("= <", "<") in text
            for row in block["rows"]:
                if not row["undefined"]:
                    assert f"{percent(row['relative'])} {interval(row['interval'])}" in text
        platform = ab["platform"][arm]
        assert any(row["cuped"] for row in platform["rows"])
        for row in platform["rows"]:
            numbers = [percent(row["relative"]), interval(row["interval"]), p_value(row["p"])]
            assert f"{' '.join(numbers)} {row['price']:.1f}×" in text
        plan = ab["planning"][arm]
        assert f"found in 80 of 100 runs like this one, {percent(plan['detectable'])}" in text
        for row in plan["rows"]:
            assert f"±{row['half_width']:.2%} {number(row['replicates_needed'])}" in text
    assert "No A/A arm in this run; " in text
    assert "Of all users, 90.0% came on a counted day" in text


def test_every_other_number_appears(result, html):
    text = Outline(html).text
    for part in (
        # cost, training
        "43,210", "5.250", "19.50", "18.00", "2.00×", "17.25", "1,234", "4,936", "9,876,543",
        "0.7123", "0.7045", "0.6711",
        # calibration
        "0.3780 0.3812 0.008500 hit KuaiRand (A)", "6.700 8.123 0.2124 miss KuaiRand (B)",
        # run
        "quick-2031", "preset quick", "77", "c0ffee1234567890", "8 min 20 s", "3.250 GiB",
        "2031-05-04T03:02:01+00:00", "0123abcd", "3.11.9", "2 cores", "7.500",
        "1 burn-in + 2 counted", "a < b & c",
        # health and limits
        "12,345 losses finite.", "All 4 health checks passed", "Ten users <b>each</b> are not",
        "The user model decides who wins.",
    ):  # fmt: skip
        assert part in text, part
    for check in result["ab"]["health"]:
        assert check["detail"] in text


def test_papers_table_4_is_marked_not_comparable(html):
    text = Outline(html).text
    assert "Paper, real users, not comparable" in text
    for row in ("+0.803% [−0.10%, 0.10%]", "+0.984% [−0.36%, 0.37%]", "+0.821% [−0.05%, 0.05%]"):
        assert row in text


def test_parts_come_in_order(html):
    assert Outline(html).headings == [
        "All 4 health checks passed",
        "Improvement and acceptance region",
        "All metrics",
        "Diversity",
        "Replicates",
        "Day by day",
        "Guardrails",
        "Segments",
        "What a platform would have seen",
        "Power",
        "Calibration of the world",
        "Limits",
        "Provenance",
    ]


def test_nothing_comes_from_outside_and_nothing_runs(html):
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<script|\bon\w+=", html)
    assert "<b>each</b>" not in html


def test_tables_and_figures_can_be_read_aloud(html):
    tags = Outline(html).tags
    count = sum(tag == "table" for tag, _ in tags)
    assert count > 10
    assert sum(tag == "caption" for tag, _ in tags) == count
    for tag, attrs in tags:
        if tag == "th":
            assert attrs["scope"] in ("col", "row", "colgroup")
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or attrs["aria-label"]


def test_report_is_a_pure_function_and_small(result, html):
    before = copy.deepcopy(result)
    assert render_report(json.loads(json.dumps(result))) == html
    assert result == before
    assert len(html.encode()) < 300_000


def test_six_arms_and_twenty_replicates_stay_small(tmp_path):
    arms = ("twin", "ifa", "ifa_plus", "din", "popularity", "random", "oracle")
    made = ab_results.make_result(tmp_path, arms=arms, replicates=8, days=2)
    # Twelve more replicates are twelve more dots: rows again, that nobody needs to live.
    for rows in made["ab"]["effects"].values():
        rows["watch_time"]["replicates"] += rows["watch_time"]["replicates"][:6] * 2
    assert len(render_report(made).encode()) < 300_000


def test_two_replicates_show_no_verdict_and_no_headline_interval(tmp_path):
    made = ab_results.make_result(tmp_path, replicates=2)
    text = Outline(render_report(made)).text
    assert "No verdict on ifa: 2 replicates" in text
    row = made["ab"]["effects"]["ifa"]["watch_time"]
    assert f"these checkpoints: {interval(row['checkpoint']['interval'])}" in text


def test_failed_checks_of_either_source_turn_the_banner(result):
    broken = copy.deepcopy(result)
    broken["health"].append({"name": "complete logs", "ok": False, "detail": "day 3 is gone"})
    text = Outline(render_report(broken)).text
    assert "1 of 4 health checks failed" in text
    assert "better" not in text.split("Replicates")[0]
    assert "No verdict on ifa: failed complete logs." in text
    assert "complete logs (failed): day 3 is gone" in text.replace(" :", ":")


def test_an_undefined_effect_says_why(result):
    made = copy.deepcopy(result)
    row = made["ab"]["effects"]["ifa"]["likes"]
    nothing = dict.fromkeys(("interval", "acceptance_region", "p", "se", "df"))
    row |= {"relative": None, "log_lift": None, "p_adjusted": None, "significant": None, **nothing}
    row |= {"undefined": "nothing to count in replicate 1 of ifa", "checkpoint": nothing}
    assert "No relative effect: nothing to count in replicate 1 of ifa." in render_report(made)


def test_a_run_without_cost_training_or_calibration_says_so(result):
    bare = {**result, "cost": {}, "training": {}, "calibration": []}
    text = Outline(render_report(bare)).text
    for part in ("measured no cost", "No arm of this run learns", "was not calibrated"):
        assert part in text


def test_the_first_limit_is_printed_once_and_bytes_as_gib(result):
    made = copy.deepcopy(result)
    made["limits"].append("The user model decides who wins: not a platform.")
    made["run"] |= {"hardware": {"memory_bytes": 8 * 2**30}, "git_commit": None, "git_dirty": True}
    text = Outline(render_report(made)).text
    assert text.count("The user model decides who wins") == 1
    assert "Memory 8.000 GiB" in text


def test_write_report_writes_beside_the_result(tmp_path, result, html):
    (tmp_path / "result.json").write_text(json.dumps(result))
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == html
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "report.csv", "report.html", "report.md", "result.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ('{"schema_version": 2, "run"', "result.json"),
        ("[1]", "schema_version == None"),
        ('{"schema_version": NaN}', "NaN is not a number"),
        ("{}", "schema_version == None, must be 2"),
        ('{"schema_version": 2}', "run is no dict, or missing"),
        ("no cost", "cost is no dict, or missing"),
        ("no seed", "no attribute 'seed'"),
        ("text for number", "another kind"),
    ],
)
def test_malformed_results_are_named_and_leave_the_old_report(tmp_path, result, text, message):
    (tmp_path / "report.html").write_text("old")
    broken = copy.deepcopy(result)
    if text == "no cost":
        del broken["cost"]
    if text == "no seed":
        del broken["run"]["seed"]
    if text == "text for number":
        broken["ab"]["effects"]["ifa"]["likes"]["relative"] = "much"
    if text is not None:
        whole = json.dumps(broken) if text[0] in "nt" else text
        (tmp_path / "result.json").write_text(whole)
    with pytest.raises(LogError, match=message):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def places(figure, kind, attribute):
    return [
        float(value)
        for value in re.findall(rf'class="{kind}"[^>]* {attribute}="([-\d.]+)%?"', str(figure))
    ]


def effect(relative, bounds=None, significant=False):
    return {
        "relative": relative,
        "interval": bounds,
        "acceptance_region": None,
        "significant": significant,
        "checkpoint": {"interval": None},
    }


def test_strip_puts_values_where_the_axis_says():
    scale = svg.Scale(reach=0.1)
    assert scale.x(0) == 50
    assert scale.x(-0.1) == pytest.approx(6)
    assert scale.x(0.05) == pytest.approx(72)
    drawn = svg.strip(scale, effect(0.05, (0.0, 0.1), significant=True))
    assert places(drawn, "dot full", "cx") == [72]
    assert places(drawn, "thick", "x") == [50]
    assert places(drawn, "thick", "width") == [44]


def test_what_lies_beyond_the_scale_is_an_arrow_not_a_dot():
    drawn = str(svg.strip(svg.Scale(reach=0.1), effect(0.5, (0.05, 0.9))))
    assert "<circle" not in drawn
    assert "▸" in drawn
    assert "◂" not in drawn


def test_scale_is_not_squeezed_by_one_wide_interval_but_always_holds_the_essential():
    assert svg.Scale.around([0.01, 0.012, 0.011, 5.0], 0.01).reach < 0.04
    assert svg.Scale.around([0.01, 0.01, 0.01, 0.5], 0.5).reach >= 0.5
    assert svg.Scale.around([], 0.0).reach > 0


def test_daily_line_rises_with_the_effect():
    rows = [
        {"day": day, "counted": day > 0, "relative": value, "interval": None, "band": None}
        for day, value in enumerate((0.0, 0.02, 0.01))
    ]
    drawn = svg.daily(rows, "", 0.015, "x")
    low, high, middle = places(drawn, "dot(?: full)?", "cy")
    assert high < middle < low  # down is positive in SVG
    assert middle == pytest.approx((low + high) / 2)
    assert len(places(drawn, "burn-in", "width")) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (True, "yes"), (12345, "12,345"), (1234.56, "1,235"), (0.0123456, "0.01235"),
        (9.99996, "10.00"), (0.0, "0"), (-1.5, "−1.500"), (2.5e-7, "2.50e−07"), ("x", "x"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_p_and_duration():
    assert p_value(0.0009) == "< 0.001"
    assert p_value(0.0497) == "0.0497"
    assert p_value(1.0) == "1"
    assert [duration(s) for s in (None, 59.4, 500.4, 7322)] == [
        "–", "59 s", "8 min 20 s", "2 h 2 min",
    ]  # fmt: skip
