"""A ranker behind Ray Serve, and its client."""
