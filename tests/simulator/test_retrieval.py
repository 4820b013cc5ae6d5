"""The candidate contract: exactly C, unique, uploaded, unseen, from what is observed."""

import dataclasses

import numpy as np
import pytest
from tiny_worlds import TINY, live, tiny_world

from ifa_ray.errors import ConfigError, RequestError
from simulator.world.config import DAY_MS, START_MS
from simulator.world.policy import best_match
from simulator.world.queries import Candidates, Channel, long_profiles, make_query
from simulator.world.retrieval import PROBED, QUOTAS, ChannelRetrieval
from simulator.world.retrieval_reference import ReferenceRetrieval
from simulator.world.retrieval_search import build_index, first_reaching
from simulator.world.world import World

USERS = np.arange(12, dtype=np.int32)


def query_of(
    world, shard, num_candidates=TINY.num_candidates, time_ms=START_MS + DAY_MS, round_=0, stripes=1
):
    size = len(shard.user_ids)
    profiles = long_profiles(world.catalog.observed, shard.histories, shard.user_ids)
    return make_query(
        world.config, shard.histories, profiles,
        user_id_U=shard.user_ids, day_U=np.full(size, 1, np.int32),
        session_U=np.zeros(size, np.int32), round_U=np.full(size, round_, np.int32),
        time_ms_U=np.full(size, time_ms), num_candidates=num_candidates, stripes=stripes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shard():
    return live(tiny_world(), USERS, days=0)[0]


@pytest.fixture(scope="module")
def query(shard):
    return query_of(tiny_world(), shard)


@pytest.mark.parametrize("num_candidates", [TINY.warmup_candidates, TINY.num_candidates])
def test_candidates_are_exactly_c_unique_uploaded_and_unseen(shard, num_candidates):
    world = tiny_world()
    query = query_of(world, shard, num_candidates)
    found = world.retrieval.retrieve(query)
    assert found.ids_UC.shape == found.channels_UC.shape == (len(USERS), num_candidates)
    assert (found.ids_UC.dtype, found.channels_UC.dtype) == (np.int32, np.int8)
    upload_ms = world.catalog.item_table().upload_ms_N
    for row, user in enumerate(USERS.tolist()):
        ids = found.ids_UC[row]
        assert len(set(ids.tolist())) == num_candidates
        assert upload_ms[ids].max() <= query.time_ms_U[row]
        assert not set(ids.tolist()) & set(shard.histories.view(user).ids_T.tolist())


def test_no_user_sees_an_item_twice_however_much_longer_life_is_than_a_request():
    config = dataclasses.replace(TINY, max_history=40, longest_prehistory=400, min_history=300)
    shard = live(World(config, 1), USERS, days=2)[0]
    for user in USERS.tolist():
        ids = shard.histories.view(user).ids_T
        assert len(ids) > 5 * config.max_history
        assert len(np.unique(ids)) == len(ids)


def test_every_channel_contributes_and_none_more_than_its_quota(query):
    found = tiny_world().retrieval.retrieve(query)
    for row in found.channels_UC:
        counts = np.bincount(row, minlength=len(Channel))
        assert counts[Channel.RANDOM] == 0
        for channel, share in QUOTAS.items():
            assert counts[channel] <= share * TINY.num_candidates
        assert counts[Channel.EXPLORE] >= 0.1 * TINY.num_candidates
    assert set(np.unique(found.channels_UC)) == set(Channel) - {Channel.RANDOM}


def test_a_users_candidates_do_not_depend_on_who_else_asks(query):
    retrieval = tiny_world().retrieval
    whole = retrieval.retrieve(query)
    for row in (0, 5, 11):
        alone = retrieval.retrieve(query.take(np.array([row])))
        np.testing.assert_array_equal(alone.ids_UC[0], whole.ids_UC[row])
        np.testing.assert_array_equal(alone.channels_UC[0], whole.channels_UC[row])


def test_another_round_brings_other_candidates(shard):
    world = tiny_world()
    first, second = (world.retrieval.retrieve(query_of(world, shard, round_=r)) for r in (0, 1))
    assert (first.ids_UC != second.ids_UC).any(axis=1).all()


@pytest.mark.parametrize("num_candidates", [TINY.warmup_candidates, TINY.num_candidates])
@pytest.mark.parametrize("probed", [2, PROBED, TINY.num_items])
def test_the_compiled_stage_finds_what_the_naive_one_finds(shard, probed, num_candidates):
    world = tiny_world()
    query = query_of(world, shard, num_candidates)
    catalog = world.catalog.observed
    fast = ChannelRetrieval(catalog, TINY, probed=probed).retrieve(query)
    slow = ReferenceRetrieval(catalog, TINY, probed=probed).retrieve(query)
    np.testing.assert_array_equal(fast.ids_UC, slow.ids_UC)
    np.testing.assert_array_equal(fast.channels_UC, slow.channels_UC)


def test_most_of_the_brute_force_neighbours_are_found(shard):
    world = tiny_world(num_items=20_000)
    query = query_of(world, shard)
    catalog = world.catalog.observed
    near = [Channel.RECENT, Channel.LONG]
    exact = ReferenceRetrieval(catalog, world.config).retrieve(query)
    found = world.retrieval.retrieve(query)
    shares = [
        np.isin(exact.ids_UC[row][np.isin(exact.channels_UC[row], near)], found.ids_UC[row]).mean()
        for row in range(len(USERS))
    ]
    assert np.mean(shares) > 0.9
    wide = ChannelRetrieval(catalog, world.config, probed=8 * PROBED).retrieve(query)
    for row in range(len(USERS)):
        want = exact.ids_UC[row][np.isin(exact.channels_UC[row], near)]
        assert np.isin(want, wide.ids_UC[row]).mean() > 0.95


def test_small_sets_are_the_very_best_or_with_stripes_a_sample_of_the_full_search():
    world = tiny_world(num_items=20_000, num_candidates=1_000, retrieval_noise=0.0)
    shard = live(world, USERS, days=0)[0]
    catalog = world.catalog.observed
    full = world.retrieval.retrieve(query_of(world, shard, 1_000))
    few, stripes = TINY.warmup_candidates, 1_000 // TINY.warmup_candidates
    small = world.retrieval.retrieve(query_of(world, shard, few, stripes=stripes))
    best_few = world.retrieval.retrieve(query_of(world, shard, few))
    content = catalog.content_q_ND
    means = []
    for row, recent in enumerate(query_of(world, shard).recent_UR):
        best = (content @ content[recent[recent >= 0]].T).max(axis=1)
        means.append([
            best[of.ids_UC[row][of.channels_UC[row] == Channel.RECENT]].mean()
            for of in (full, small, best_few)
        ])  # fmt: skip
    full_mean, small_mean, best_mean = np.mean(means, axis=0)
    assert small_mean == pytest.approx(full_mean, rel=0.03)
    assert best_mean > 1.05 * full_mean


def test_popular_draws_are_those_of_a_binary_search():
    shares = np.random.default_rng(0).pareto(1.1, 5_000)
    sums = np.cumsum(shares / shares.sum())
    parts = np.arange(5_000) * (sums[-1] / 5_000)
    guide = np.searchsorted(sums, parts).astype(np.int32)
    reach = np.random.default_rng(1).random((3, 4_000)) * sums[-1]
    reach[0, :100] = sums[:100]  # on the edge
    found = np.empty(reach.shape, np.int32)
    first_reaching(sums, guide, reach, found)
    np.testing.assert_array_equal(found, np.searchsorted(sums, reach))


def test_a_retrieval_stage_of_ones_own_takes_the_place_of_the_default():
    class Newest:
        def __init__(self, catalog, _config):
            self.catalog = catalog

        def retrieve(self, query):
            live = self.catalog.num_live(query.time_ms_U)
            rows = []
            for row, seen in enumerate(query.seen_US):
                free = np.setdiff1d(np.arange(live[row], dtype=np.int32), seen)
                rows.append(free[-query.num_candidates :])
            ids = np.stack(rows)
            return Candidates(ids_UC=ids, channels_UC=np.full(ids.shape, 4, np.int8))

    world = World(TINY, 1, retrieval=Newest)
    _, logs = live(world, USERS[:2])
    # Few requests are logged: both days together have some.
    channels = np.concatenate([log.requests["channels"].ravel() for log in logs[1:]])
    assert set(channels.tolist()) == {4}


def test_author_candidates_are_by_loved_authors(query):
    catalog = tiny_world().catalog.observed
    found = tiny_world().retrieval.retrieve(query)
    for row in range(len(USERS)):
        ids = found.ids_UC[row][found.channels_UC[row] == Channel.AUTHOR]
        assert set(catalog.items.author_id_N[ids].tolist()) <= set(query.authors_UA[row].tolist())


def test_fresh_candidates_are_the_latest_and_popular_ones_are_popular(query):
    catalog = tiny_world().catalog.observed
    found = tiny_world().retrieval.retrieve(query)
    live = int(catalog.num_live(query.time_ms_U[:1])[0])
    fresh = found.ids_UC[found.channels_UC == Channel.FRESH]
    window = 10 * int(QUOTAS[Channel.FRESH] * TINY.num_candidates)
    assert fresh.min() >= live - window
    popular = found.ids_UC[found.channels_UC == Channel.POPULAR]
    explored = found.ids_UC[found.channels_UC == Channel.EXPLORE]
    share = catalog.popularity_N
    assert share[popular].mean() > 2 * share[explored].mean()


def test_a_user_without_history_gets_a_full_set(query):
    nothing = dataclasses.replace(
        query,
        recent_UR=np.full_like(query.recent_UR, -1),
        long_UMD=np.zeros_like(query.long_UMD),
        authors_UA=np.full_like(query.authors_UA, -1),
        seen_US=np.full_like(query.seen_US, -1),
    )
    found = tiny_world().retrieval.retrieve(nothing)
    assert found.ids_UC.shape == (len(USERS), TINY.num_candidates)
    assert not np.isin(found.channels_UC, [Channel.RECENT, Channel.LONG, Channel.AUTHOR]).any()


def test_too_few_unseen_items_are_an_error_that_names_the_user(query):
    seen = np.tile(np.arange(1_150, dtype=np.int32), (len(USERS), 1))
    with pytest.raises(RequestError, match=r"user 0: .* must be >= num_candidates == 80"):
        tiny_world().retrieval.retrieve(dataclasses.replace(query, seen_US=seen))


def test_exploration_reaches_every_part_of_the_catalogue(shard):
    world = tiny_world()
    hits = np.zeros(TINY.num_items)
    for round_ in range(60):
        found = world.retrieval.retrieve(query_of(world, shard, round_=round_))
        np.add.at(hits, found.ids_UC[found.channels_UC == Channel.EXPLORE], 1)
    live = int(world.catalog.observed.num_live(np.array([START_MS + DAY_MS]))[0])
    tenths = np.array([part.sum() for part in np.array_split(hits[:live], 10)])
    assert tenths.min() > 0.6 * tenths.mean()
    assert hits[live:].sum() == 0


@pytest.fixture(scope="module")
def content():
    return tiny_world().catalog.observed.content_q_ND


def test_every_item_is_in_one_cell_and_a_cell_is_in_order_of_upload(content):
    index = build_index(1, content)
    np.testing.assert_array_equal(np.sort(index.ids_N), np.arange(len(content)))
    np.testing.assert_array_equal(index.vectors_ND, content[index.ids_N])
    for start, stop in zip(index.start_L[:-1], index.start_L[1:], strict=True):
        assert (np.diff(index.ids_N[start:stop]) > 0).all()


def test_an_item_is_in_the_cell_whose_centroid_is_nearest(content):
    index = build_index(1, content)
    score = content.astype(int) @ index.centroid_LD.T.astype(int)
    cell = np.repeat(np.arange(len(index.centroid_LD)), np.diff(index.start_L))
    np.testing.assert_array_equal(score.argmax(axis=1)[index.ids_N], cell)


def test_the_index_does_not_depend_on_the_order_of_sums(content):
    whole = build_index(1, content)
    cut = build_index(1, content, chunk=7)
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_another_seed_chooses_other_centroids(content):
    assert not np.array_equal(
        build_index(1, content).centroid_LD, build_index(2, content).centroid_LD
    )


def test_vectors_too_wide_for_exact_sums_are_refused():
    with pytest.raises(ConfigError, match=r"content_width == 1041, must be <= 1040"):
        build_index(1, np.zeros((3, 1_041), np.float32))


def test_matches_are_the_closest_vectors_and_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    content_ND = rng.normal(size=(500, 16)).astype(np.float32)
    ids_UC = rng.integers(0, 500, (5, 300)).astype(np.int32)
    vectors_UVD = rng.normal(size=(5, 4, 16)).astype(np.float32)
    vectors_UVD[2] = 0
    found_UC = best_match(content_ND, ids_UC, vectors_UVD)
    exact_UC = np.einsum("ucd,uvd->ucv", content_ND[ids_UC].astype(float), vectors_UVD).max(axis=2)
    np.testing.assert_allclose(found_UC, np.maximum(exact_UC, 0), atol=1e-5)
    for user in range(5):
        rows = slice(user, user + 1)
        alone_UC = best_match(content_ND, ids_UC[rows], vectors_UVD[rows])
        np.testing.assert_array_equal(alone_UC, found_UC[rows])
