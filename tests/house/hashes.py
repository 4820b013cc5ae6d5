"""Hashes of what the commands write, to hold a refactoring to the same bytes.

    python tests/house/hashes.py --out before.json
    ... change the code ...
    python tests/house/hashes.py --out after.json --against before.json

Runs the program as a user would, in a folder of its own: a `smoke` run on Ray and in plain
processes, an `evaluate` and a `train` on its log, and one request served over HTTP. What is a
measurement (seconds, memory, dates, provenance) is left out; everything else is hashed: all tables,
all weights, all metrics, the report's numbers, the answers. Two machines may differ in the last
bit of a product, so files are compared on one machine, never committed.

Ends with status 1, and names what differs, where `--against` is another.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("plain", "ray", "evaluate", "train", "served")
# Names of values that are measured or say where and when: everything else must repeat.
MEASURED = re.compile(
    r"(_s|_ms|seconds|_per_s|memory|memory_bytes|started|wall|cpu|cost|costs|time|times|programs?)$"
    r"|^(provenance|machine|date|guardrails|git_dirty|versions?|git_commit|command|host)$"
    r"|^(parts|out|root|path|facts|data)$"
    # What was asked for is no result, and may be written in other words.
    r"|^(config|config_hash|settings|settings_hash|model|training|schema|sha256|bytes|files)$"
)
NOT_HASHED = re.compile(
    r"timing|training_time|times|parts|(config|settings)\.json|\.lock|events\.out"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="write the hashes here")
    parser.add_argument("--against", type=Path, help="compare with what another call wrote")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    args = parser.parse_args()
    only = args.only.split(",")
    with tempfile.TemporaryDirectory(prefix="hashes-") as work:
        found = hashes(Path(work), only)
    args.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{len(found)} hashes in {args.out}")
    return 0 if args.against is None else compare(json.loads(args.against.read_text()), found, only)


def hashes(work, only):
    """Hashes of the parts that are asked for, by `part/file`."""
    found = {}
    plain = work / "plain"
    command("simulator", "run", "--preset", "smoke", "--plain", "2", "--out", plain)
    if "plain" in only:
        found |= of_folder("plain", plain)
    if "ray" in only:
        command("simulator", "run", "--preset", "smoke", "--out", work / "ray")
        found |= of_folder("ray", work / "ray")
    if "evaluate" in only:
        found |= of_parts("evaluate/numbers", evaluation(plain, work))
    if "train" in only:
        trained = work / "trained"
        command("ifa_ray", "train", "--data", plain, "--arm", "warmup", "--model", "ifa_plus",
                "--out", trained, "--width", "16", "--max-history", "100", "--publish-every", "8",
                "--metrics-every", "4", "--id-buckets", "2000", "--tower-widths", "16",
                "--cross-features", "channel,category,author", "--max-auc-drop", "none",
                "--max-loss-ratio", "none", "--batch-size", "2")  # fmt: skip
        found |= of_folder("train", trained)
    if "served" in only:
        found["served/answers"] = of_json(served(plain))
    return found


def evaluation(run, work):
    path = work / "evaluation.json"
    command("ifa_ray", "evaluate", "--data", run, "--arm", "warmup", "--models", "all",
            "--seeds", "1", "--replicate", "0", "--max-requests", "60", "--timed-requests", "0",
            "--top-k", "10", "--width", "16", "--json", path)  # fmt: skip
    return json.loads(path.read_text())


def served(run):
    """Answers to the request that `serve` prints, and to it with other candidates."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "ifa_ray", "serve", "--local", str(run), "--model", "ifa_plus",
         "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        printed = ""
        for line in process.stdout:
            printed += line
            if "stop: Ctrl-C" in line:
                break
        url = re.search(r"http://127\.0\.0\.1:\d+/\S*rank", printed).group(0)
        body = json.loads(re.search(r"-d '(\{.*\})'", printed, re.DOTALL).group(1))
        token = re.search(r"Authorization: ([^'\"]+)", printed)
        other = {**body, "candidates": list(range(100)), "k": 10}
        return [ask(url, each, token and token.group(1)) for each in (body, other)]
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


def ask(url, body, token):
    headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def command(module, *arguments):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{module} {arguments}: status {done.returncode}\n{done.stderr[-3000:]}")
    print(f"{time.monotonic() - started:6.1f} s  {module} {arguments[0]}", flush=True)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def of_folder(part, root):
    """Of tables and weights the bytes, of JSON the values that are not measured."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink() or not path.is_file() or NOT_HASHED.search(name):
            continue
        if path.suffix == ".parquet":
            found[f"{part}/{name}"] = digest(path.read_bytes())
        elif path.suffix == ".safetensors":
            found[f"{part}/{name}"] = of_tensors(path.read_bytes())
        elif path.name == "result.json":
            found |= of_parts(f"{part}/{name}", json.loads(path.read_bytes()))
        elif path.suffix == ".json":
            found[f"{part}/{name}"] = of_json(json.loads(path.read_bytes()))
        elif path.suffix == ".jsonl":
            lines = path.read_text().splitlines()
            found[f"{part}/{name}"] = of_json([json.loads(line) for line in lines])
    return found


def of_parts(name, values, depth=2):
    """By part, so that a difference has an address."""
    found = {}
    for key, value in values.items():
        if not MEASURED.search(key):
            if depth and isinstance(value, dict):
                found |= of_parts(f"{name}:{key}", value, depth - 1)
            else:
                found[f"{name}:{key}"] = of_json(value)
    return found


def of_tensors(data):
    """Of names, types, shapes and values; what else a file's header says is not of the weights."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    parts = [json.dumps({k: [v["dtype"], v["shape"]] for k, v in header.items()}, sort_keys=True)]
    for name in sorted(header):
        low, high = header[name]["data_offsets"]
        parts.append(digest(data[8 + size + low : 8 + size + high]))
    return digest("".join(parts).encode())


def of_json(values):
    return digest(json.dumps(unmeasured(values), sort_keys=True).encode())


def unmeasured(values):
    if isinstance(values, dict):
        return {k: unmeasured(v) for k, v in values.items() if not MEASURED.search(k)}
    return [unmeasured(v) for v in values] if isinstance(values, list) else values


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def compare(before, now, only):
    before = {name: value for name, value in before.items() if name.split("/")[0] in only}
    gone, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
    other = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    for what, names in (("gone", gone), ("new", new), ("different", other)):
        for name in names:
            print(f"{what}: {name}")
    same = len(before.keys() & now.keys()) - len(other)
    print(f"{same} equal, {len(other)} different, {len(gone)} gone, {len(new)} new")
    return 1 if gone or new or other else 0


if __name__ == "__main__":
    sys.exit(main())
