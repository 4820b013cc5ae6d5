"""Settings of a comparison: refused ones, those that make runs another's, lists of models."""

from pathlib import Path

import pytest
from films import config

from ifa_ray.errors import ConfigError
from ifa_ray.evaluation.config import (
    KNOWN_MODELS,
    MODEL_LISTS,
    PAPER_TABLES,
    REFERENCES,
    TITLES,
    covered_lists,
    expand_models,
)
from ifa_ray.models import MODELS
from ifa_ray.schema import OBJECTIVES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ["twn"]}, "models == 'twn', must be one of .* Did you mean 'twin'"),
        ({"models": ["ifa_plus-dens"]}, "Did you mean 'ifa_plus-dense'"),
        ({"control": "twn"}, "control == 'twn', must be one of"),
        ({"models": []}, r"models == \(\), must be at least one name"),
        ({"models": ["ifa", "ifa"]}, "must be named once each"),
        ({"max_requests": -1}, "max_requests == -1, must be >= 0"),
        ({"width": 9}, "width == 9, must be a multiple of num_heads"),
        ({"tower_widths": [8, 0]}, r"tower_widths == \(8, 0\), must be >= 1"),
        ({"replicate": "every"}, "replicate == 'every', must be a number >= 0, or each"),
        ({"cross_features": ["authr"]}, "cross_features == 'authr'.* Did you mean 'author'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    films: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(films, **settings)


def test_every_model_gets_the_same_settings_but_its_name(films: Path) -> None:
    settings = config(
        films, cross_features=["channel", "author"], max_history=7, tower_widths=[5],
        models=["twin", "ifa", "ifa_plus"],
    )  # fmt: skip
    kinds = [settings.model(name).to_dict() | {"name": None} for name in settings.models]
    assert kinds[0] == kinds[1] == kinds[2]
    assert kinds[0]["cross_features"] == ("channel", "author")
    assert (kinds[0]["max_history"], kinds[0]["tower_widths"]) == (7, (5,))


def test_the_hash_names_what_changes_a_metric(films: Path) -> None:
    base = config(films)
    for grown in (
        {"models": ["ifa"]}, {"seeds": 5}, {"first_seed": 2}, {"control": "ifa"},
        {"timed_requests": 9},
    ):  # fmt: skip
        assert config(films, **grown).settings_hash == base.settings_hash
    for other in (
        {"width": 16}, {"cross_features": ["author"]}, {"max_requests": 30}, {"threads": 2},
        {"learning_rate": 1e-2}, {"replicate": 0},
    ):  # fmt: skip
        assert config(films, **other).settings_hash != base.settings_hash


def test_a_seed_reads_the_replicate_of_its_number_where_there_are_several(films: Path) -> None:
    free, one, each = (config(films, replicate=r) for r in (None, 1, "each"))
    assert [free.replicate_of(seed, (0, 1, 2)) for seed in (0, 2)] == [0, 2]
    assert [free.replicate_of(seed, (4,)) for seed in (0, 2)] == [4, 4]
    assert [free.replicate_of(seed, ()) for seed in (0, 2)] == [0, 0]
    assert [one.replicate_of(seed, (0, 1, 2)) for seed in (0, 2)] == [1, 1]
    assert each.replicate_of(0, (0,)) == 0
    for settings, available in ((free, (0, 1)), (each, (0,)), (each, ())):
        with pytest.raises(ConfigError, match=r"seed == 2, must be a replicate of .* fewer --seed"):
            settings.replicate_of(2, available)


def test_lists_are_those_of_the_paper_and_hold_every_model() -> None:
    lists = MODEL_LISTS
    assert set(MODELS) <= set(lists["all"]) <= set(KNOWN_MODELS)
    assert lists["table2"] == ("avg_pooling", "din", "sim_hard", "sim_soft", "twin", "ifa")
    assert lists["table3"] == ("ifa", "ifa_fsm", "ifa_fsm_ram")
    assert len(lists["attention"]) == 9
    for name, paper in PAPER_TABLES.items():
        assert tuple(paper) == lists[name]
        assert {len(row) for row in paper.values()} == {len(OBJECTIVES)}
    assert TITLES.keys() == lists.keys() - {"all"}
    for name, reference in REFERENCES.items():
        assert reference in lists[name]


def test_the_papers_numbers_agree_with_its_text() -> None:
    # "IFA outperforms the most competitive baseline TWIN 2.06pp for the best case."
    table = PAPER_TABLES["table2"]
    gains = [ours - theirs for ours, theirs in zip(table["ifa"], table["twin"], strict=True)]
    assert max(gains) == pytest.approx(0.0206)
    # "IFA-FSM-RAM in Table 3 is TWIN in Table 2."
    assert PAPER_TABLES["table3"]["ifa_fsm_ram"] == table["twin"]
    assert PAPER_TABLES["table3"]["ifa"] == table["ifa"]


def test_names_and_lists_mix_and_each_model_comes_once() -> None:
    found = expand_models("twin, ablation,ifa,ifa_plus")
    assert found[:3] == ("twin", "ifa_plus", "twin_codes")
    assert "ifa_plus-dense" in found
    assert found[-1] == "ifa"
    assert len(set(found)) == len(found)


def test_lists_that_were_asked_for_whole_are_found_again() -> None:
    assert covered_lists(expand_models("table2")) == ["table2"]
    assert covered_lists(expand_models("all")) == ["table2", "table3", "attention", "ablation"]
    assert covered_lists(["ifa", "twin"]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tabel2", "models == 'tabel2', must be one of .* Did you mean 'table2'"),
        ("ifa,ifa", "models == 'ifa,ifa', must be unique names"),
        ("", "models == '', must be one of"),
        ("ifa_plus-dens", "Did you mean 'ifa_plus-dense'"),
    ],
)
def test_unknown_and_repeated_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_models(text)


def test_an_ablation_is_ifa_plus_without_one_part(films: Path) -> None:
    settings = config(films, models=["ifa_plus", "ifa_plus-dense"])
    whole, without = settings.model("ifa_plus"), settings.model("ifa_plus-dense")
    assert (without.name, without.ifa_plus_without) == ("ifa_plus", ("dense",))
    assert whole.ifa_plus_without == ()
    assert without.to_dict() | {"ifa_plus_without": ()} == whole.to_dict()
