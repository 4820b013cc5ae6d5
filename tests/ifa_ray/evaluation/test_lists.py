"""Lists of models by name, the parts of IFA+, and the paper's published numbers."""

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


def test_every_model_is_in_a_list_and_every_listed_model_exists():
    assert set(MODELS) <= set(MODEL_LISTS["all"]) <= set(KNOWN_MODELS)


def test_lists_are_those_of_the_paper():
    lists = MODEL_LISTS
    assert lists["table2"] == ("avg_pooling", "din", "sim_hard", "sim_soft", "twin", "ifa")
    assert lists["table3"] == ("ifa", "ifa_fsm", "ifa_fsm_ram")
    assert len(lists["attention"]) == 9
    for name, paper in PAPER_TABLES.items():
        assert tuple(paper) == lists[name]
        assert {len(row) for row in paper.values()} == {len(OBJECTIVES)}
    assert TITLES.keys() == lists.keys() - {"all"}
    for name, reference in REFERENCES.items():
        assert reference in lists[name]


def test_the_papers_numbers_agree_with_its_text():
    # "IFA outperforms the most competitive baseline TWIN 2.06pp for the best case."
    table = PAPER_TABLES["table2"]
    gains = [ours - theirs for ours, theirs in zip(table["ifa"], table["twin"], strict=True)]
    assert max(gains) == pytest.approx(0.0206)
    # "IFA-FSM-RAM in Table 3 is TWIN in Table 2."
    assert PAPER_TABLES["table3"]["ifa_fsm_ram"] == table["twin"]
    assert PAPER_TABLES["table3"]["ifa"] == table["ifa"]


def test_names_and_lists_mix_and_each_model_comes_once():
    found = expand_models("twin, ablation,ifa,ifa_plus")
    assert found[:3] == ("twin", "ifa_plus", "twin_codes")
    assert "ifa_plus-dense" in found
    assert found[-1] == "ifa"
    assert len(set(found)) == len(found)


def test_lists_that_were_asked_for_whole_are_found_again():
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
def test_unknown_and_repeated_names_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        expand_models(text)


def test_an_ablation_is_ifa_plus_without_one_part(films):
    settings = config(films, models=["ifa_plus", "ifa_plus-dense"])
    whole, without = settings.model("ifa_plus"), settings.model("ifa_plus-dense")
    assert (without.name, without.ifa_plus_without) == ("ifa_plus", ("dense",))
    assert whole.ifa_plus_without == ()
    assert without.to_dict() | {"ifa_plus_without": ()} == whole.to_dict()
