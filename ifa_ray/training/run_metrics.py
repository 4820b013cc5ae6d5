"""Progressive metrics of a run's arms, version by version, as its trainings published them.

Knows the layout of a run and the metrics in a checkpoint; nothing of tensors, learners or worlds.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from ifa_ray.config import require
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.errors import unknown_name
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.checkpoint import load_metrics, published_versions, version_folder
from ifa_ray.training.offline_output import TITLES
from ifa_ray.training.plots import lines_svg

__all__ = ["RunMetrics", "read_run_metrics"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """One metric of one objective, of every arm that learns.

    Attributes:
        metric: a key of `TITLES`.
        objective: of `OBJECTIVES`.
        replicates: over which values are means.
        values: by arm, of each version, oldest first; None where it is defined in no replicate.
        requests: by arm, tested for each version, all replicates together.
    """

    metric: str
    objective: str
    replicates: int
    values: dict[str, list[float | None]]
    requests: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def svg(self) -> str:
        """One line for each arm; a whole SVG file."""
        series = {arm: list(enumerate(values)) for arm, values in self.values.items()}
        title = f"{TITLES[self.metric]}: {self.objective}"
        return lines_svg(series, title=title, x_label="version")


def read_run_metrics(run: Path, metric: str = "auc", objective: str = "impression") -> RunMetrics:
    """Reads the versions that all replicates of an arm have published.

    Args:
        run: folder of a run, finished or not.
        metric: a key of `TITLES`.
        objective: of `OBJECTIVES`.

    Raises:
        ConfigError: if the run has no versions, or a name is unknown, with the near miss.
        CheckpointError: if a version is damaged.
    """
    for field, name, known in (("metric", metric, TITLES), ("objective", objective, OBJECTIVES)):
        if name not in known:
            raise unknown_name(field, name, known)
    models = RunFolder(run).root / "models"
    arms = {
        folder.name: sorted(folder.glob("replicate=*"))
        for folder in sorted(models.glob("*"))
        if any(published_versions(root) for root in folder.glob("replicate=*"))
    }
    require(bool(arms), "run", str(run), "the folder of a run that has published versions")
    values: dict[str, list[float | None]] = {}
    requests: dict[str, list[int]] = {}
    for arm, roots in arms.items():
        common = sorted(set.intersection(*(set(published_versions(root)) for root in roots)))
        values[arm], requests[arm] = [], []
        for version in common:
            found = [load_metrics(version_folder(root, version)) for root in roots]
            defined = [each[metric][objective] for each in found]
            defined = [value for value in defined if value is not None]
            values[arm].append(statistics.fmean(defined) if defined else None)
            requests[arm].append(sum(each["samples"] for each in found))
    return RunMetrics(
        metric=metric, objective=objective, replicates=max(map(len, arms.values())),
        values=values, requests=requests,
    )  # fmt: skip
