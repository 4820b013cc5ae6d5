import dataclasses
import json

import pytest
import torch

from benchmarks import screening
from ifa_ray.errors import RankerError
from ifa_ray.ranker import ModelRanker


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    threads = torch.get_num_threads()
    path = tmp_path_factory.mktemp("bench") / "screening.json"
    screening.main(["--quick", "--json", str(path)])
    torch.set_num_threads(threads)
    return json.loads(path.read_bytes())


def test_every_version_has_its_requests(document):
    rows = document["results"]
    assert [row["model"] for row in rows] == ["ifa"] * len(rows)
    assert rows[0]["version"] == 0
    for row in rows:
        assert row["requests"] > 0
        assert 0 < row["contenders"] <= 1
        assert row["screened_ms"] > 0 < row["whole_ms"]
    assert document["verdicts"] == [], "no number was wanted of tiny sizes"


def test_verdicts_are_the_newest_versions_at_the_papers_sizes(document):
    row = screening.Screened(**document["results"][0])
    row = dataclasses.replace(row, candidates=10_000, history=10_000)
    found = [
        dataclasses.replace(row, version=0, screened_ms=99.0),
        dataclasses.replace(row, version=1, screened_ms=39.0),
        dataclasses.replace(row, model="ifa_plus", screened_ms=61.0),
        dataclasses.replace(row, model="twin", screened_ms=61.0),
        dataclasses.replace(row, version=2, history=2_000),
    ]
    ifa, ifa_plus = screening.verdicts(found)
    assert ifa.endswith("39.0 ms, wanted <= 40 ms: met")
    assert ifa_plus.endswith("61.0 ms, wanted <= 60 ms: missed")


def test_a_slate_that_differs_ends_the_benchmark(monkeypatch):
    rank = ModelRanker.rank

    def rank_backwards(self, requests):
        found = rank(self, requests)
        if not self._screens:
            found = [dataclasses.replace(one, ids_K=one.ids_K[::-1]) for one in found]
        return found

    monkeypatch.setattr(ModelRanker, "rank", rank_backwards)
    with pytest.raises(RankerError, match="the two slates differ"):
        screening.measure(screening.QUICK)


def test_an_unknown_model_is_refused(capsys):
    with pytest.raises(SystemExit):
        screening.main(["--models", "ifa_pluss"])
    assert "models == 'ifa_pluss'" in capsys.readouterr().err
