"""`make house`: how large the house is, how it is built, and what it aims at.

    python tests/house

Counts what git tracks of `ifa_ray/`, `simulator/` and `tests/`, walks their imports (those under
TYPE_CHECKING and inside functions too), and prints each figure beside its aim. Ends with status 1
where one is missed. `tests/test_house.py` holds those that must not slip.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main():
    import measures

    missed = 0
    for measure in measures.all_measures():
        ok = measure.value <= measure.aim
        missed += not ok
        verdict = "ok    " if ok else "MISSED"
        print(f"{verdict} {measure.value:>7,}  aim {measure.aim:>7,}  {measure.name}")
        for line in measure.details if not ok else ():
            print(f"{'':26}{line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
