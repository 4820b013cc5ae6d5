"""Gymnasium environments over the world: a ranker is the agent, a user's request is a step.

Importing this package registers `IDS`; needs the extra `environments` (gymnasium), as nothing else
of the simulator does.
"""

try:
    import gymnasium
except ImportError:
    raise ImportError(
        "gymnasium is not installed, must be for simulator.environments: "
        "pip install 'ifa-ray[environments]'"
    ) from None

from simulator.environments.env import KINDS, REWARDS, EnvironmentSettings, UserEnv
from simulator.environments.wrappers import FeatureObservation, ScoredSlates

__all__ = ["IDS", "REWARDS", "EnvironmentSettings", "FeatureObservation", "ScoredSlates", "UserEnv"]

IDS = tuple(f"simulator/{kind.capitalize()}-v0" for kind in KINDS)

for _name, _kind in zip(IDS, KINDS, strict=True):
    if _name not in gymnasium.registry:
        gymnasium.register(
            _name, entry_point="simulator.environments.env:UserEnv", kwargs={"kind": _kind}
        )
