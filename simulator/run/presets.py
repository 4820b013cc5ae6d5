"""A run as one frozen config, and the presets: functions that return complete ones.

Knows settings only. Whatever changes a byte of the log is here; what does not (how many actors,
which cluster, where the folder lies) is an argument of `simulator.simulate`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ifa_ray.config import CROSS_FEATURES, Config, ModelConfig, TrainingConfig, require, setting
from ifa_ray.data.run_folder import WARMUP
from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.models import MODELS
from simulator.world.config import WorldConfig, world_config

MODEL_ARMS = tuple(MODELS)

REGIMES = ("quality", "equal_latency")

BUILT_IN_RANKERS = {"random": "ifa_ray.ranking.ranker:RandomRanker"}

WORLD_RANKERS = {
    "popularity": "simulator.world.policy:PopularityRanker",
    "oracle": "simulator.world.policy:OracleRanker",
}
"""Rankers that know more than a request says. The world ranks for them itself, without serving."""

AA_ARM = "aa"
"""The control's model again, with other weights to begin with: what it differs by is luck."""

ARMS = (*MODEL_ARMS, *BUILT_IN_RANKERS, *WORLD_RANKERS, AA_ARM)
"""Arms known by name: the models, the rankers that any model must beat, the upper bound, and the
noise floor."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm of the comparison."""

    name: str
    ranker: str | None  # `package.module:Class`, which does not learn here; None for a model
    in_world: bool = False  # it knows the world, so that it is no application

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Reads `twin`, or `mine=package.module:Class`.

        Raises:
            ConfigError: on an unknown arm, with the near miss, or a malformed one.
        """
        name, equals, ranker = text.partition("=")
        if not equals:
            if name not in ARMS:
                raise unknown_name("arm", name, ARMS)
            if name in WORLD_RANKERS:
                return cls(name, WORLD_RANKERS[name], in_world=True)
            return cls(name, BUILT_IN_RANKERS.get(name))
        is_free = name.isidentifier() and name != WARMUP and name not in ARMS
        rule = "NAME=package.module:Class"
        require(is_free, "arm", text, f"{rule} with a name that is not taken")
        module, _, class_name = ranker.partition(":")
        require(bool(module) and class_name.isidentifier(), "arm", text, rule)
        return cls(name, ranker)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """One A/B comparison in the closed loop."""

    preset: str = setting(doc="the name it came from")
    seed: int = setting(0, "everything random derives from it", ge=0)
    arms: tuple[str, ...] = setting(
        ("twin", "ifa", "ifa_plus"),
        f"the first is the control; of {', '.join(ARMS)}, or NAME=package.module:Class for a "
        "ranker of your own (its code is run)",
    )
    replicates: int = setting(3, "independent worlds; fewer than 3 give no verdict", ge=1)
    users: int = setting(32, "per replicate", ge=1)
    days: int = setting(6, "simulated under the arms, after the warm-up that they share", ge=1)
    burn_in_days: int = setting(1, "the first of them, shown but not counted", ge=0)
    shards: int = setting(4, "of the users; fixed, so that files do not depend on actors", ge=1)
    # Training and simulation overlap.
    lag_days: int = setting(
        1, "day d is ranked by the version trained on days before d - lag_days", ge=0
    )
    train_requests_per_day: int = setting(64, "samples each model learns per day", ge=1)
    regime: str = setting(
        "quality",
        "every arm ranks all candidates, or as many as it can in budget_ms",
        choices=REGIMES,
    )
    budget_ms: float = setting(0.0, "of CPU per request, in the regime equal_latency", ge=0)
    candidate_limits: tuple[str, ...] = setting(
        (), "ARM=N for each arm that is given fewer than C candidates; measured at the start"
    )
    world: WorldConfig
    model: ModelConfig  # its name is replaced by the arm's
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def check(self) -> None:
        """Checks rules between settings."""
        days, users = self.days, self.users
        require(self.burn_in_days < days, "burn_in_days", self.burn_in_days, f"< days == {days}")
        require(self.shards <= users, "shards", self.shards, f"<= users == {users}")
        names = [Arm.parse(text).name for text in self.arms]
        aa_leads = AA_ARM in names and names[0] not in MODEL_ARMS
        for holds, rule in (
            (len(names) >= 2, "at least a control and a treatment"),
            (not aa_leads, f"led by a model, where {AA_ARM} is a control trained again"),
            (set(names) != {names[0], AA_ARM}, f"a control and a treatment beside {AA_ARM}"),
            (len(set(names)) == len(names), "named once each"),
        ):
            require(holds, "arms", self.arms, rule)
        is_limited = self.regime == "equal_latency"
        rule = "> 0 with regime == equal_latency, and 0 without"
        require((self.budget_ms > 0) == is_limited, "budget_ms", self.budget_ms, rule)
        limits = self.candidate_limits
        rule = "empty unless regime == equal_latency"
        require(is_limited or not limits, "candidate_limits", limits, rule)
        least, most = self.world.slate_size, self.world.num_candidates
        for text in limits:
            arm, _, limit = text.partition("=")
            fits = limit.isdecimal() and least <= int(limit) <= most
            rule = f"ARM=N with one of the arms and N in [{least}, {most}]"
            require(arm in names and fits, "candidate_limits", text, rule)

    @property
    def parsed_arms(self) -> tuple[Arm, ...]:
        """The arms, control first."""
        return tuple(Arm.parse(text) for text in self.arms)

    @property
    def config_hash(self) -> str:
        """Twelve hex digits that name these settings."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def world_seed(self, replicate: int) -> int:
        """The seed of everything random in a replicate's worlds, the same for all its arms."""
        return self._seed(replicate, 0)

    def model_seed(self, replicate: int, arm: str) -> int:
        """The seed of an arm's model in a replicate: the same for all arms but `AA_ARM`."""
        return self._seed(replicate, 2 if arm == AA_ARM else 1)

    def model_of(self, arm: str) -> ModelConfig:
        """The settings of an arm's model: the run's, with the arm's name, or the control's."""
        name = Arm.parse(self.arms[0]).name if arm == AA_ARM else arm
        return dataclasses.replace(self.model, name=name)

    def candidates_of(self, arm: str) -> int:
        """The number of candidates that an arm is given."""
        limits = dict(text.split("=") for text in self.candidate_limits)
        return int(limits.get(arm, self.world.num_candidates))

    def version_of_day(self, day: int) -> int:
        """The model version that ranks on a day: trained on the warm-up and days before it."""
        return max(0, day - self.lag_days)

    def shard_users(self, shard: int) -> np.ndarray:
        """The user ids of a virtual shard, int32."""
        return np.arange(shard, self.users, self.shards, dtype=np.int32)

    def _seed(self, replicate: int, purpose: int) -> int:
        sequence = np.random.SeedSequence([self.seed, replicate, purpose])
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)


