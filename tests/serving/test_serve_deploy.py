"""What deploy/README.md says, done: a head, config.yaml, its two examples, a new version."""

import dataclasses
import json
import os
import re
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from private_cluster import ROOT, PrivateCluster, copy_repository, wait_until

from ifa_ray.checkpoints.format import load_model, save_checkpoint, version_folder
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_items
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.errors import RequestError, ServingError
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import FROM_STORE, History, RankRequest
from ifa_ray.serving import wire
from ifa_ray.serving.client import RankClient
from ifa_ray.serving.sequence_store import Append, part
from ifa_ray.training.learner import Learner

pytestmark = pytest.mark.cluster

NUM_ITEMS = 60
SLOT = {"items": "runs/latest/worlds/replicate=0/items.parquet"}
(SPANS,) = re.findall(
    r"```py spans.py\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), flags=re.DOTALL
)


def make_items():
    rng = np.random.default_rng(0)
    return ItemTable(
        video_id_N=np.arange(NUM_ITEMS, dtype=np.int32),
        author_id_N=rng.integers(0, 9, NUM_ITEMS).astype(np.int32),
        category_N=rng.integers(0, 5, NUM_ITEMS).astype(np.int32),
        duration_ms_N=rng.integers(2_000, 90_000, NUM_ITEMS).astype(np.int32),
        upload_ms_N=np.arange(NUM_ITEMS, dtype=np.int64) * 3_600_000,
        content_ND=rng.normal(size=(NUM_ITEMS, 4)).astype(np.float32),
    )


def make_request(request_id=1):
    rng = np.random.default_rng(request_id)
    return RankRequest(
        request_id=request_id,
        user_id=7,
        time_ms=1_700_000_000_000,
        candidates_C=rng.permutation(NUM_ITEMS)[:40].astype(np.int32),
        history=History(
            ids_T=rng.integers(0, NUM_ITEMS, 50).astype(np.int32),
            actions_T=rng.integers(0, 128, 50).astype(np.uint8),
            times_ms_T=1_600_000_000_000 + np.arange(50, dtype=np.int64),
        ),
        k=5,
    )


def make_learner(items, seed):
    """A model whose weights differ from those of any other seed."""
    model = ModelConfig(name="ifa", width=8, num_heads=2, tower_widths=(8,))
    return Learner(model, TrainingConfig(), items, seed)


class Deployed:
    """The served repository, and the same models in this process."""

    def __init__(self, folder):
        self.folder = folder
        copy_repository(folder)
        shutil.copy(Path(__file__).with_name("slow_ranker.py"), folder)
        run = RunFolder(folder / "runs" / "first")
        self.models = run.models("ifa", 0)
        self.items = make_items()
        write_items(run.items(0), self.items)
        (folder / "runs" / "latest").symlink_to("first", target_is_directory=True)
        self.publish(0)
        self.cluster = PrivateCluster(folder)
        (folder / "spans.py").write_text(SPANS)
        self.cluster.environment.update(
            RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH="spans:processors",
            RAY_SERVE_TRACING_SAMPLING_RATIO="0",  # a caller's own trace says itself if it is
        )
        self.url = f"http://127.0.0.1:{self.cluster.http}"

    def publish(self, version):
        """Writes a version."""
        save_checkpoint(
            version_folder(self.models, version), make_learner(self.items, seed=version),
            version=version, log_watermark={}, metrics={},
        )  # fmt: skip

    def rank_here(self, requests, version):
        model = load_model(version_folder(self.models, version), self.items)
        return ModelRanker(model, self.items, version).rank(requests)

    def deploy(self, **applications):
        """Deploys deploy/config.yaml on a free port, with more applications if wanted."""
        path = self.folder / "deploy" / "config.yaml"
        config = yaml.safe_load((ROOT / "deploy" / "config.yaml").read_text())
        config["http_options"]["port"] = self.cluster.http
        config["applications"][0]["args"]["num_cpus"] = 0.5
        config["applications"] += [
            {
                "name": name,
                "route_prefix": f"/{name}",
                "import_path": "ifa_ray.serving.app:build_app",
                "args": {"name": name, "num_cpus": 0.5, **args},
                "deployments": [{"name": "Ranker"}],
            }
            for name, args in applications.items()
        ]
        path.write_text(yaml.safe_dump(config))
        self.cluster.shell(f"serve deploy -a {self.cluster.address} deploy/config.yaml")

    def status(self):
        """Applications as `serve status` shows them."""
        shown = self.cluster.shell(f"serve status -a {self.cluster.address}")
        return yaml.safe_load(shown)["applications"]

    def status_once_settled(self, name):
        def settled():
            application = self.status()[name]
            return application if application["status"] != "DEPLOYING" else None

        return wait_until(settled, 120, f"application {name}")


