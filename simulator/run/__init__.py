"""Runs: presets, executors, the folder, the result."""
