"""The world's figures beside the real ones: solved, measured, printed, drawn, and fitted to a log.

Knows logs, targets and the hidden world's closed forms; no rankers.
"""