# What version 0 of every model learns from. With 8 a user, at `quick`, seed 0, 3 replicates, watch
# seconds per user were 621 with TWIN, 757 with the random ranker and 802 with AvgPooling: nothing
# to compare. With 24, the next value tried, on seed 100: TWIN 1,938, random 786.
_WARMUP = {"world.warmup_requests_per_user": 24}
_LARGE_TABLES: dict[str, Any] = {"id_buckets": 200_000, "author_buckets": 50_000}


def _smoke(world: str) -> RunConfig:
    """Under a minute: shows that everything runs. Its verdict means nothing."""
    small: dict[str, Any] = {
        "id_buckets": 2_000,
        "author_buckets": 500,
        "user_buckets": 100,
        "max_history": 200,
    }
    return RunConfig(
        preset="smoke",
        users=6,
        days=3,
        burn_in_days=0,
        shards=2,
        train_requests_per_day=4,
        world=dataclasses.replace(world_config("smoke", world), sample_rate=1.0),
        model=ModelConfig(name="ifa", width=16, top_k=10, tower_widths=(16,), **small),
        training=TrainingConfig(batch_size=4),
    )


def _quick(world: str) -> RunConfig:
    """Under ten minutes on two cores: the whole comparison, small."""
    config = RunConfig(
        preset="quick",
        replicates=5,
        world=world_config("quick", world),
        # Top-k models look at 1% of the longest history, as in the paper (100 of 10,000).
        model=ModelConfig(name="ifa", width=32, top_k=20, max_history=2_000),
    )
    # So few requests a day that all of them are logged, and all may be learned from.
    return config.replace({"world.sample_rate": 1.0, **_WARMUP})


