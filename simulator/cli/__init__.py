"""The commands of `python -m simulator`: each parses, calls what does the work, and prints.

A module has `add_...`, which adds the command to a parser, and `run_...`, which returns its exit
code. What a command needs beyond flags is imported when it runs: help is quick, and Ray is imported
only by a run on Ray.
"""
