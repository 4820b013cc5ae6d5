"""Readers of public logs, and what is wrong with one."""
