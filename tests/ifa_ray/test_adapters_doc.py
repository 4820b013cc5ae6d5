"""docs/adapters.md is run as it is printed."""

import json
import re
import sys
from pathlib import Path

import pytest

from ifa_ray.cli import main
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.schema import validate_request
from ifa_ray.training.sources import read_stream

DOC = Path(__file__).parents[2] / "docs" / "adapters.md"
SETTINGS = {
    "arm": "twin", "replicate": 0, "num_sampled": 1, "max_history": 10, "max_requests": None,
    "seed": 0,
}  # fmt: skip


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The folder of the document's log; its adapter can be imported."""
    blocks = re.findall(r"```(?:csv|python) (\S+)\n(.*?)```", DOC.read_text(), flags=re.S)
    assert [name for name, _ in blocks] == [
        "goods.csv", "shown.csv", "retrieved.csv", "my_adapters.py",
    ]  # fmt: skip
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_adapters", None)


def test_the_example_has_fewer_than_30_lines(shop):
    assert len((shop / "my_adapters.py").read_text().splitlines()) < 30


def test_the_example_gives_requests_with_histories_and_labels(shop):
    stream = read_stream(f"{shop}=my_adapters:read_shop", **SETTINGS)
    first, second, third = (sample.request for sample in stream.samples)
    assert [r.request_id for r in (first, second, third)] == [100, 101, 102]
    assert sorted(first.candidates_C.tolist()) == [1, 2, 3]
    assert third.history.ids_T.tolist() == [1, 2], "the other page of user 7, in its order"
    assert third.history.actions_T.tolist() == [1, 0]
    assert len(first.history) == len(second.history) == 0
    labels = {
        int(v): row.tolist()
        for v, row in zip(first.candidates_C, stream.samples[0].labels_CL, strict=True)
    }
    assert labels == {1: [1, 1, 0, 0], 2: [1, 0, 0, 0], 3: [0, 0, 0, 0]}
    assert stream.items.category_N.tolist() == [3, 4, 4, 5]
    assert stream.notes == ("A shop: 4 goods shown on 3 pages.",)
    for sample in stream.samples:
        validate_request(sample.request)
        assert sample.request.channels_C is not None
        assert (sample.request.channels_C == -1).all(), "nobody said who retrieved it"


def test_a_cap_keeps_requests_evenly_spaced(shop):
    stream = read_stream(
        f"{shop}=my_adapters:read_shop", **{**SETTINGS, "max_requests": 2}
    )  # fmt: skip
    assert [s.request.request_id for s in stream.samples] == [100, 102]


def test_the_check_reads_an_adapter_and_finds_what_it_did_wrong(shop, capsys):
    spec = f"{shop}=my_adapters:read_shop"
    assert main(["data", "check", spec, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["facts"]["share of candidates shown"] == pytest.approx(4 / 7)
    # A page shows what was not retrieved for it.
    text = (shop / "retrieved.csv").read_text()
    (shop / "retrieved.csv").write_text(text.replace("102,4", "102,1"))
    assert main(["data", "check", spec, "--json", "-"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["rule"] == "was not a candidate of its request, and is_rand is 0"
    assert problem["count"] == 1
    assert "request_id 102, user_id 7, video_id 4" in problem["examples"][0]
    with pytest.raises(LogError, match="video 4 of request 102 was not a candidate"):
        read_stream(spec, **SETTINGS)


def test_what_cannot_be_an_adapter_is_refused(shop):
    with (shop / "my_adapters.py").open("a") as file:
        file.write("\n\ndef counts(path, settings):\n    return [1, 2]\n")
    for spec, message in (
        ("my_adapters:read_shp", "must be one of .*read_shop.* Did you mean 'read_shop'"),
        ("my_adapter:read_shop", "cannot import my_adapter"),
        ("my_adapters:counts", "returned a list, must return LogTables"),
        ("my_adapters:NAMES", "is a dict, must be a function"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_stream(f"{shop}={spec}", **SETTINGS)


def test_a_folder_whose_name_holds_an_equals_sign_is_a_folder(tmp_path):
    folder = tmp_path / "arm=twin:x"
    folder.mkdir()
    with pytest.raises(LogError, match=r"arm=twin:x: holds neither"):
        read_stream(folder, **SETTINGS)


def test_a_candidate_outside_the_catalogue_is_refused_by_name(shop):
    text = (shop / "goods.csv").read_text()
    (shop / "goods.csv").write_text(text.replace("3,11,4\n", ""))
    with pytest.raises(LogError, match=r"request 100 .* candidate 3 is not in the catalogue of 3"):
        read_stream(f"{shop}=my_adapters:read_shop", **SETTINGS)
