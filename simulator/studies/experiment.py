"""The experiment: is a lifelong-sequence ranker worth serving, and what moves the answer?

Knows configs and names of parts; no folder and no process. One table compares every kind of ranker
in three worlds, with the paper's ranking rule and no set step, in both regimes. A second one moves
the rule and the set step, since they may move more than the architecture does. One feature set, one
seed and one size for all.
"""

from __future__ import annotations

import dataclasses

from simulator.run.presets import AA_ARM, RunConfig, preset
from simulator.world.config import WORLDS

_CHALLENGERS = ("ifa", "ifa_plus")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One run of the experiment.

    Attributes:
        name: of its folder.
        config: complete but for the limits of `equal_latency`, which are measured.
        budget: the arm whose cost all arms get in `equal_latency`; None in `quality`.
        reuse: name of the part whose worlds it shares, so that what is the same is lived once.
    """

    name: str
    config: RunConfig
    budget: str | None = None
    reuse: str | None = None


def experiment_parts(preset_name: str, changes: dict[str, object]) -> tuple[Part, ...]:
    """All parts, those of the first table first.

    Args:
        preset_name: `experiment`, or a smaller preset to try it out.
        changes: settings of every part, as `Config.replace` takes them.
    """
    quality, equal = [], []
    for number, world in enumerate(WORLDS):
        config = preset(preset_name, world).replace(changes)
        if number:  # how far luck reaches is measured once
            arms = tuple(arm for arm in config.arms if arm != AA_ARM)
            config = dataclasses.replace(config, arms=arms)
        few = dataclasses.replace(config, arms=(config.arms[0], *_CHALLENGERS))
        name = f"quality-{world}"
        quality.append(Part(name=name, config=config))
        equal.append(
            Part(name=f"equal-latency-{world}", config=few, budget=_CHALLENGERS[-1], reuse=name)
        )
    few, name = equal[0].config, quality[0].name
    moved = [
        Part(name="rule-long-view", config=few.replace({"model.ranking_rule": "long_view"})),
        Part(name="set-step-learned", config=few.replace({"model.set_step": "learned"})),
    ]
    moved = [dataclasses.replace(part, reuse=name) for part in moved]
    return (*quality, *equal, *moved)
