"""The same job on a cluster, by the commands of README.md and deploy/README.md."""

import json

import pytest
from private_cluster import PrivateCluster, copy_repository

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    copy_repository(folder)
    cluster = PrivateCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_a_submitted_job_runs_the_comparison_and_its_ranker_is_then_served(cluster):
    out = cluster.folder / "runs" / "job"
    printed = cluster.shell(
        f"ray job submit --address {cluster.address} --working-dir . -- "
        f"python -m simulator run --preset smoke --arms twin,ifa,oracle --out {out}",
        timeout_s=300,
    )
    assert str(out / "report.html") in printed
    result = json.loads((out / "result.json").read_bytes())
    assert result["run"]["arms"] == ["twin", "ifa", "oracle"]
    assert all(check["ok"] for check in result["ab"]["health"])
    # A job leaves the cluster to others: its applications are gone.
    status = cluster.shell(f"serve status -a {cluster.address}")
    assert "run-" not in status
    # What the job trained is what `deploy/config.yaml` names: runs/latest.
    config = (cluster.folder / "deploy" / "config.yaml").read_text()
    (cluster.folder / "deploy" / "test.yaml").write_text(config.replace("8000", str(cluster.http)))
    cluster.shell(f"serve deploy -a {cluster.address} deploy/test.yaml")
    assert "version" in cluster.shell(_CLIENT.format(port=cluster.http), timeout_s=120)


_CLIENT = """python - <<'PY'
import time
import httpx, numpy as np
from ifa_ray.data.log import read_items
from ifa_ray.schema import History, RankRequest
from ifa_ray.serving.client import RankClient

for _ in range(300):
    try:
        if httpx.get("http://127.0.0.1:{port}/ifa/readyz").status_code == 200:
            break
    except httpx.TransportError:
        pass
    time.sleep(0.2)
ids = read_items("runs/latest/worlds/replicate=0/items.parquet").video_id_N[:100]
request = RankRequest(
    request_id=1, user_id=1, time_ms=1, candidates_C=ids, history=History.empty(), k=10
)
with RankClient("http://127.0.0.1:{port}/ifa") as client:
    answer = client.rank([request])[0]
assert np.isin(answer.ids_K, ids).all()
print("version", answer.model_version)
PY"""
