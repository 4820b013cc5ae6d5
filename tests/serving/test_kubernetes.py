"""deploy/kubernetes and the Dockerfile, held to their rules without a cluster."""

import importlib
import os
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from kuberay_fields import RESOURCES, structural
from ray.serve.schema import ServeDeploySchema
from test_config_file import unknown_keys

from ifa_ray.serving.settings import AppSettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.34"  # whose schemas of pods are meant; the fields used here are much older
FILES = ["rayjob.yaml", "rayservice.yaml"]
CRDS = os.environ.get("KUBERAY_CRDS")
"""A folder with ray.io_rayjobs.yaml and ray.io_rayservices.yaml: KubeRay's, or what `kubectl get
crd rayservices.ray.io -o yaml` prints."""


def manifest(name):
    return yaml.safe_load((FOLDER / name).read_text())


def cluster(resource):
    spec = resource["spec"]
    return spec.get("rayClusterConfig") or spec["rayClusterSpec"]


def ray_pods(resource):
    """Pods of the cluster, by name."""
    found = cluster(resource)
    yield "head", found["headGroupSpec"]["template"]
    for group in found["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def all_pods(resource):
    yield from ray_pods(resource)
    if "submitterPodTemplate" in resource["spec"]:
        yield "submitter", resource["spec"]["submitterPodTemplate"]


PODS = [
    pytest.param(pod["spec"], id=f"{name}: {which}")
    for name in FILES
    for which, pod in all_pods(manifest(name))
]


@pytest.mark.parametrize("name", FILES)
def test_kuberay_knows_every_field(name):
    found = manifest(name)
    jsonschema.validate(found, RESOURCES[found["kind"]])


@pytest.mark.skipif(CRDS is None, reason="KUBERAY_CRDS names no folder of definitions")
@pytest.mark.parametrize("name", FILES)
def test_the_real_definition_accepts_the_manifest(name):
    found = manifest(name)
    path = Path(CRDS) / f"ray.io_{found['kind'].lower()}s.yaml"
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    ]
    schema = structural(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(found, schema)
    found["spec"]["bogus"] = 1
    with pytest.raises(jsonschema.ValidationError, match="bogus"):
        jsonschema.validate(found, schema)


def test_a_mistyped_field_is_found():
    found = manifest("rayservice.yaml")
    cluster(found)["headGroupSpecs"] = cluster(found).pop("headGroupSpec")
    with pytest.raises(jsonschema.ValidationError, match="headGroupSpecs"):
        jsonschema.validate(found, RESOURCES["RayService"])


def as_pod(spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize("spec", PODS)
def test_kubernetes_knows_every_field_of_every_pod(spec):
    kubernetes_validate.validate(as_pod(spec), KUBERNETES, strict=True)


def test_kubernetes_would_refuse_a_mistyped_field_of_a_pod():
    (_, pod), *_ = ray_pods(manifest("rayjob.yaml"))
    pod["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(as_pod(pod["spec"]), KUBERNETES, strict=True)


def test_kubernetes_knows_every_field_of_the_storage():
    kubernetes_validate.validate(manifest("storage.yaml"), KUBERNETES, strict=True)
    assert manifest("storage.yaml")["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("spec", PODS)
def test_every_container_is_bounded_and_nobodys_root(spec):
    assert spec["securityContext"]["runAsNonRoot"]
    (container,) = spec["containers"]
    assert set(container["resources"]) == {"requests", "limits"}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("name", FILES)
def test_pods_of_ray_are_probed_and_share_the_storage(name):
    for _, pod in ray_pods(manifest(name)):
        (container,) = pod["spec"]["containers"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/api/healthz"
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        claim = volumes[mounts["/shared"]]["persistentVolumeClaim"]["claimName"]
        assert claim == manifest("storage.yaml")["metadata"]["name"]
        assert "emptyDir" in volumes[mounts["/dev/shm"]]


def test_the_health_route_of_the_probes_is_one_that_ray_answers_without_a_token():
    from ray.dashboard import http_server_agent

    source = Path(http_server_agent.__file__).read_text()
    assert '"/api/healthz"' in source


@pytest.mark.parametrize("name", FILES)
def test_ray_asks_for_a_token_that_a_secret_holds(name):
    options = cluster(manifest(name))["authOptions"]
    assert options == {"mode": "token", "secretName": "ifa-ray-token"}
    assert f"secret generic {options['secretName']} --from-literal=auth_token=" in readme()


@pytest.mark.parametrize("name", FILES)
def test_the_version_of_ray_is_the_installed_one(name):
    assert cluster(manifest(name))["rayVersion"] == ray.__version__


def served():
    return yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"])


def test_serve_knows_every_key_of_the_service():
    assert list(unknown_keys(served(), ServeDeploySchema)) == []
    ServeDeploySchema.model_validate(served())


def test_the_service_runs_code_of_the_image_with_valid_settings():
    (application,) = served()["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert "runtime_env" not in application
    settings = AppSettings.from_dict(application["args"])
    assert settings.name == application["name"]


def test_a_port_that_is_open_to_others_asks_for_a_token_that_a_secret_holds():
    assert served()["http_options"]["host"] == "0.0.0.0"
    (application,) = served()["applications"]
    name = application["args"]["token_env"]
    for _, pod in ray_pods(manifest("rayservice.yaml")):
        (container,) = pod["spec"]["containers"]
        (variable,) = [one for one in container["env"] if one["name"] == name]
        reference = variable["valueFrom"]["secretKeyRef"]
        made = f"secret generic {reference['name']} --from-literal={reference['key']}="
        assert made in readme()


def test_replicas_fit_the_workers():
    (application,) = served()["applications"]
    (group,) = cluster(manifest("rayservice.yaml"))["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = group["replicas"] * float(container["resources"]["limits"]["cpu"])
    assert application["args"]["num_replicas"] * application["args"]["num_cpus"] <= cpus


def test_the_service_reads_what_the_job_writes():
    from ifa_ray.data.run_folder import RunFolder

    command = shlex.split(manifest("rayjob.yaml")["spec"]["entrypoint"])
    run = RunFolder(Path(command[command.index("--out") + 1]))
    ((slot,),) = [application["args"]["slots"] for application in served()["applications"]]
    assert slot == {"items": str(run.items(0)), "checkpoints": str(run.models("ifa", 0))}


def test_the_job_is_a_command_of_the_simulator():
    from simulator.__main__ import main

    command = shlex.split(manifest("rayjob.yaml")["spec"]["entrypoint"])
    assert command[:4] == ["python", "-m", "simulator", "run"]
    assert callable(main)


def readme():
    return (ROOT / "deploy" / "README.md").read_text()


def dockerfile():
    """Instructions, with continued lines joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def copied():
    return [path for word, rest in dockerfile() if word == "COPY" for path in rest.split()[:-1]]


def test_every_path_that_the_image_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_the_image_holds_every_package_and_every_file_that_building_reads():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        pattern.rstrip("*")
        for pattern in settings["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    wanted = {settings["project"]["readme"], *settings["project"]["license-files"], *packages}
    assert wanted | {"pyproject.toml", "constraints.txt"} <= set(copied())


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


def test_the_image_has_the_python_that_is_required():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (version,) = [rest.removeprefix("PYTHON=") for word, rest in dockerfile()
                  if word == "ARG" and rest.startswith("PYTHON=")]  # fmt: skip
    assert settings["project"]["requires-python"] == f">={version}"
