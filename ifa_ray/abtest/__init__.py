"""From per-user metrics of arms to a verdict and its report; knows logs, not rankers."""
