"""The exception tree of the library; knows nothing else.

    IfaRayError
    ├── ConfigError (ValueError)      a setting is unknown or outside its rule
    ├── RequestError (ValueError)     a rank request breaks the contract; nothing was computed
    ├── RankerError (ValueError)      a ranker's answer breaks the contract (NaN, foreign ids, ...)
    ├── LogError (ValueError)         a log file is missing, truncated or breaks the contract
    ├── CheckpointError (ValueError)  a checkpoint is missing, truncated or of another schema
    ├── ServingError (RuntimeError)   a served ranker could not be reached or answered with an error
    └── StoreError (RuntimeError)     a store of histories cannot be opened, read or written

Messages name the field, its value and the rule: ``num_candidates == 0, must be >= 1``.
Every class takes one string, so that it pickles across processes unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IfaRayError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(IfaRayError, ValueError):
    """A setting is unknown or outside its rule."""


class RequestError(IfaRayError, ValueError):
    """A rank request breaks the contract; nothing was computed."""


class RankerError(IfaRayError, ValueError):
    """A ranker's answer breaks the contract."""


class LogError(IfaRayError, ValueError):
    """A log file is missing, truncated or breaks the contract."""


class CheckpointError(IfaRayError, ValueError):
    """A checkpoint is missing, truncated or of another schema."""


class ServingError(IfaRayError, RuntimeError):
    """A served ranker could not be reached or answered with an error."""


class StoreError(IfaRayError, RuntimeError):
    """A store of histories cannot be opened, read or written."""


def unknown_name(field: str, value: str, known: Iterable[str]) -> ConfigError:
    """Builds the error for a name that is not in a closed list, with the nearest miss."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{field} == {value!r}, must be one of {', '.join(names)}.{hint}")


def shortened(text: str, longest: int = 60) -> str:
    """A caller's value, as an error may repeat it: of a length that does not depend on theirs."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
