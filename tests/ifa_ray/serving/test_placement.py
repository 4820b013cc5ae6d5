import pytest
from lives import append_of
from serving_fakes import make_request

from ifa_ray.serving.placement import preferred, session_of, shard_of

USERS = range(3_000)


def test_where_users_lie_never_changes():
    """Files on disks are laid out by it; these came from `b2sum -l 64`."""
    assert [shard_of(user, 4) for user in range(12)] == EXPECTED
    assert shard_of(2**63 - 1, 1) == 0


EXPECTED = [0, 2, 3, 2, 2, 0, 1, 1, 0, 3, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_users_are_spread_evenly(count):
    sizes = [0] * count
    for user in USERS:
        sizes[shard_of(user, count)] += 1
    share = len(USERS) / count
    # Five standard deviations of a binomial.
    assert all(abs(size - share) <= 5 * share**0.5 for size in sizes)


def test_one_name_more_takes_its_share_from_all_and_moves_nothing_else():
    before = {user: preferred(str(user), ["a", "b", "c"])[0] for user in USERS}
    after = {user: preferred(str(user), ["a", "b", "c", "d"])[0] for user in USERS}
    moved = [user for user in USERS if before[user] != after[user]]
    assert {after[user] for user in moved} == {"d"}
    assert {before[user] for user in moved} == {"a", "b", "c"}
    assert abs(len(moved) - len(USERS) / 4) < 120


def test_who_loses_a_replica_goes_to_the_second_choice():
    for user in range(50):
        first, *others = preferred(str(user), ["a", "b", "c"])
        assert preferred(str(user), sorted({"a", "b", "c"} - {first})) == others


def test_the_order_of_names_says_nothing():
    assert preferred("7", ["a", "b", "c"]) == preferred("7", ["c", "a", "b"])


def test_a_call_of_several_users_is_nobodys():
    assert session_of([make_request(user_id=7), make_request(2, user_id=7)]) == "7"
    assert session_of([append_of(7, 0, 1), append_of(8, 0, 1)]) == ""
    assert session_of([]) == ""
