"""Writes the golden result and its renderings: `python tests/ifa_ray/abtest/make_golden.py`.

Run it after a deliberate change of the report and look at the difference before committing it. The
result is made anew only with `--result`, since its last digits are of the machine.
"""

import json
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def main():
    import ab_results

    from ifa_ray.abtest.report.render import render_csv, render_markdown, render_report

    source = GOLDEN / "result.json"
    if "--result" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            made = ab_results.make_result(Path(folder), arms=("twin", "ifa"), replicates=3, days=3)
        source.write_text(json.dumps(made, sort_keys=True, separators=(",", ":")) + "\n")
    result = json.loads(source.read_text())
    (GOLDEN / "report.html").write_text(render_report(result))
    (GOLDEN / "report.md").write_text(render_markdown(result))
    (GOLDEN / "report.csv").write_text(render_csv(result))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    main()
