"""The ranking models by name; the long-sequence module is all that differs between them.

Adding a model is one file and one line of `MODELS`. Importing this loads no torch; building a model
does, and torch and numpy are all that models need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ifa_ray.errors import unknown_name

if TYPE_CHECKING:
    from ifa_ray.config import ModelConfig
    from ifa_ray.data.items import ItemTable
    from ifa_ray.models.base import RankModel

__all__ = ["MODELS", "build_model", "model_class"]

MODELS: dict[str, str] = {
    "avg_pooling": "ifa_ray.models.baselines:AvgPooling",
    "din": "ifa_ray.models.baselines:DIN",
    "eta": "ifa_ray.models.ifa:Eta",
    "full_attention": "ifa_ray.models.baselines:FullAttention",
    "ifa": "ifa_ray.models.ifa:IFA",
    "ifa_clustered": "ifa_ray.models.ifa:IFAClustered",
    "ifa_fsm": "ifa_ray.models.ifa:IFAWithoutFSM",
    "ifa_fsm_ram": "ifa_ray.models.ifa:IFAWithoutFSMAndRAM",
    "ifa_inducing": "ifa_ray.models.ifa:IFAInducing",
    "ifa_linformer": "ifa_ray.models.ifa:IFALinformer",
    "ifa_local_global": "ifa_ray.models.ifa:IFALocalGlobal",
    "ifa_lsh": "ifa_ray.models.ifa:IFALsh",
    "ifa_plus": "ifa_ray.models.ifa_plus:IFAPlus",
    "sdim": "ifa_ray.models.ifa:Sdim",
    "sim_hard": "ifa_ray.models.baselines:SIMHard",
    "sim_soft": "ifa_ray.models.baselines:SIMSoft",
    "twin": "ifa_ray.models.baselines:Twin",
    "twin_codes": "ifa_ray.models.ifa_plus:TwinWithCodes",
}


def model_class(name: str) -> type[RankModel]:
    """The class of a model.

    Raises:
        ConfigError: if no model has this name, with the near miss.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    module, _, cls = MODELS[name].partition(":")
    found: type[RankModel] = getattr(importlib.import_module(module), cls)
    return found


def build_model(config: ModelConfig, items: ItemTable, seed: int | None) -> RankModel:
    """Builds a model with weights drawn from the seed; the global generator is not touched.

    Without a seed they hold anything: for those who load them at once, and all of them.

    Raises:
        ConfigError: as `model_class`.
    """
    # The abstract base takes more arguments than its models do.
    model = model_class(config.name)(config, items)
    if seed is not None:
        model.initialise(seed)
    return model
