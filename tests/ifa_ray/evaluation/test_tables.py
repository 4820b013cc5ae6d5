"""Tables say what was tested how often, what is not defined, and what is the paper's."""

import json
from collections.abc import Sequence

import pytest
from films import fake_evaluation, fake_run

from ifa_ray.evaluation import Evaluation, ModelRun, to_json
from ifa_ray.evaluation.config import MODEL_LISTS
from ifa_ray.evaluation.figures import pareto
from ifa_ray.evaluation.tables import facts, footer, markdown, tables


def plain(models: Sequence[str], seeds: int = 3) -> list[ModelRun]:
    """AUC grows with the model's place, by the same in every seed."""
    return [
        fake_run(model, seed, 0.5 + 0.01 * place + 0.001 * seed)
        for place, model in enumerate(models)
        for seed in range(seeds)
    ]


def test_every_table_of_tests_counts_them() -> None:
    evaluation = fake_evaluation(plain(["twin", "ifa", "avg_pooling"]))
    [auc] = [t for t in tables(evaluation) if t.title == "AUC minus twin's, paired by seed"]
    assert len(auc.rows) == 8
    assert auc.notes[0].startswith(
        "8 comparisons in this table: 8 have p < 0.05, where chance alone gives 0.4; 8 after Holm"
    )
    single = fake_evaluation(plain(["twin", "ifa"], seeds=1))
    [auc] = [t for t in tables(single) if t.title.startswith("AUC minus")]
    assert auc.notes == ["4 comparisons and no test: 2 or more seeds are needed."]


def test_an_undefined_metric_is_said_and_never_nan() -> None:
    runs = [fake_run(m, s, None, None) for m in ("twin", "ifa") for s in (0, 1)]
    evaluation = fake_evaluation(runs)
    text = markdown(evaluation)
    assert "not defined: no positives (seed 0)" in text
    assert "nan" not in text.lower()
    json.dumps(to_json(evaluation), allow_nan=False)
    assert pareto(evaluation) is None


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_the_papers_numbers_stand_beside_marked_as_anothers(name: str) -> None:
    models = MODEL_LISTS[name]
    evaluation = fake_evaluation(plain(models))
    first = tables(evaluation)[0]
    assert first.columns[-1] == "paper"
    rows = {row[0]: row for row in first.rows}
    assert rows["ifa"][-1] == "0.9788 0.9815 0.9864 0.9808"
    assert "another data set, not comparable" in first.notes[0]
    # These means grow in the order of the list: Table 2's is the paper's order, Table 3's its
    # reverse.
    pairs = len(models) * (len(models) - 1) // 2
    same = pairs if name == "table2" else 0
    assert f"impression {same} of {pairs}, is_click {same} of {pairs}" in first.notes[1]
    assert all("paper" not in table.columns for table in tables(evaluation)[1:])


def test_lists_are_compared_with_their_own_reference() -> None:
    models = ["avg_pooling", "twin", *MODEL_LISTS["table3"]]
    titles = [table.title for table in tables(fake_evaluation(plain(models)))]
    assert titles == [
        "Table 3: ablation of IFA. AUC",
        "Table 3: ablation of IFA. GAUC",
        "Table 3: ablation of IFA. AUC minus ifa's, paired by seed",
        "Table 3: ablation of IFA. GAUC minus ifa's, paired by seed",
        "Other models. AUC",
        "Other models. GAUC",
        "Other models. AUC minus twin's, paired by seed",
        "Other models. GAUC minus twin's, paired by seed",
        "Along the stream: AUC of p(click|candidate)",
        "Cost of a request, measured alone after the comparison",
    ]


def test_the_markdown_has_whole_tables_and_its_context() -> None:
    evaluation = fake_evaluation(plain(["twin", "ifa"]), cross_features=["channel", "author"])
    text = markdown(evaluation)
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
    assert "Cross features, the same for every model: channel, author." in text
    assert "seeds 0 to 2" in text
    for name in ("git_commit", "date"):
        assert str(evaluation.provenance[name]) in text
    assert evaluation.provenance["hardware"]["cpu"] in text
    assert evaluation.config.settings_hash in text


def test_what_a_spread_tells_is_said() -> None:
    own = fake_evaluation(plain(["twin", "ifa"]))
    assert "Each seed has its own data and weights." in " ".join(facts(own))
    alone = fake_evaluation(plain(["twin", "ifa"], seeds=1))
    assert "One seed: no spread is known." in " ".join(facts(alone))


def test_runs_of_several_programs_are_told() -> None:
    evaluation = fake_evaluation(plain(["twin"]))
    programs = tuple({"git_commit": c, "git_dirty": False, "versions": {}} for c in ("aa", "bb"))
    mixed = Evaluation(**{**vars(evaluation), "programs": programs})
    assert "2 different programs (commits aa, bb)" in footer(mixed)[-1]
    assert len(footer(evaluation)) == 1


def test_without_costs_there_is_no_cost_table_and_no_figure() -> None:
    measured = fake_evaluation(plain(["twin", "ifa"]))
    without = Evaluation(**{**vars(measured), "costs": {}, "cost_provenance": None})
    assert tables(without) == tables(measured)[:-1]
    assert pareto(measured) is not None
    assert pareto(without) is None
    json.dumps(to_json(without), allow_nan=False)
