"""A run that takes over another's arms holds the bytes that it would have lived itself."""

import dataclasses
import hashlib
import json

import pytest

from ifa_ray.errors import ConfigError, LogError
from simulator.run.opening import open_run
from simulator.run.presets import preset
from simulator.run.reuse import reuse_run
from simulator.run.simulate import simulate
from simulator.studies.experiment import experiment_parts

SMALL = {"users": 4, "days": 2, "replicates": 1}
PARTS = ("log/impressions", "log/requests", "models", "worlds", "state")


def lived(root, config, reuse=None):
    with open_run(root, config, resume=False) as folder:
        taken = () if reuse is None else reuse_run(reuse, folder, config)
    simulate(config, root, processes=1, resume=True)
    return taken


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in PARTS
        for path in sorted((root / part).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def config():
    return preset("smoke").replace({**SMALL, "arms": ("twin", "ifa", "random")})


@pytest.fixture(scope="module")
def source(tmp_path_factory, config):
    root = tmp_path_factory.mktemp("runs") / "source"
    lived(root, config)
    return root


def test_arms_that_do_the_same_are_taken_over_and_others_lived(source, config, tmp_path):
    limited = dataclasses.replace(
        config, arms=("twin", "random", "din"), regime="equal_latency", budget_ms=1.0,
        candidate_limits=("twin=80",),
    )  # fmt: skip
    assert lived(tmp_path / "reusing", limited, source) == ("random",)
    assert lived(tmp_path / "fresh", limited) == ()
    assert digests(tmp_path / "reusing") == digests(tmp_path / "fresh")
    result = json.loads((tmp_path / "reusing" / "result.json").read_bytes())
    assert result["run"]["parts"] == 2  # the source's driver is on record


def test_a_model_of_other_settings_is_not_taken_over(source, config, tmp_path):
    moved = config.replace({"model.ranking_rule": "long_view"})
    with open_run(tmp_path / "run", moved, resume=False) as folder:
        assert reuse_run(source, folder, moved) == ("random",)


def test_a_run_of_other_worlds_is_refused(source, config, tmp_path):
    other = config.replace({"seed": 5})
    with (
        open_run(tmp_path / "run", other, resume=False) as folder,
        pytest.raises(ConfigError, match="must be a run of the same seed: it has 0, this one 5"),
    ):
        reuse_run(source, folder, other)


def test_a_damaged_source_gives_nothing(config, tmp_path):
    lived(tmp_path / "source", config.replace({"arms": ("random", "popularity")}))
    file = next((tmp_path / "source" / "log" / "requests" / "arm=random").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    with (
        open_run(tmp_path / "run", config, resume=False) as folder,
        pytest.raises(LogError, match="its checksum is not the committed one"),
    ):
        reuse_run(tmp_path / "source", folder, config)
    assert not (tmp_path / "run" / "log").exists()


def test_the_experiments_parts_share_worlds_seeds_and_features():
    parts = {part.name: part for part in experiment_parts("experiment", {"replicates": 4})}
    assert len(parts) == 8
    for part in parts.values():
        assert part.config.replicates == 4
        assert part.config.seed == 2026
        assert part.config.model.cross_features == ("channel", "user", "category", "author")
        if part.reuse is not None:
            assert part.config.world == parts[part.reuse].config.world
    assert parts["rule-long-view"].config.model.ranking_rule == "long_view"
    assert parts["set-step-learned"].config.model.set_step == "learned"
    assert {parts[f"equal-latency-{w}"].budget for w in ("balanced", "exact_heavy")} == {"ifa_plus"}
