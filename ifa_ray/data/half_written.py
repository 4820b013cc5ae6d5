"""The name under which a file or folder is written before it gets its own, and what a kill leaves.

Knows names; nothing of what is written, nor who holds a folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path


def temporary_of(path: Path) -> Path:
    """Where this process writes what will be `path`: beside it, so that a rename is enough."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_half_written(path: Path) -> bool:
    """Whether it has a name that `temporary_of` gives, in this process or another."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def remove_half_written(root: Path) -> None:
    """Removes what killed processes were writing below `root`, files and folders.

    For whoever holds the folder's lock, before anything writes: a living writer would lose its own.
    """
    # On a cluster a killed driver's actors may still be dying, and finish a file at this moment.
    # What is gone by itself is passed over, which `os.walk` does too.
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            with contextlib.suppress(FileNotFoundError):
                if is_half_written(path) and path.is_dir():
                    shutil.rmtree(path)
                elif is_half_written(path):
                    path.unlink()
