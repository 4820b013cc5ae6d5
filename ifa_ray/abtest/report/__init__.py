"""The report: one HTML file, a pure function of a run's `result.json`; measures nothing itself."""

from ifa_ray.abtest.report.render import render_report, write_report

__all__ = ["render_report", "write_report"]
