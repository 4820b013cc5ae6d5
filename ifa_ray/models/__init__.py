"""Ranking models in plain torch; knows no Ray, no files."""
