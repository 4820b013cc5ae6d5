"""What a comparison's settings are, what is refused, and which of them make runs another's."""

from pathlib import Path

import pytest
from films import config

from ifa_ray.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ["twn"]}, "models == 'twn', must be one of .* Did you mean 'twin'"),
        ({"models": ["ifa_plus-dens"]}, "Did you mean 'ifa_plus-dense'"),
        ({"control": "twn"}, "control == 'twn', must be one of"),
        ({"models": []}, r"models == \(\), must be at least one name"),
        ({"models": ["ifa", "ifa"]}, "must be named once each"),
        ({"max_requests": -1}, "max_requests == -1, must be >= 0"),
        ({"width": 9}, "width == 9, must be a multiple of num_heads"),
        ({"tower_widths": [8, 0]}, r"tower_widths == \(8, 0\), must be >= 1"),
        ({"replicate": "every"}, "replicate == 'every', must be a number >= 0, or each"),
        ({"cross_features": ["authr"]}, "cross_features == 'authr'.* Did you mean 'author'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    films: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(films, **settings)


def test_every_model_gets_the_same_settings_but_its_name(films: Path) -> None:
    settings = config(
        films, cross_features=["channel", "author"], max_history=7, tower_widths=[5],
        models=["twin", "ifa", "ifa_plus"],
    )  # fmt: skip
    kinds = [settings.model(name).to_dict() | {"name": None} for name in settings.models]
    assert kinds[0] == kinds[1] == kinds[2]
    assert kinds[0]["cross_features"] == ("channel", "author")
    assert (kinds[0]["max_history"], kinds[0]["tower_widths"]) == (7, (5,))


def test_the_hash_names_what_changes_a_metric(films: Path) -> None:
    base = config(films)
    for grown in (
        {"models": ["ifa"]}, {"seeds": 5}, {"first_seed": 2}, {"control": "ifa"},
        {"timed_requests": 9},
    ):  # fmt: skip
        assert config(films, **grown).settings_hash == base.settings_hash
    for other in (
        {"width": 16}, {"cross_features": ["author"]}, {"max_requests": 30}, {"threads": 2},
        {"learning_rate": 1e-2}, {"replicate": 0},
    ):  # fmt: skip
        assert config(films, **other).settings_hash != base.settings_hash


def test_a_seed_reads_the_replicate_of_its_number_where_there_are_several(films: Path) -> None:
    free, one, each = (config(films, replicate=r) for r in (None, 1, "each"))
    assert [free.replicate_of(seed, (0, 1, 2)) for seed in (0, 2)] == [0, 2]
    assert [free.replicate_of(seed, (4,)) for seed in (0, 2)] == [4, 4]
    assert [free.replicate_of(seed, ()) for seed in (0, 2)] == [0, 0]
    assert [one.replicate_of(seed, (0, 1, 2)) for seed in (0, 2)] == [1, 1]
    assert each.replicate_of(0, (0,)) == 0
    for settings, available in ((free, (0, 1)), (each, (0,)), (each, ())):
        with pytest.raises(ConfigError, match=r"seed == 2, must be a replicate of .* fewer --seed"):
            settings.replicate_of(2, available)