@pytest.fixture(scope="module")
def deployed():
    with tempfile.TemporaryDirectory(prefix="ifa-deploy-") as folder:
        made = Deployed(Path(folder))
        try:
            made.cluster.start()
            made.deploy()
            assert made.status_once_settled("ifa")["status"] == "RUNNING"
            yield made
        finally:
            made.cluster.stop()


def assert_same_ranking(served, expected):
    for one, other in zip(served, expected, strict=True):
        assert one.request_id == other.request_id
        assert one.model_version == other.model_version
        assert one.ids_K.tolist() == other.ids_K.tolist()
        np.testing.assert_array_equal(one.scores_K, other.scores_K)


def test_a_served_ranking_is_the_models_own(deployed):
    requests = [make_request(1), make_request(2)]
    with RankClient(f"{deployed.url}/ifa") as client:
        served = client.rank(requests)
        assert_same_ranking(served, deployed.rank_here(requests, served[0].model_version))


def readme_block(language, containing):
    text = (ROOT / "deploy" / "README.md").read_text()
    (block,) = [
        code
        for found, code in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
        if found == language and containing in code
    ]
    assert "http://127.0.0.1:8000" in block
    return block


def test_the_readmes_curl_example_ranks(deployed):
    command = readme_block("bash", "curl").replace("http://127.0.0.1:8000", deployed.url)
    answer = json.loads(deployed.cluster.shell(command))
    assert answer["request_id"] == 1
    assert len(set(answer["ids"])) == 3
    assert set(answer["ids"]) <= {1, 2, 3, 4, 5}
    assert answer["scores"] == sorted(answer["scores"], reverse=True)


def test_the_readmes_python_example_ranks(deployed):
    program = readme_block("python", "RankClient").replace("http://127.0.0.1:8000", deployed.url)
    (deployed.folder / "example.py").write_text(program)
    printed = deployed.cluster.shell("python example.py")
    assert re.search(r"version \d+", printed)


def test_health_and_documentation_are_served_below_the_prefix(deployed):
    assert httpx.get(f"{deployed.url}/ifa/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{deployed.url}/ifa/readyz").json()["status"] == "ready"
    document = httpx.get(f"{deployed.url}/ifa/openapi.json").json()
    assert "/v1/rank" in document["paths"]


