"""The commands of `python -m simulator`: each parses, calls what does the work, and prints.

    settings.py      flags of a preset's settings and `--set`; the config that they make
    run.py           run: the closed loop and the A/B comparison
    log.py           log: a warm-up log without rankers
    report.py        report: a finished run's page once more
    calibration.py   calibration and calibrate: the world's figures, a world fitted to a log
    set_headroom.py  set-headroom: what set steps recover
    sensitivity.py   sensitivity: the A/B with each mechanism moved
    recall.py        recall: how many of the truly best items are candidates

A module has `add_...`, which adds the command to a parser, and `run_...`, which returns its exit
code. What a command needs beyond flags is imported when it runs: help is quick, and Ray is imported
only by a run on Ray.
"""
