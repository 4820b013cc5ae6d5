"""Measurements of the paths that users run; those of rankers need torch and numpy alone."""
