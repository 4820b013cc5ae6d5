"""The report: HTML, Markdown and CSV of a finished test's `result.json`."""