def _experiment(world: str) -> RunConfig:
    """The comparison that this project exists for, in one world: docs/results/ has its reports.

    `quick` with ten replicates, every kind of ranker, and the counts that any platform has, for all
    models alike.
    """
    arms = "twin aa random popularity din sim_hard sim_soft ifa ifa_plus oracle"
    changes = {"preset": "experiment", "seed": 2026, "replicates": 10, "arms": arms.split()}
    return _quick(world).replace({**changes, "model.cross_features": CROSS_FEATURES})


def _standard(world: str) -> RunConfig:
    """The paper's sizes, 10,000 candidates against 10,000 impressions, on a small population."""
    return RunConfig(
        preset="standard",
        users=48,
        days=8,
        shards=8,
        train_requests_per_day=32,
        world=world_config("standard", world),
        model=ModelConfig(name="ifa", width=64, tower_widths=(128, 64), **_LARGE_TABLES),
        training=TrainingConfig(batch_size=1),
    ).replace(_WARMUP)


def _paper(world: str) -> RunConfig:
    """Every baseline of the paper's Table 2 at its sizes (C = T = 10,000), for a cluster.

    `python -m simulator run --preset paper --dry-run` says what it costs.
    """
    arms = "twin aa random popularity avg_pooling din sim_hard sim_soft ifa ifa_plus oracle"
    sizes = {"users": 2_000, "days": 10, "burn_in_days": 2, "shards": 64, "replicates": 10}
    model = {"model.cross_features": CROSS_FEATURES, "model.user_buckets": 20_000}
    learning = {"train_requests_per_day": 1_000, "training.batch_size": 4}
    return _standard(world).replace(
        {"preset": "paper", "arms": arms.split(), **sizes, **model, **learning}
    )


def _kuairand(world: str) -> RunConfig:
    """KuaiRand as published, on as many users as two cores simulate in some minutes."""
    return _surface("kuairand", world)


def _kuaishou_paper(world: str) -> RunConfig:
    """The paper's stream (Table 1): 2,516 candidates and 3.26 impressions a request."""
    return _surface("kuaishou_paper", world)


def _surface(name: str, world: str) -> RunConfig:
    return RunConfig(
        preset=name,
        users=24,
        days=4,
        shards=8,
        world=world_config(name, world),
        model=ModelConfig(name="ifa", width=32, **_LARGE_TABLES),
        training=TrainingConfig(batch_size=4),
    ).replace(_WARMUP)


PRESETS: Mapping[str, Callable[[str], RunConfig]] = {
    "smoke": _smoke,
    "quick": _quick,
    "experiment": _experiment,
    "standard": _standard,
    "paper": _paper,
    "kuairand": _kuairand,
    "kuaishou_paper": _kuaishou_paper,
}


def preset(name: str, world: str = "balanced") -> RunConfig:
    """The complete config of a preset in one of the named worlds, or of a preset in a file.

    A name that ends in .json is a file that `python -m simulator calibrate` wrote.

    Raises:
        ConfigError: on an unknown name, with the near miss, or a file that is no preset.
    """
    if name.endswith(".json"):
        require(world == "balanced", "world", world, "left out: a preset in a file is of one world")
        return _preset_file(Path(name))
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name](world)


def _preset_file(path: Path) -> RunConfig:
    try:
        return RunConfig.from_dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"preset == {str(path)!r}, must be a file that can be read: {error.strerror}."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a preset: {error}") from None
