"""`make check-stats`: the eleven checks of the A/B analysis, with their figures.

    python tests/stats              # all: some ten minutes, most of it two checks of whole worlds
    python tests/stats 2 3 10       # these

Ends with status 1 if one fails. The fast ones are unit tests too.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main(wanted):
    import rules
    import synthetic

    checks = {**synthetic.CHECKS, **rules.CHECKS}
    # Importing the simulator's runs takes torch, which the others don't need.
    if not wanted or wanted & {1, 7, 8}:
        import worlds

        checks[1] = worlds.check_1
        checks[7] = checks[8] = worlds.checks_7_and_8
    failed = []
    done = set()
    for number in sorted(wanted or checks):
        if checks[number] in done:
            continue
        done.add(checks[number])
        started, cpu = time.monotonic(), time.process_time()
        found = checks[number]()
        for outcome in found if isinstance(found, list) else [found]:
            print(f"{'ok    ' if outcome.ok else 'FAILED'} {outcome.number:2}  {outcome.claim}")
            print(f"           {outcome.figure}", flush=True)
            if not outcome.ok:
                failed.append(outcome.number)
        spent = f"{time.monotonic() - started:.0f} s, {time.process_time() - cpu:.1f} CPU s"
        print(f"           {spent} of this process\n", flush=True)
    print(f"failed: {', '.join(map(str, failed))}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main({int(argument) for argument in sys.argv[1:]}))
