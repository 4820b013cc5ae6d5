"""Rankers, adapters and stores of one's own, named as `package.module:Name` on a command line.

A ranker may be named in a config too, a store is only there.

The public names of a package, too, are imported when they are first used (PEP 562).

Knows how to import and what to say when that fails; never called with a name that came from data.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ifa_ray.errors import ConfigError, unknown_name

_OF_STORES = ("append", "watermark", "read", "erase", "close")


EXTENSIONS = {
    "kernels": "ifa_ray.cuda.fused:fuse",
    "graphs": "ifa_ray.cuda.graphs:GraphedModel",
    "modular_towers": "ifa_ray.models.modules:ModularTowers",
    "sequence_attention": "ifa_ray.models.modules:SequenceAttention",
}
"""For a card, and the paper's optional modules; imported only where one is asked for."""


def load_extension(name: str) -> Any:
    """Imports one of `EXTENSIONS`."""
    module, attribute = _import("extension", EXTENSIONS[name], "name")
    return getattr(module, attribute)


def load_ranker_class(spec: str) -> type[Any]:
    """Imports a ranker class; it is constructed as `Class(items=ItemTable, seed=int)`.

    Raises:
        ConfigError: if the spec is malformed, nothing of that name can be imported, or it is not a
            class with a `rank` method.
    """
    found = _load("ranker", spec, "class", inspect.isclass)
    if not callable(getattr(found, "rank", None)):
        raise ConfigError(f"ranker == {spec!r} has no method rank(requests), must have one.")
    return found


def load_store_class(spec: str) -> type[Any]:
    """Imports a class of stores, made as `Class(location=str, max_bytes=int, **options)`.

    Raises:
        ConfigError: if the spec is malformed, nothing of that name can be imported, or it is not a
            class with the methods of `ifa_ray.serving.sequence_store.HistoryStore`.
    """
    found = _load("store_class", spec, "class", inspect.isclass)
    for method in _OF_STORES:
        if not callable(getattr(found, method, None)):
            raise ConfigError(f"store_class == {spec!r} has no method {method}, must have one.")
    return found


def load_adapter(spec: str) -> Callable[..., Any]:
    """Imports an adapter; it is called as `read(path, settings)` and returns `LogTables`.

    Raises:
        ConfigError: if the spec is malformed, nothing of that name can be imported, or it cannot be
            called.
    """
    return _load("adapter", spec, "function", callable)


def _load(what: str, spec: str, kind: str, is_one: Callable[[Any], bool]) -> Any:
    module, name = _import(what, spec, "Class" if kind == "class" else kind)
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if is_one(value)]
        raise unknown_name(f"{what} of {module.__name__}", name, names)
    found = getattr(module, name)
    if not is_one(found):
        raise ConfigError(f"{what} == {spec!r} is a {type(found).__name__}, must be a {kind}.")
    return found


def _import(what: str, spec: str, form: str) -> tuple[ModuleType, str]:
    """The module of a spec, and the name in it."""
    module_name, colon, name = spec.partition(":")
    if not colon or not name.isidentifier() or not module_name:
        raise ConfigError(f"{what} == {spec!r}, must be written package.module:{form}.")
    try:
        return importlib.import_module(module_name), name
    except ImportError as error:
        raise ConfigError(f"{what} == {spec!r}, cannot import {module_name}: {error}.") from error


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
