"""Where a benchmark's results are written, for people to plot and for `python -m benchmarks`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Writes results as JSON, into a folder that may have to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
