"""A package's public names, each imported when it is first used (PEP 562)."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        places: of each public name, the module that defines it.
    """

    def find(name: str) -> Any:
        if name == "__version__":
            return importlib.metadata.version("ifa-ray")
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name)

    return find
