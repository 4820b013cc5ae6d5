import json
import platform
import re
import subprocess
import sys

from ifa_ray.provenance import provenance


def test_provenance_is_json_and_names_versions_hardware_and_date() -> None:
    found = json.loads(json.dumps(provenance()))
    assert found["versions"]["python"] == platform.python_version()
    assert {"torch", "numpy", "polars"} <= found["versions"].keys()
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["cpu"]
    assert found["date"].endswith("+00:00")


def test_the_commit_is_a_full_hash_or_absent() -> None:
    commit = provenance()["git_commit"]
    assert commit is None or re.fullmatch("[0-9a-f]{40}", commit)


def test_provenance_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys; from ifa_ray.provenance import provenance; provenance(); "
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
