"""The simulated world: catalogue, users, retrieval, responses, days. Knows no ranker, no Ray."""
