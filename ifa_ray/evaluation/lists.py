"""Lists of models by name, and what the paper reports of those in its tables.

Knows names and published numbers only. The paper is "Interaction Fidelity Attention for Entire
Lifelong Behaviour Sequence Modeling" (Kuaishou); its log is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ifa_ray.config import require
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS, ifa_plus

_LISTS: Mapping[str, tuple[str, ...]] = {
    "table2": ("avg_pooling", "din", "sim_hard", "sim_soft", "twin", "ifa"),
    "table3": ("ifa", "ifa_fsm", "ifa_fsm_ram"),
    "attention": (
        "ifa", "full_attention", "ifa_lsh", "ifa_local_global", "ifa_clustered", "ifa_inducing",
        "ifa_linformer", "eta", "sdim",
    ),
}  # fmt: skip

TITLES: Mapping[str, str] = {
    "table2": "Table 2: all models",
    "table3": "Table 3: ablation of IFA",
    "attention": "Attention: choices of section 4.4, and what they approximate",
    "ablation": "Ablation of IFA+",
}

REFERENCES: Mapping[str, str] = {"table3": "ifa", "attention": "ifa", "ablation": "ifa_plus"}
"""What the models of a list are compared with, where that is not the control."""

PAPER_TABLES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "table2": {
        "avg_pooling": (0.9361, 0.9444, 0.9523, 0.9506),
        "din": (0.9409, 0.9498, 0.9564, 0.9561),
        "sim_hard": (0.9452, 0.9556, 0.9605, 0.9651),
        "sim_soft": (0.9502, 0.9566, 0.9642, 0.9657),
        "twin": (0.9582, 0.9632, 0.9726, 0.9737),
        "ifa": (0.9788, 0.9815, 0.9864, 0.9808),
    },
    "table3": {
        "ifa": (0.9788, 0.9815, 0.9864, 0.9808),
        "ifa_fsm": (0.9652, 0.9691, 0.9774, 0.9752),
        "ifa_fsm_ram": (0.9582, 0.9632, 0.9726, 0.9737),
    },
}
"""AUC of impression, click, long view and like: the paper's Tables 2 and 3."""

_ABLATED = "ifa_plus-"


def ablation() -> tuple[str, ...]:
    """IFA+ whole, TWIN with IFA+'s code heads, then IFA+ without each of its parts."""
    return ("ifa_plus", "twin_codes", *(f"{_ABLATED}{part}" for part in ifa_plus.PARTS))


def model_lists() -> dict[str, tuple[str, ...]]:
    """Every list by name; `all` is their union."""
    lists = {**_LISTS, "ablation": ablation()}
    everything = dict.fromkeys(name for names in lists.values() for name in names)
    return {**lists, "all": tuple(everything)}


def known_models() -> tuple[str, ...]:
    """Every name that stands for one model: those of `MODELS`, and the ablations of IFA+."""
    return tuple(dict.fromkeys((*MODELS, *ablation())))


def ablated_part(name: str) -> str | None:
    """The part that `ifa_plus-PART` is without; None for any other name."""
    return name.removeprefix(_ABLATED) if name.startswith(_ABLATED) else None


def expand_models(text: str) -> tuple[str, ...]:
    """Reads `table2,ifa_plus`: names of models and of lists, in order, each model once.

    Raises:
        ConfigError: on a name that is neither, with the near miss, or a model named twice.
    """
    lists, known = model_lists(), known_models()
    found: list[str] = []
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in lists and word not in known:
            raise unknown_name("models", word, (*lists, *known))
        found += lists.get(word, (word,))
    # A list may hold what is named beside it; the same word twice is a slip.
    require(len(set(words)) == len(words), "models", text, "unique names")
    return tuple(dict.fromkeys(found))


def covered_lists(models: Sequence[str]) -> list[str]:
    """The lists whose every model is among these, `all` left out."""
    return [
        name
        for name, members in model_lists().items()
        if name != "all" and len(members) > 1 and set(members) <= set(models)
    ]
