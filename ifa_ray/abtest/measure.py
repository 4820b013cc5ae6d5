"""One world under one arm, from its impressions to totals per user; compares no arms.

The unit is the user: those who never came stay in, with zeros.

Letters: U users in increasing order of id, N items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.estimates import Totals
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.metrics import Metric
from ifa_ray.abtest.past import Past
from ifa_ray.abtest.totals import (
    Columns,
    day_diversity,
    day_totals,
    exposure_counts,
    first_of_day,
    gini,
    places_of,
    sum_up,
    with_features,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """One world under one arm, summed up.

    Attributes:
        columns: for each column named by a `Metric`, float64 [U] totals over the measured days.
        past: the same of the time before the test, where it is known.
        day_watch_UD: float64 [U, days], watch time of each day in seconds, burn-in included.
        first_day_U: boolean, who was seen on day 0.
        exposure: of a catalogue, `coverage`, the share that anybody saw on measured days, and its
            `gini`.
    """

    columns: Columns
    past: Columns | None
    day_watch_UD: npt.NDArray[np.float64]
    first_day_U: npt.NDArray[np.bool_]
    exposure: Mapping[str, float]

    def totals(self, metric: Metric) -> Totals:
        """The metric's two columns; of a `world` metric, the world's one number over one."""
        if metric.group == "world":
            value = np.array([self.exposure[metric.above]])
            return Totals(numerator_U=value, denominator_U=np.ones(1))
        return _totals(self.columns, metric)

    def past_totals(self, metric: Metric) -> Totals | None:
        """The metric before the test; None where it was not measured then."""
        if self.past is None or not {metric.above, metric.below} <= {None, *self.past}:
            return None
        return _totals(self.past, metric)


def _totals(columns: Columns, metric: Metric) -> Totals:
    above = columns[metric.above]
    below = np.ones_like(above) if metric.below is None else columns[metric.below]
    return Totals(numerator_U=above, denominator_U=below)


def available(logs: Logs, pasts: Sequence[Past | None]) -> set[str]:
    """Material of metrics: columns that all logs have, and `items`, `content`, `pre`."""
    schemas = [set(frame.collect_schema().names()) for frame in logs.frames.values()]
    found = set.intersection(*schemas)
    catalogues = [items for items in logs.catalogues.values() if items is not None]
    if "video_id" in found and catalogues:
        found.add("items")
        if all(items.content_ND.shape[1] for items in catalogues):
            found.add("content")
    return found if None in pasts else found | {"pre"}


def measure(logs: Logs, arm: str, replicate: int, past: Past | None = None) -> World:
    """Reads one world's impressions under one arm and sums them up per user.

    Raises:
        LogError: if the log holds users or items that are not the world's.
    """
    items, users_U = logs.catalogues[replicate], logs.users[arm, replicate]
    impressions = logs.frames[arm, replicate]
    counted = pl.col("day") >= logs.burn_in_days
    measured = impressions.filter(counted)
    names = impressions.collect_schema().names()
    if "video_id" not in names:
        items = None
    exposure = {}
    if items is not None:
        # First of all, because it refuses items that the joins below would silently drop.
        counts_N = exposure_counts(measured, items)
        exposure = {"coverage": float((counts_N > 0).mean()), "gini": gini(counts_N)}
    if past is not None and past.watch is not None and "duration_ms" in names:
        impressions = past.watch.columns(impressions)
    days = day_totals(impressions).collect(engine="streaming")
    columns = sum_up(days.lazy().filter(counted), users_U)
    if items is not None:
        whole = {"": measured}
        if "time_ms" in names:
            whole["_k"] = first_of_day(measured, logs.fixed_k)
        for suffix, shown in whole.items():
            seen = with_features(shown, items, None if past is None else past.novelty_N)
            diverse = day_diversity(seen, None if past is None else past.tastes[arm])
            columns |= {f"{name}{suffix}": v for name, v in sum_up(diverse, users_U).items()}

    places, day = places_of(days["user_id"].to_numpy(), users_U), days["day"].to_numpy()
    shape = len(users_U), logs.days
    day_ms = np.bincount(places * logs.days + day, days["watch_ms"].to_numpy(), np.prod(shape))
    first_day_U = np.zeros(len(users_U), bool)
    first_day_U[places[day == 0]] = True
    return World(
        columns=columns,
        past=None if past is None else past.columns[arm],
        day_watch_UD=day_ms.reshape(shape) / 1000,
        first_day_U=first_day_U,
        exposure=exposure,
    )
