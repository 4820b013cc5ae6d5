"""The fuzzers of the HTTP API, as long as wanted; tests run the same for some seconds.

    python tests/fuzz --cases 100000
    python tests/fuzz --cases 20000 --seed 7 --only "rank, Arrow"

Prints how many cases of which kind were answered how, and the memory. Ends with status 1 at the
first case that is answered wrongly, which is printed as small as it could be made.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
ROUND = 1_000
"""Cases between two lines; Hypothesis remembers all of a round, and so no more than these."""


def _short(text):
    """The end of a report, where the case is, without lines of megabytes."""
    return "\n".join(line[:300] for line in text.splitlines()[-40:])


def main():
    import api_cases
    from campaigns import CAMPAIGNS, run
    from fuzz_target import Target, peak_mb

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[one.name for one in CAMPAIGNS] + [api_cases.NAME])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ifa-fuzz-") as folder:
        target = Target(Path(folder))
        parts = [
            (one.name, one.weight, lambda n, i, one=one: run(target, one, n, i, every=20))
            for one in CAMPAIGNS
        ]
        parts.append(
            (api_cases.NAME, api_cases.WEIGHT, lambda n, i: api_cases.run(target, n, i, every=20))
        )
        parts = [part for part in parts if asked.only in (None, part[0])]
        total = sum(weight for _, weight, _ in parts)
        done, number, first_mb = 0, 1_000 * asked.seed, peak_mb()
        ran = dict.fromkeys((name for name, _, _ in parts), 0)
        started, cpu = time.monotonic(), time.process_time()
        while done < asked.cases:
            left = min(asked.cases - done, ROUND * total)
            before = done
            for name, weight, runs in parts:
                number += 1
                try:
                    count = runs(max(1, left * weight // total), number)
                except BaseException:
                    print(_short(traceback.format_exc()))
                    print(f"FAILED in {name}, round {number}, after {done:,} cases")
                    return 1
                ran[name] += count
                done += count
            assert done > before
            spent = f"{time.monotonic() - started:6.0f} s, {time.process_time() - cpu:6.0f} CPU s"
            print(f"{done:9,} cases, {spent}, peak {peak_mb():.0f} MB", flush=True)
        for name, count in ran.items():
            print(f"{count:9,} {name}")
        by_name = sorted(target.statuses.items(), key=lambda one: str(one[0]))
        answers = ", ".join(f"{n:,} x {code}" for code, n in by_name)
        print(f"answers: {answers}")
        print(f"memory grew by {peak_mb() - first_mb:.0f} MB at its peak; no case failed")
        target.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
