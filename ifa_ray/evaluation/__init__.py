"""Comparing models on one log: test, then train, over the same streams with the same settings.

Every model gets the same requests in the same order, the same features, steps and learning rate. A
seed sets the initial weights and, where it has one of its own, the data.
"""

from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.protocol import evaluate
from ifa_ray.evaluation.result import Evaluation, to_json
from ifa_ray.evaluation.runs import ModelRun

__all__ = ["Evaluation", "EvaluationConfig", "ModelRun", "evaluate", "to_json"]
