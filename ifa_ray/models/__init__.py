"""The ranking models: what each knows of its candidates and its history is all that differs.

Runs with torch and numpy alone.
"""

from __future__ import annotations

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models.avg_pooling import AvgPooling
from ifa_ray.models.base import RankModel
from ifa_ray.models.full_attention import DIN, FullAttention
from ifa_ray.models.ifa import IFA
from ifa_ray.models.ifa_ablations import IFAWithoutFSM, IFAWithoutFSMAndRAM
from ifa_ray.models.ifa_plus import IFAPlus, TwinWithCodes
from ifa_ray.models.ifa_swapped import (
    Eta,
    IFAClustered,
    IFAInducing,
    IFALinformer,
    IFALocalGlobal,
    IFALsh,
    Sdim,
)
from ifa_ray.models.layers import initialise
from ifa_ray.models.sim import SIMHard, SIMSoft
from ifa_ray.models.twin import Twin

__all__ = ["MODELS", "RankModel", "build_model"]

MODELS: dict[str, type[RankModel]] = {
    "avg_pooling": AvgPooling,
    "din": DIN,
    "eta": Eta,
    "full_attention": FullAttention,
    "ifa": IFA,
    "ifa_clustered": IFAClustered,
    "ifa_fsm": IFAWithoutFSM,
    "ifa_fsm_ram": IFAWithoutFSMAndRAM,
    "ifa_inducing": IFAInducing,
    "ifa_linformer": IFALinformer,
    "ifa_local_global": IFALocalGlobal,
    "ifa_lsh": IFALsh,
    "ifa_plus": IFAPlus,
    "sdim": Sdim,
    "sim_hard": SIMHard,
    "sim_soft": SIMSoft,
    "twin": Twin,
    "twin_codes": TwinWithCodes,
}


def build_model(config: ModelConfig, items: ItemTable, seed: int | None) -> RankModel:
    """Builds a model with weights drawn from the seed; the global generator is not touched.

    Without a seed they hold anything: for those who load them at once, and all of them.

    Raises:
        ConfigError: if the config's name is not a model's, with the near miss.
    """
    if config.name not in MODELS:
        raise unknown_name("model", config.name, MODELS)
    # The abstract base takes more arguments than its models do.
    model = MODELS[config.name](config, items)
    if seed is not None:
        initialise(model, seed)
        model.towers.start_at_prior()
    return model
