"""The configs in deploy/ against Serve's own models: Serve ignores a key that it does not know."""

import typing
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import LoggingConfig, RayActorOptionsSchema, ServeDeploySchema

from ifa_ray.errors import ConfigError
from ifa_ray.serving.app import DEPLOYMENT, build_app, deployment_for
from ifa_ray.serving.deployment import open_slot
from ifa_ray.serving.settings import AppSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = DEPLOY / "config.yaml"
# Serve types these loosely (a dict, or `Any` by default) and reads them with these models.
LOOSE = {"logging_config": LoggingConfig, "ray_actor_options": RayActorOptionsSchema}
FREE = {"args", "user_config", "runtime_env"}  # keys of the user's own


def models_in(annotation):
    """The pydantic models that a field's type names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def unknown_keys(values, model, where=""):
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{where}{key}"
            continue
        inner = [LOOSE[key]] if key in LOOSE else models_in(field.annotation)
        if key in FREE or not inner:
            continue
        for place, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, dict):
                label = f"{where}{key}[{place}]." if isinstance(value, list) else f"{where}{key}."
                # Of a union's models, the one that knows the most of these keys is meant.
                yield from min((list(unknown_keys(item, each, label)) for each in inner), key=len)


def config():
    return yaml.safe_load(CONFIG.read_text())


def with_everything_wanted():
    """The file as it is once what it has in comments is wanted."""
    text = CONFIG.read_text()
    head, tail = text.split("  # - name: twin\n")
    lines = ["  # - name: twin", *tail.splitlines()]
    return yaml.safe_load(head + "\n".join(line.replace("  # ", "  ", 1) for line in lines))


def gpu_config():
    return yaml.safe_load((DEPLOY / "config.gpu.yaml").read_text())


ALL = pytest.mark.parametrize(
    "values", [config(), with_everything_wanted(), gpu_config()], ids=["cpu", "all", "gpu"]
)


@ALL
def test_serve_knows_every_key(values):
    assert list(unknown_keys(values, ServeDeploySchema)) == []
    ServeDeploySchema.model_validate(values)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: c.update(proxy_locatoin=1), "proxy_locatoin"),
        (lambda c: c["http_options"].update(hots="x"), "http_options.hots"),
        (lambda c: c["logging_config"].update(level="x"), "logging_config.level"),
        (lambda c: c["applications"][0].update(bogus=1), "applications[0].bogus"),
        (
            lambda c: c["applications"][0]["deployments"][0].update(replicas=1),
            "applications[0].deployments[0].replicas",
        ),
        (
            lambda c: c["applications"][0]["deployments"][0].update(
                ray_actor_options={"num_cpu": 1}
            ),
            "applications[0].deployments[0].ray_actor_options.num_cpu",
        ),
    ],
)
def test_this_test_finds_a_mistyped_key_at_every_level(change, found):
    values = config()
    change(values)
    assert list(unknown_keys(values, ServeDeploySchema)) == [found]


@ALL
def test_every_application_has_valid_settings_and_the_names_that_exist(values):
    for application in values["applications"]:
        settings = AppSettings.from_dict(application["args"])
        assert settings.name == application["name"]
        assert application["route_prefix"] == f"/{application['name']}"
        assert application["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
        assert {d["name"] for d in application.get("deployments", [])} <= {DEPLOYMENT}


@ALL
def test_the_unauthenticated_port_listens_on_this_machine_only(values):
    assert values["http_options"]["host"] == "127.0.0.1"


def test_replicas_of_the_gpu_config_fill_one_card_and_the_plain_one_asks_for_none():
    args = gpu_config()["applications"][0]["args"]
    assert args["num_replicas"] * args["num_gpus"] == 1
    assert AppSettings.from_dict(config()["applications"][0]["args"]).num_gpus == 0


def test_a_deployment_reserves_what_its_settings_say():
    settings = AppSettings.from_dict(gpu_config()["applications"][0]["args"])
    deployment = deployment_for(settings)._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 0.5
    assert deployment.ray_actor_options["num_cpus"] == 1


def test_a_card_that_is_not_there_is_an_error_at_the_start(tmp_path, monkeypatch):
    import torch
    from test_serve_deploy import make_items

    from ifa_ray.data.log import write_items

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_items(tmp_path / "items.parquet", make_items())
    slot = {"items": str(tmp_path / "items.parquet"), "checkpoints": str(tmp_path)}
    settings = AppSettings.from_dict({"name": "x", "slots": [slot], "num_gpus": 0.5})
    with pytest.raises(ConfigError, match=r"num_gpus == 0.5, must be 0: torch sees no CUDA"):
        open_slot(settings, 0)


def test_a_ranker_of_ones_own_gets_no_card():
    slot = {"items": "items"}
    with pytest.raises(ValueError, match=r"num_gpus == 1.0, must be 0 with ranker"):
        AppSettings.from_dict({"name": "x", "slots": [slot], "ranker": "a:B", "num_gpus": 1})


def test_graphs_need_a_card_and_no_sums_kept_in_memory():
    slot = {"items": "items", "checkpoints": "c"}
    args = {"name": "x", "slots": [slot], "graphs": True}
    assert AppSettings.from_dict(args | {"num_gpus": 1}).graphs
    with pytest.raises(ValueError, match=r"graphs == True, must be False with num_gpus == 0"):
        AppSettings.from_dict(args)
    kept = {"num_gpus": 1, "sequence_store": "s", "state_bytes": 2**20}
    with pytest.raises(ValueError, match=r"and state_bytes == 1048576"):
        AppSettings.from_dict(args | kept)


@ALL
def test_paths_are_those_that_a_run_writes(values):
    from ifa_ray.data.run_folder import RunFolder

    run = RunFolder(Path("runs/latest"))
    for application in values["applications"]:
        (slot,) = application["args"]["slots"]
        assert slot["items"] == str(run.items(0))
        assert slot["checkpoints"] == str(run.models(application["name"], 0))
