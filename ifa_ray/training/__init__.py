"""Test-then-train on the stream, checkpoints, and Ray Train around them."""
