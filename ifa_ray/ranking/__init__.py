"""A request in, a slate out: the ranker, pruning by an upper bound, cached attention states."""
