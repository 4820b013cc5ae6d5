"""The catalogue: hidden items, and the part of them that a platform can observe.

Knows items only, no users. Video ids are in order of upload, so what exists at a time is a prefix
of the catalogue.

Letters: N items, A authors, K topics, D content width, S style directions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ifa_ray.data.items import ItemTable
from simulator.world.arrays import Floats, Ints, Longs
from simulator.world.config import DAY_MS, START_MS, WorldConfig
from simulator.world.crn import Purpose, normal, uniform

NUM_STYLES = 3
"""Two directions of style, and duration."""

ITEMS_PER_AUTHOR = 8
TOPICS_PER_CATEGORY = 2
TOPICS_PER_GROUP = 4

DURATION_MEDIAN_S = 35.1
"""The median of KuaiRand's catalogue, the unit in which the effects of duration are counted; a
world's own median is a setting. With a log-sd of 1.2356 the 95th percentile is 268 s (tier B)."""
DURATION_RANGE_S = (2.0, 900.0)

# Weight of the item at a popularity rank: (rank + N * OFFSET) ** -slope, so that the shape of the
# head does not depend on N; at slope 1 the top 1% of items hold about 44% of the weight.
POPULARITY_OFFSET = 2e-4

OLD_ITEM_AGE_DAYS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ObservedCatalog:
    """The part of the catalogue that retrieval and rankers may know."""

    seed: int  # of the draws of retrieval
    items: ItemTable
    popularity_N: Floats  # share of the platform's impressions, sums to 1
    popularity_sum_N: Floats  # its running sum
    # float32 holding integers in [-127, 127]: dot products of two such vectors are exact, so
    # they do not depend on how a batch is cut
    content_q_ND: npt.NDArray[np.float32]
    author_items_N: Ints  # the items of each author, in order of upload
    author_start_A: Longs

    def num_live(self, time_ms: Longs) -> Longs:
        """Number of items that exist at each time: the video ids below it."""
        return np.searchsorted(self.items.upload_ms_N, time_ms, side="right")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """The hidden truth about N items, and its observed part."""

    observed: ObservedCatalog  # the part that a platform can know
    topic_N: Ints  # main and second latent topic
    second_N: Ints
    mix_N: Floats  # in [0, 0.5], weight of the second topic
    style_NS: Floats  # standardised; the last is log duration
    quality_N: Floats  # standardised, as the next
    log_popularity_N: Floats

    def item_table(self) -> ItemTable:
        """The observed features, as rankers get them."""
        return self.observed.items


