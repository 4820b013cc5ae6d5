"""The configs in deploy/ against Serve's own models: Serve ignores a key that it does not know."""

import typing
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import BaseModel
from ray.serve.schema import LoggingConfig, RayActorOptionsSchema, ServeDeploySchema

from ifa_ray.data.run_folder import RunFolder
from ifa_ray.serving.app import DEPLOYMENT, build_app, deployment_for
from ifa_ray.serving.settings import AppSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
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


def config(name="config.yaml"):
    return yaml.safe_load((DEPLOY / name).read_text())


def with_everything_wanted():
    """The file as it is once what it has in comments is wanted."""
    head, tail = (DEPLOY / "config.yaml").read_text().split("  # - name: twin\n")
    lines = ["  # - name: twin", *tail.splitlines()]
    return yaml.safe_load(head + "\n".join(line.replace("  # ", "  ", 1) for line in lines))


ALL = pytest.mark.parametrize(
    "values",
    [config(), with_everything_wanted(), config("config.gpu.yaml")],
    ids=["cpu", "all", "gpu"],
)


@ALL
def test_serve_knows_every_key_and_the_port_without_a_token_is_this_machines_only(values):
    assert list(unknown_keys(values, ServeDeploySchema)) == []
    ServeDeploySchema.model_validate(values)
    assert values["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        ("proxy_locatoin",),
        ("http_options", "hots"),
        ("logging_config", "level"),
        ("applications", 0, "bogus"),
        ("applications", 0, "deployments", 0, "replicas"),
    ],
)
def test_this_test_finds_a_mistyped_key_at_every_level(path):
    values = inner = config()
    *outer, key = path
    for part in outer:
        inner = inner[part]
    inner[key] = 1
    label = ".".join(map(str, path)).replace(".0", "[0]")
    assert list(unknown_keys(values, ServeDeploySchema)) == [label]


@ALL
def test_every_application_has_valid_settings_and_the_names_and_paths_that_exist(values):
    run = RunFolder(Path("runs/latest"))
    for application in values["applications"]:
        name = application["name"]
        assert AppSettings.from_dict(application["args"]).name == name
        assert application["route_prefix"] == f"/{name}"
        assert application["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
        assert {d["name"] for d in application.get("deployments", [])} <= {DEPLOYMENT}
        (slot,) = application["args"]["slots"]
        assert slot == {"items": str(run.items(0)), "checkpoints": str(run.models(name, 0))}


def test_a_deployment_reserves_what_its_settings_say_and_replicas_fill_one_card():
    settings = AppSettings.from_dict(config("config.gpu.yaml")["applications"][0]["args"])
    options = deployment_for(settings)._bound_deployment.ray_actor_options
    assert (options["num_gpus"], options["num_cpus"]) == (0.5, 1)
    assert settings.num_replicas * settings.num_gpus == 1
    assert AppSettings.from_dict(config()["applications"][0]["args"]).num_gpus == 0


def test_a_card_that_is_not_there_is_an_error_at_the_start(tmp_path, monkeypatch):
    from test_serve_deploy import make_items

    from ifa_ray.data.log import write_items
    from ifa_ray.errors import ConfigError
    from ifa_ray.serving.deployment import open_slot

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_items(tmp_path / "items.parquet", make_items())
    slot = {"items": str(tmp_path / "items.parquet"), "checkpoints": str(tmp_path)}
    settings = AppSettings.from_dict({"name": "x", "slots": [slot], "num_gpus": 0.5})
    with pytest.raises(ConfigError, match=r"num_gpus == 0.5, must be 0: torch sees no CUDA"):
        open_slot(settings, 0)
