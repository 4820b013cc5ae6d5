"""The world's figures beside the real ones: solved, measured, printed, drawn, and fitted to a log.

Knows logs, targets and the hidden world's closed forms; no rankers.

    targets.py   real figures, tolerances, verdicts
    measure.py   what a log says
    table.py     a named world, or a finished run, against the targets
    crowd.py     popularity, which needs thousands of users
    figures.py   the same as SVG
    fit.py       levels and distributions of a user's own log
    __main__.py  solves and stores the levels of the named worlds
"""

from simulator.calibration.measure import measure
from simulator.calibration.table import (
    calibration_of_arms,
    calibration_of_run,
    calibration_rows,
    calibration_table,
)
from simulator.calibration.targets import compare, format_rows, targets, wanted_rates
from simulator.levels import solve_levels

__all__ = [
    "calibration_of_arms",
    "calibration_of_run",
    "calibration_rows",
    "calibration_table",
    "compare",
    "format_rows",
    "measure",
    "solve_levels",
    "targets",
    "wanted_rates",
]