def make_catalog(config: WorldConfig, seed: int) -> Catalog:
    """Builds the catalogue of a world, a pure function of config and seed."""
    n, k = config.num_items, config.num_topics
    item = np.arange(n)
    num_authors = max(1, n // ITEMS_PER_AUTHOR)
    # Author sizes are heavy-tailed: the square concentrates items on low author numbers.
    author_N = (num_authors * uniform(seed, Purpose.AUTHOR, item) ** 2).astype(np.int32)
    topic_N, second_N, mix_N = _topics(config, seed, author_N)

    quality_N = 0.5 * normal(seed, Purpose.AUTHOR_QUALITY, author_N)
    quality_N += np.sqrt(0.75) * normal(seed, Purpose.QUALITY, item)
    topic_duration_K = normal(seed, Purpose.TOPIC_DURATION, np.arange(k))
    topic_duration_K -= topic_duration_K.mean()
    log_duration_z_N = 0.4 * (topic_duration_K / topic_duration_K.std())[topic_N]
    log_duration_z_N += np.sqrt(0.84) * normal(seed, Purpose.DURATION, item)
    duration_s_N = np.clip(
        config.duration_median_s * np.exp(config.duration_log_sd * log_duration_z_N),
        *DURATION_RANGE_S,
    )
    style = np.arange(NUM_STYLES - 1)
    style_NS = np.empty((n, NUM_STYLES))
    style_NS[:, :-1] = 0.6 * normal(seed, Purpose.AUTHOR_STYLE, author_N[:, None], style)
    style_NS[:, :-1] += 0.8 * normal(seed, Purpose.STYLE, item[:, None], style)
    style_NS[:, -1] = log_duration_z_N

    popularity_N = _popularity(config, seed, quality_N)
    log_popularity_N = np.log(popularity_N)
    log_popularity_N -= log_popularity_N.mean()
    log_popularity_N /= max(float(log_popularity_N.std()), 1e-9)  # at slope 0 all are alike

    category_N = topic_N // TOPICS_PER_CATEGORY
    wrong = uniform(seed, Purpose.CATEGORY, item, 0) < config.category_noise
    any_category = k * uniform(seed, Purpose.CATEGORY, item, 1) // TOPICS_PER_CATEGORY
    category_N = np.where(wrong, any_category, category_N).astype(np.int32)

    content_ND = _content(config, seed, topic_N, second_N, mix_N, style_NS)
    by_author = np.argsort(author_N, kind="stable").astype(np.int32)
    items = ItemTable(
        video_id_N=item.astype(np.int32),
        author_id_N=author_N,
        category_N=category_N,
        duration_ms_N=np.rint(1000 * duration_s_N).astype(np.int32),
        upload_ms_N=_uploads(config, seed),
        content_ND=content_ND.astype(np.float32),
    )
    observed = ObservedCatalog(
        seed=seed,
        items=items,
        popularity_N=popularity_N,
        popularity_sum_N=np.cumsum(popularity_N),
        content_q_ND=np.rint(127 * content_ND).astype(np.float32),
        author_items_N=by_author,
        author_start_A=np.searchsorted(author_N[by_author], np.arange(num_authors + 1)),
    )
    return Catalog(
        observed=observed,
        topic_N=topic_N,
        second_N=second_N,
        mix_N=mix_N,
        style_NS=style_NS,
        quality_N=quality_N,
        log_popularity_N=log_popularity_N,
    )


def _topics(config: WorldConfig, seed: int, author_N: Ints) -> tuple[Ints, Ints, Floats]:
    """Main and second topic and their mix; an author has three topics, 15% of items stray."""
    item, k = np.arange(len(author_N)), config.num_topics
    which = (3 * uniform(seed, Purpose.TOPIC_OF_AUTHOR, item, 0)).astype(np.int64)
    own = k * uniform(seed, Purpose.AUTHOR_TOPIC, author_N, which)
    stray = k * uniform(seed, Purpose.TOPIC_OF_AUTHOR, item, 1)
    strays = uniform(seed, Purpose.TOPIC_OF_AUTHOR, item, 2) < 0.15
    topic_N = np.where(strays, stray, own).astype(np.int32)
    second_N = (k * uniform(seed, Purpose.TOPIC_SECOND, item)).astype(np.int32)
    mix_N = 0.5 * uniform(seed, Purpose.TOPIC_MIX, item) ** 2
    return topic_N, second_N, mix_N


def _popularity(config: WorldConfig, seed: int, quality_N: Floats) -> Floats:
    """Shares of the platform's impressions: a power law of rank, tilted towards quality."""
    n = len(quality_N)
    appeal = 0.6 * quality_N + 0.8 * normal(seed, Purpose.POPULARITY, np.arange(n))
    rank = np.empty(n)
    rank[np.argsort(-appeal, kind="stable")] = np.arange(n)
    weight = (rank + 1 + POPULARITY_OFFSET * n) ** -config.popularity_slope
    return weight / weight.sum()


def _content(
    config: WorldConfig, seed: int, topic_N: Ints, second_N: Ints, mix_N: Floats, style_NS: Floats
) -> Floats:
    """Unit content vectors: a noisy view of topics and style, float64 [N, D]."""
    n, d = config.num_items, config.content_width
    topic, dims = np.arange(config.num_topics)[:, None], np.arange(d)
    center_KD = 0.6 * normal(seed, Purpose.TOPIC_CENTER, topic // TOPICS_PER_GROUP, dims)
    center_KD += 0.8 * normal(seed, Purpose.TOPIC_CENTER, 1_000_000 + topic, dims)
    center_KD /= np.linalg.norm(center_KD, axis=1, keepdims=True)
    content_ND = (1 - mix_N[:, None]) * center_KD[topic_N] + mix_N[:, None] * center_KD[second_N]
    for s in range(NUM_STYLES):  # a loop, not a product: the bytes must not depend on the BLAS
        direction_D = normal(seed, Purpose.STYLE_DIRECTION, s, dims) / np.sqrt(d)
        content_ND += 0.3 * style_NS[:, s, None] * direction_D
    noise_ND = normal(seed, Purpose.CONTENT, np.arange(n)[:, None], dims)
    content_ND += config.content_noise / np.sqrt(d) * noise_ND
    return content_ND / np.linalg.norm(content_ND, axis=1, keepdims=True)


def _uploads(config: WorldConfig, seed: int) -> Longs:
    """Upload times in order: the live share before the warm-up, the rest evenly after."""
    n = config.num_items
    start_ms = START_MS - config.warmup_days * DAY_MS
    span_ms = (config.warmup_days + config.horizon_days) * DAY_MS
    u = uniform(seed, Purpose.UPLOAD, np.arange(n))
    num_old = int(np.ceil(config.live_share * n))
    upload = np.empty(n)
    upload[:num_old] = start_ms + OLD_ITEM_AGE_DAYS * DAY_MS * np.log(u[:num_old])
    upload[num_old:] = start_ms + span_ms * u[num_old:]
    return np.sort(upload.astype(np.int64))
