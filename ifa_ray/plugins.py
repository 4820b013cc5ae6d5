"""Rankers of one's own, named as `package.module:Class` on a command line or in a config.

Knows how to import and what to say when that fails; never called with a name that came from data.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from ifa_ray.errors import ConfigError, unknown_name

__all__ = ["load_ranker_class"]


def load_ranker_class(spec: str) -> type[Any]:
    """Imports a ranker class; it is constructed as `Class(items=ItemTable, seed=int)`.

    Raises:
        ConfigError: if the spec is malformed, nothing of that name can be imported, or it is not a
            class with a `rank` method.
    """
    module_name, colon, class_name = spec.partition(":")
    if not colon or not class_name.isidentifier() or not module_name:
        raise ConfigError(f"ranker == {spec!r}, must be written package.module:Class.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"ranker == {spec!r}, cannot import {module_name}: {error}.") from error
    if not hasattr(module, class_name):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise unknown_name(f"ranker class of {module_name}", class_name, classes)
    found = getattr(module, class_name)
    if not inspect.isclass(found):
        kind = type(found).__name__
        raise ConfigError(f"ranker == {spec!r} is a {kind}, must be a class.")
    if not callable(getattr(found, "rank", None)):
        raise ConfigError(f"ranker == {spec!r} has no method rank(requests), must have one.")
    return found
