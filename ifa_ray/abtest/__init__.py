"""The A/B analysis: from the logs of all arms to effects, verdicts and a report.

Knows the log's columns and the catalogue. Knows nothing of models, serving or the world that wrote
the log: a platform's own logs are analysed by the same code.
"""

from ifa_ray.abtest.analyze import analyze
from ifa_ray.abtest.checks import Check, Decision, training_equal
from ifa_ray.abtest.logs import Logs, open_own_logs, run_logs

__all__ = ["Check", "Decision", "Logs", "analyze", "open_own_logs", "run_logs", "training_equal"]
