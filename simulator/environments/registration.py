"""The ids under which Gymnasium finds the environments."""

from __future__ import annotations

import gymnasium

__all__ = ["IDS", "register_environments"]

_CLASSES = {
    "simulator/Ranking-v0": "Ranking",
    "simulator/Session-v0": "Session",
    "simulator/Retention-v0": "Retention",
}

IDS = tuple(_CLASSES)
"""All environments of this package."""


def register_environments() -> None:
    """Registers each id, its batched form too; ids that are registered already are left alone."""
    for name, prefix in _CLASSES.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point=f"simulator.environments.single:{prefix}Env",
                vector_entry_point=f"simulator.environments.vector:{prefix}VectorEnv",
            )