def test_a_trace_goes_on_in_the_proxy_and_the_replica(deployed):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = httpx.post(
        f"{deployed.url}/ifa/v1/rank",
        content=wire.encode_requests([make_request()]),
        headers={"content-type": wire.ARROW, "traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
        timeout=30,
    )
    assert answer.status_code == 200

    def names():
        """Of the spans; requests without a trace of their own are not sampled, and have none."""
        text = "".join(path.read_text() for path in deployed.folder.glob("spans-*.json"))
        assert set(re.findall(r'"trace_id": "0x(\w+)"', text)) <= {trace}
        return set(re.findall(r'"name": "(\w+) ', text))

    wanted = {"proxy_http_request", "route_to_replica", "replica_handle_request"}
    wait_until(lambda: names() >= wanted, 20, "spans")


def test_a_request_that_breaks_the_contract_is_refused_with_the_rule(deployed):
    unknown = make_request()
    unknown.candidates_C[3] = 99_999
    with RankClient(f"{deployed.url}/ifa") as client:
        with pytest.raises(RequestError, match="99999 is not in the catalogue"):
            client.rank([unknown])
        with pytest.raises(RequestError, match=r"slot == 1, must be in \[0, 0\]"):
            client.rank([make_request()], slot=1)
        with pytest.raises(ServingError, match="409"):
            client.rank([make_request()], min_version=77)


def test_a_new_version_is_served_without_a_restart(deployed):
    with RankClient(f"{deployed.url}/ifa") as client:
        (before,) = client.rank([make_request()])
        deployed.publish(before.model_version + 1)
        (after,) = client.rank([make_request()], min_version=before.model_version + 1)
        (then,) = client.rank([make_request()])
    assert after.model_version == then.model_version == before.model_version + 1
    assert_same_ranking(
        [after, then], deployed.rank_here([make_request()], after.model_version) * 2
    )
    assert after.scores_K.tolist() != before.scores_K.tolist()


def test_a_missing_path_shows_in_serve_status_and_a_full_queue_is_503(deployed):
    deployed.deploy(
        broken={"slots": [{**SLOT, "checkpoints": "runs/nowhere"}]},
        slow={
            "slots": [SLOT],
            "ranker": "slow_ranker:SlowRanker",
            "max_ongoing_requests": 1,
            "max_queued_requests": 1,
        },
    )
    broken = deployed.status_once_settled("broken")
    assert broken["status"] == "DEPLOY_FAILED"
    assert "slots[0].checkpoints == 'runs/nowhere', must be there" in broken["message"]
    assert deployed.status_once_settled("slow")["status"] == "RUNNING"

    def refusal(_):
        body = wire.encode_requests([make_request()])
        headers = {"content-type": wire.ARROW}
        return httpx.post(f"{deployed.url}/slow/v1/rank", content=body, headers=headers, timeout=30)

    def ask(retries):
        with RankClient(f"{deployed.url}/slow", retries=retries, timeout_s=30) as client:
            try:
                client.rank([make_request()])
            except ServingError as error:
                return str(error)
            return "ranked"

    with ThreadPoolExecutor(6) as pool:
        impatient = list(pool.map(ask, [0] * 6))
        refused = [answer for answer in pool.map(refusal, range(6)) if answer.status_code == 503]
        patient = list(pool.map(ask, [20] * 3))
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert "ranked" in impatient
    assert any("failed 1 time(s)" in answer for answer in impatient)
    assert patient == ["ranked"] * 3
    assert deployed.status()["ifa"]["status"] == "RUNNING"  # left alone by its neighbours


def test_histories_live_with_the_service_through_kills_and_restarts(deployed):
    kept = {
        "slots": [{**SLOT, "checkpoints": "runs/latest/models/ifa/replicate=0"}],
        "sequence_store": "histories",
        "state_bytes": 10**7,
    }
    deployed.deploy(kept=kept, doubled={**kept, "num_replicas": 2})
    doubled = deployed.status_once_settled("doubled")
    assert doubled["status"] == "DEPLOY_FAILED"
    assert "num_replicas == 2, must be 1 with sequence_store" in doubled["message"]
    assert deployed.status_once_settled("kept")["status"] == "RUNNING"
    whole = make_request()
    alone = dataclasses.replace(whole, history=FROM_STORE)

    def assert_ranked_alike(client, watermark):
        """By user id alone, as with the history in the request."""
        asked = dataclasses.replace(whole, history=part(whole.history, 0, watermark))
        (stored,), (brought,) = client.rank([alone]), client.rank([asked])
        assert (stored.watermark, brought.watermark) == (watermark, None)
        assert_same_ranking([brought], deployed.rank_here([asked], brought.model_version))
        np.testing.assert_allclose(stored.scores_K, brought.scores_K, rtol=0, atol=3e-5)

    def append_of(begin, stop):
        new = part(whole.history, begin, stop)
        return Append(user_id=whole.user_id, begin=begin, history=new)

    def replica():
        (process,) = [
            process
            for process in deployed.cluster.processes()
            if "ray::ServeReplica:kept" in " ".join(process.cmdline())
        ]
        return process.pid

    def exported_outcomes():
        lines = deployed.cluster.metrics("ray_ifa_ray_state_outcomes", 'application="kept"')
        return {
            outcome: float(line.split()[-1])
            for line in lines
            for outcome in re.findall(r'outcome="(\w+)"', line)
        }

    with RankClient(f"{deployed.url}/kept", timeout_s=60, retries=99) as client:
        assert_ranked_alike(client, 0)
        assert client.append([append_of(0, 30)])[0].watermark == 30
        assert_ranked_alike(client, 30)
        assert client.append([append_of(25, 40)])[0].appended == 10
        assert_ranked_alike(client, 40)
        (states,) = client.models()["states"]
        assert states["outcomes"]["behind"] == 2
        wait_until(lambda: exported_outcomes() == {"missing": 1, "behind": 2}, 60, "metrics")
        (version,) = deployed.cluster.metrics("ray_ifa_ray_version{", 'application="kept"')
        assert float(version.split()[-1]) == client.rank([alone])[0].model_version
        assert deployed.cluster.metrics("ray_ifa_ray_stage_ms_bucket", 'stage="append"')
        first = replica()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: deployed.status()["kept"]["status"] == "RUNNING", 60, "a new replica")
        wait_until(lambda: ranked(client, alone), 60, "an answer")
        assert_ranked_alike(client, 40)
        assert replica() != first
        client.append([append_of(40, 50)])
    deployed.deploy()
    wait_until(lambda: "kept" not in deployed.status(), 60, "the application's end")
    deployed.deploy(kept=kept)
    assert deployed.status_once_settled("kept")["status"] == "RUNNING"
    with RankClient(f"{deployed.url}/kept", timeout_s=60, retries=99) as client:
        assert_ranked_alike(client, 50)
        assert client.erase(whole.user_id) == 50
        assert_ranked_alike(client, 0)


def ranked(client, request):
    """Whether it was; a kill may answer 500, which clients do not repeat."""
    try:
        return client.rank([request])
    except ServingError:
        return None
