"""Measurements of the paths that users run; torch and numpy alone."""
