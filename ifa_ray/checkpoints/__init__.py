"""Versions of models on disk; to load a model needs no learner."""
