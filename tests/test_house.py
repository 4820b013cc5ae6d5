"""Aims of the house that are met, and must not slip; `make house` prints all."""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "house_measures", Path(__file__).parent / "house" / "measures.py"
)
measures = importlib.util.module_from_spec(_SPEC)


@pytest.fixture(scope="module")
def found(monkeypatch_module):
    monkeypatch_module.setitem(__import__("sys").modules, "house_measures", measures)
    _SPEC.loader.exec_module(measures)
    return {measure.name: measure for measure in measures.all_measures()}


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("name", ["import circles", "files of under 80 lines with one importer"])
def test_aim_is_met(found, name):
    measure = found[name]
    assert measure.value <= measure.aim, measure.details
