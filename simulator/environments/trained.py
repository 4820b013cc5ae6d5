"""A model of `ifa_ray` that has learned from a population's prehistory.

Knows the learner and the warm-up log; nothing hidden. What the log holds is what the earlier
recommender showed, so this is learning from logged data: no episode is played.
"""

from __future__ import annotations

from collections.abc import Callable

from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.ranker import ModelRanker
from ifa_ray.training.loop import Learner
from ifa_ray.training.samples import LogFollower
from simulator.environments.starts import Population

__all__ = ["train_on_prehistory"]


def train_on_prehistory(
    population: Population,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    seed: int,
    epochs: int,
    say: Callable[[str], None] = lambda _: None,
) -> ModelRanker:
    """Trains a model on the logged requests of the prehistory and returns it as a ranker.

    Args:
        population: its log is learned from, in order of time.
        model: which model.
        training: how it learns.
        seed: of its weights.
        epochs: how often the log is gone through.
        say: is given a line after each epoch.
    """
    require(epochs >= 1, "epochs", epochs, ">= 1")
    items = population.world.catalog.item_table()
    learner = Learner(model, training, items, seed)
    follower = LogFollower(max_history=model.max_history)
    follower.append(population.log.impressions)
    samples = follower.samples(population.log.requests, population.log.impressions)
    samples.sort(key=lambda sample: (sample.request.time_ms, sample.request.request_id))
    for epoch in range(epochs):
        metrics = learner.train(samples)
        auc = {name: metrics.auc[name] for name in ("is_click", "long_view")}
        unseen = "before learning from it" if epoch == 0 else "already seen"
        found = ", ".join(f"{name} AUC {value or 0:.3f}" for name, value in auc.items())
        say(f"{model.name}: {len(samples)} requests ({unseen}): {found}")
    return ModelRanker(learner.model, items, version=0)
