"""Numbers that several parts must agree on; knows nothing else."""

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
