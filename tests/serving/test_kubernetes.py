"""deploy/kubernetes and the Dockerfile, held to their rules without a cluster."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from kuberay_fields import RESOURCES
from ray.dashboard import http_server_agent
from ray.serve.schema import ServeDeploySchema
from test_config_file import unknown_keys

from ifa_ray.data.run_folder import RunFolder
from ifa_ray.serving.settings import AppSettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
README = (ROOT / "deploy" / "README.md").read_text()
KUBERNETES = "1.34"  # whose schemas of pods are meant; the fields used here are much older
EACH = pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])


def manifest(name):
    return yaml.safe_load((FOLDER / name).read_text())


def cluster(resource):
    spec = resource["spec"]
    return spec.get("rayClusterConfig") or spec["rayClusterSpec"]


def ray_pods(resource):
    """The specs of the cluster's pods."""
    found = cluster(resource)
    groups = [found["headGroupSpec"], *found["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def served():
    return yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"])


def job():
    return shlex.split(manifest("rayjob.yaml")["spec"]["entrypoint"])


def check_pod(spec):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@EACH
def test_kuberay_and_kubernetes_know_every_field_and_containers_are_bounded_and_not_roots(name):
    found = manifest(name)
    jsonschema.validate(found, RESOURCES[found["kind"]])
    pods = ray_pods(found)
    if "submitterPodTemplate" in found["spec"]:
        pods.append(found["spec"]["submitterPodTemplate"]["spec"])
    for spec in pods:
        check_pod(spec)
        assert spec["securityContext"]["runAsNonRoot"]
        (container,) = spec["containers"]
        assert set(container["resources"]) == {"requests", "limits"}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_mistyped_field_is_found():
    found = manifest("rayservice.yaml")
    (spec, *_) = ray_pods(found)
    cluster(found)["headGroupSpecs"] = cluster(found).pop("headGroupSpec")
    with pytest.raises(jsonschema.ValidationError, match="headGroupSpecs"):
        jsonschema.validate(found, RESOURCES["RayService"])
    spec["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        check_pod(spec)


def test_kubernetes_knows_every_field_of_the_storage():
    kubernetes_validate.validate(manifest("storage.yaml"), KUBERNETES, strict=True)
    assert manifest("storage.yaml")["spec"]["accessModes"] == ["ReadWriteMany"]


@EACH
def test_pods_of_ray_are_probed_without_a_token_and_share_the_storage(name):
    assert '"/api/healthz"' in Path(http_server_agent.__file__).read_text()
    for spec in ray_pods(manifest(name)):
        (container,) = spec["containers"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/api/healthz"
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        claim = volumes[mounts["/shared"]]["persistentVolumeClaim"]["claimName"]
        assert claim == manifest("storage.yaml")["metadata"]["name"]
        assert "emptyDir" in volumes[mounts["/dev/shm"]]


@EACH
def test_ray_is_the_installed_one_and_asks_for_a_token_that_a_secret_holds(name):
    assert cluster(manifest(name))["rayVersion"] == ray.__version__
    options = cluster(manifest(name))["authOptions"]
    assert options == {"mode": "token", "secretName": "ifa-ray-token"}
    assert f"secret generic {options['secretName']} --from-literal=auth_token=" in README


def test_the_service_runs_code_of_the_image_with_keys_and_settings_that_are_known():
    assert list(unknown_keys(served(), ServeDeploySchema)) == []
    ServeDeploySchema.model_validate(served())
    (application,) = served()["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert "runtime_env" not in application
    assert AppSettings.from_dict(application["args"]).name == application["name"]


def test_a_port_that_is_open_to_others_asks_for_a_token_that_a_secret_holds():
    assert served()["http_options"]["host"] == "0.0.0.0"
    (application,) = served()["applications"]
    for spec in ray_pods(manifest("rayservice.yaml")):
        environment = {one["name"]: one for one in spec["containers"][0]["env"]}
        variable = environment[application["args"]["token_env"]]
        reference = variable["valueFrom"]["secretKeyRef"]
        made = f"secret generic {reference['name']} --from-literal={reference['key']}="
        assert made in README


def test_replicas_fit_the_workers():
    (application,) = served()["applications"]
    (group,) = cluster(manifest("rayservice.yaml"))["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = group["replicas"] * float(container["resources"]["limits"]["cpu"])
    assert application["args"]["num_replicas"] * application["args"]["num_cpus"] <= cpus


def test_the_service_reads_what_the_job_a_command_of_the_simulator_writes():
    assert job()[:4] == ["python", "-m", "simulator", "run"]
    run = RunFolder(Path(job()[job().index("--out") + 1]))
    ((slot,),) = [application["args"]["slots"] for application in served()["applications"]]
    assert slot == {"items": str(run.items(0)), "checkpoints": str(run.models("ifa", 0))}


def dockerfile():
    """Instructions, with continued lines joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def test_the_image_holds_every_package_and_every_file_that_building_reads():
    copied = [path for word, rest in dockerfile() if word == "COPY" for path in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.rstrip("*") for pattern in include}
    wanted = {settings["project"]["readme"], *settings["project"]["license-files"], *packages}
    assert wanted | {"pyproject.toml", "constraints.txt"} <= set(copied)
    python = settings["project"]["requires-python"].removeprefix(">=")
    assert ("ARG", f"PYTHON={python}") in dockerfile()


def test_the_image_is_not_roots_and_has_both_kinds():
    instructions = dockerfile()
    users = [rest for word, rest in instructions if word == "USER"]
    assert users
    assert all(user.split(":")[0].isdigit() and user.split(":")[0] != "0" for user in users)
    stages = {rest.split()[-1] for word, rest in instructions if word == "FROM" and " AS " in rest}
    assert {"cpu", "gpu"} <= stages
    assert instructions[-1] == ("FROM", "${DEVICE}")
    assert ("ARG", "DEVICE=cpu") in instructions


def test_the_image_has_the_environment_of_the_shell_script():
    script = (ROOT / "deploy" / "env.sh").read_text()
    exported = dict(re.findall(r"export (\w+)=(\S+)", script))
    exported.pop("HOME")
    (image,) = [
        dict(pair.split("=", 1) for pair in rest.split())
        for word, rest in dockerfile()
        if word == "ENV" and "RAY_AUTH_MODE" in rest
    ]
    # A worker's token comes from the Secret; usage reports are off in both.
    assert {name: image.get(name) for name in exported} == exported
