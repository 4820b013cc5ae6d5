from collections.abc import Iterator
from pathlib import Path

import pytest
from films import write_films


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module", autouse=True)
def no_processes_for_memory() -> Iterator[None]:
    """Memory is measured in test_cost.py alone: a process for each model takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ifa_ray.evaluation.cost._peak_in_a_process", lambda *_: 7)
        yield
