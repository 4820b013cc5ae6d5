"""The examples of docs/serving.md are run as printed, against a replica behind a real socket."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
import yaml
from fastapi import FastAPI
from serving_fakes import SETTINGS, LargestIdFirst

from ifa_ray.serving.app import METRICS, STAGES
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.versions import Loaded, Slot

ROOT = Path(__file__).parents[3]
DOC = (ROOT / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", DOC, flags=re.DOTALL)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Of a replica that keeps histories, below the prefix of the document."""
    folder = tmp_path_factory.mktemp("histories")
    settings = SETTINGS.replace({"sequence_store": str(folder)})
    replica = RankerDeployment(settings, [Slot(Loaded(0, LargestIdFirst()))])
    api = FastAPI()
    api.mount("/ifa", build_http(replica))
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            replica.close()


def run(command, **kwargs):
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **kwargs
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_append_rank_and_erase(url):
    programs = [(kind, text) for kind, text in BLOCKS if kind in ("bash", "python")]
    assert [kind for kind, _ in programs] == ["bash", "bash", "python"]
    append, rank, client = (text.replace("http://127.0.0.1:8000", url) for _, text in programs)
    for appended in (2, 0):
        answer = json.loads(run(["bash", "-ec", append]))
        assert answer == {"user_id": 7, "watermark": 2, "appended": appended}
    ranked = json.loads(run(["bash", "-ec", rank]))
    assert (ranked["ids"], ranked["watermark"]) == ([5, 4, 3], 2)
    printed = run([sys.executable, "-c", client])
    assert printed == "[5 4 3] from 4 impressions\nerased 4\n"
    assert json.loads(run(["bash", "-ec", rank]))["watermark"] == 0


def test_the_printed_settings_are_settings():
    texts = [text for kind, text in BLOCKS if kind == "yaml"]
    assert len(texts) == 4
    slot = {"items": "items", "checkpoints": "models"}
    values = [yaml.safe_load(text)["args"] for text in texts]
    shards = [one for one in values if "store_options" in one]
    for one in shards:
        AppSettings.from_dict({"name": "ifa", "slots": [slot], **one})
    assert len(shards) == 2
    printed = {k: v for one in values if one not in shards for k, v in one.items()}
    settings = AppSettings.from_dict({"name": "ifa", "slots": [slot], **printed})
    assert settings.store_bytes == AppSettings.store_bytes
    assert settings.sequence_store == "histories"


def test_every_route_is_in_the_table():
    replica = RankerDeployment(SETTINGS, [Slot(Loaded(0, LargestIdFirst()))])
    paths = {
        (method.upper(), path.replace("{user_id}", "{id}"))
        for path, methods in build_http(replica).openapi()["paths"].items()
        for method in methods
    }
    shown = set(re.findall(r"`(GET|POST|DELETE) (/[\w/{}]+)", DOC))
    assert paths <= shown


def test_every_metric_is_in_the_table():
    names = {f"ray_ifa_ray_{name}" for name in METRICS}
    assert names == set(re.findall(r"`(ray_ifa_ray_\w+)`", DOC))
    assert set(re.findall(r"`(wait|rank|append|erase)`", DOC)) >= set(STAGES)
