"""Many episodes side by side: users ask, are shown slates, and live on. One numpy pass over all.

Knows the seams of the world and the order in which a request goes through them; no Gymnasium, no
rewards. The order is that of `simulator.day`, whose users all live one day together; here each row
is at its own moment.

An episode is a copy of a user at the end of the prehistory, living on under an id of its own, its
*key*. Whatever the world draws from then on is keyed by it, so an episode is one of the user's
possible futures, depends on nothing but its key and the slates shown, and not on which episodes lie
beside it.

Letters: B rows (episodes side by side), R some of them, C candidates, K slate size, T history
length, S sessions of a day.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from simulator.config import DAY_MS, START_MS
from simulator.crn import Purpose, uniform
from simulator.environments.histories import RowHistories
from simulator.environments.starts import Population
from simulator.profiles import long_profiles, make_query
from simulator.queries import Candidates, RetrievalQuery
from simulator.set_value import Moment
from simulator.slates import fill_random_slots, show
from simulator.transition import GAP_MS, SessionState, day_fraction, plan_day
from simulator.users import drift, mood_topics
from simulator.world import ShardState

__all__ = ["Episodes", "Shown"]

Rows = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What became of R slates.

    Attributes:
        ids_RK: int32, as shown: one slot may hold a random item instead of the chosen one.
        seen_RK: bool; a prefix of each row.
        columns: the other columns of the impressions table by name, [R, K] each, 0 where not seen.
        left_R: bool, left the session.
    """

    ids_RK: Ids
    seen_RK: npt.NDArray[np.bool_]
    columns: dict[str, np.ndarray]
    left_R: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """Rows, increasing, that asked together, and what they asked."""

    rows: Rows
    query: RetrievalQuery

    def without(self, rows: Rows) -> _Asked:
        places = np.flatnonzero(~np.isin(self.rows, rows))
        return _Asked(rows=self.rows[places], query=self.query.take(places))


class Episodes:
    """B episodes of a population's users, each at its own moment.

    Attributes:
        population: where they begin; never changed.
        users, sessions: hidden state; `users.user_id_U` are the keys.
        user_B: int64, whose future each is.
        day_B, session_B, round_B: int32, of the pending request; the episode's first day is 0.
        num_sessions_B, start_ms_BS: int64, the plan of the day.
        time_ms_B: int64, of the pending request.
        ids_BC, channels_BC: int32 and int8, the candidates of the pending request.
    """

    def __init__(self, population: Population, num_rows: int) -> None:
        self.population = population
        config = population.world.config
        nobody = np.zeros(num_rows, np.int64)
        self.users = population.shard.users.take(nobody)
        self.sessions = SessionState.new(config, np.zeros(num_rows, np.int32))
        self.user_B = np.zeros(num_rows, np.int64)
        self.day_B, self.session_B, self.round_B = (np.zeros(num_rows, np.int32) for _ in range(3))
        self.num_sessions_B = np.zeros(num_rows, np.int64)
        self.start_ms_BS = np.zeros((num_rows, config.max_sessions), np.int64)
        self.time_ms_B = np.zeros(num_rows, np.int64)
        self.ids_BC = np.zeros((num_rows, config.num_candidates), np.int32)
        self.channels_BC = np.zeros((num_rows, config.num_candidates), np.int8)
        self._profiles = population.profiles.take(nobody)
        new_shard = functools.partial(ShardState.new, population.world, np.empty(0, np.int32))
        self._histories = RowHistories(num_rows, new_shard)
        self._asked: list[_Asked] = []

    def begin(self, rows: Rows, user_R: Rows, key_R: Ids) -> None:
        """Starts new episodes in some rows: the user comes on day 0.

        Args:
            rows: increasing.
            user_R: whose futures they are.
            key_R: int32 >= 0, which futures.
        """
        world, shard = self.population.world, self.population.shard
        users = shard.users.take(user_R)
        users.user_id_U[:] = key_R
        self.users.put(rows, users)
        self.user_B[rows] = user_R
        self._profiles.put(rows, self.population.profiles.take(user_R))
        self._histories.begin(rows, key_R, [shard.histories.view(int(user)) for user in user_R])
        count_R, start_RS = plan_day(world.config, world.seed, users, 0)
        # An episode begins with a request, so users whom the plan leaves at home come once.
        first_R = day_fraction(uniform(world.seed, Purpose.SESSION_START, key_R, 0, 0))
        start_RS[:, 0] = np.where(
            count_R == 0, START_MS + (DAY_MS * first_R).astype(np.int64), start_RS[:, 0]
        )
        self.day_B[rows] = 0
        self.num_sessions_B[rows] = np.maximum(count_R, 1)
        self.start_ms_BS[rows] = start_RS
        self.session_B[rows] = 0
        self.begin_sessions(rows)

    def begin_day(self, rows: Rows, day: int, count_R: Rows, start_RS: npt.NDArray) -> None:
        """Lets users come on a later day: a nightly job has seen all that they did before."""
        self.day_B[rows] = day
        self.num_sessions_B[rows] = count_R
        self.start_ms_BS[rows] = start_RS
        self.session_B[rows] = 0
        for part, shard in self._histories.passes(rows):
            observed = self.population.world.catalog.observed
            self._profiles.put(
                part, long_profiles(observed, shard.histories, self.users.user_id_U[part])
            )
        self.begin_sessions(rows)

    def begin_sessions(self, rows: Rows) -> None:
        """Starts session `session_B` of the day, not before the last one is well over."""
        world = self.population.world
        users = self.users.take(rows)
        drift(world.config, world.seed, users, self.day_B[rows])
        self.users.put(rows, users)
        start_ms_R = self.start_ms_BS[rows, self.session_B[rows]]
        self.time_ms_B[rows] = np.maximum(start_ms_R, users.last_ms_U + GAP_MS)
        self.round_B[rows] = 0
        mood_R = mood_topics(
            world.config, world.seed, users, self.day_B[rows], self.session_B[rows]
        )
        self.sessions.put(rows, SessionState.new(world.config, mood_R))

    def ask(self, rows: Rows) -> None:
        """Makes the next request of some rows and finds its candidates."""
        world = self.population.world
        kept = [asked.without(rows) for asked in self._asked]
        self._asked = [asked for asked in kept if len(asked.rows)]
        for part, shard in self._histories.passes(rows):
            query = make_query(
                world.config, shard.histories, self._profiles.take(part),
                user_id_U=self.users.user_id_U[part], day_U=self.day_B[part],
                session_U=self.session_B[part], round_U=self.round_B[part],
                time_ms_U=self.time_ms_B[part], num_candidates=world.config.num_candidates,
            )  # fmt: skip
            found = self.population.retrieve(query)
            self.ids_BC[part], self.channels_BC[part] = found.ids_UC, found.channels_UC
            self._asked.append(_Asked(rows=part, query=query))

    def show(self, rows: Rows, ids_RK: Ids) -> Shown:
        """Answers the pending requests of some rows, which live through what they are shown.

        Args:
            rows: increasing; all have asked.
            ids_RK: int32, candidates of each, best first.
        """
        world = self.population.world
        shown_RK, seen_RK = np.zeros_like(ids_RK), np.zeros(ids_RK.shape, bool)
        columns: dict[str, np.ndarray] = {}
        left_R = np.zeros(len(rows), bool)
        for asked, part, histories_of in self._parts(rows):
            place = np.searchsorted(rows, part)
            query = asked.query.take(np.searchsorted(asked.rows, part))
            found = Candidates(ids_UC=self.ids_BC[part], channels_UC=self.channels_BC[part])
            slates = fill_random_slots(world, query, ids_RK[place], found)
            shard = dataclasses.replace(
                histories_of, user_ids=self.users.user_id_U, users=self.users
            )
            visit = show(world, shard, part, self.sessions, query, slates)
            self.time_ms_B[part] = visit.end_ms_R
            shown_RK[place], left_R[place] = slates.ids_RK, visit.left_R
            cell = (place[visit.row_P], visit.impressions["position"])
            seen_RK[cell] = True
            for name, column_P in visit.impressions.items():
                columns.setdefault(name, np.zeros(ids_RK.shape, column_P.dtype))[cell] = column_P
        self.round_B[rows] += 1
        for name in ("user_id", "video_id", "position"):  # said otherwise, or keys of the draws
            columns.pop(name, None)
        return Shown(ids_RK=shown_RK, seen_RK=seen_RK, columns=columns, left_R=left_R)

    def moment(self, rows: Rows) -> Moment:
        """Everything about some pending requests, hidden parts included; for the oracle alone."""
        return Moment(users=self.users.take(rows), sessions=self.sessions.take(rows),
                      time_ms_R=self.time_ms_B[rows])  # fmt: skip

    def histories(self, rows: Rows, limit: int) -> tuple[np.ndarray, ...]:
        """The latest impressions of some rows, padded on the left.

        Returns:
            ids int32 (-1 padded), actions uint8, times_ms int64 and mask int8 (1 = real), [R, T].
        """
        shape = (len(rows), limit)
        ids_RT = np.full(shape, -1, np.int32)
        actions_RT, mask_RT = np.zeros(shape, np.uint8), np.zeros(shape, np.int8)
        times_RT = np.zeros(shape, np.int64)
        for r, row in enumerate(rows.tolist()):
            view = self._histories.view(row, limit)
            start = limit - len(view)
            ids_RT[r, start:], actions_RT[r, start:] = view.ids_T, view.actions_T
            times_RT[r, start:], mask_RT[r, start:] = view.times_ms_T, 1
        return ids_RT, actions_RT, times_RT, mask_RT

    def _parts(self, rows: Rows) -> Iterator[tuple[_Asked, Rows, ShardState]]:
        """Who of `rows` asked together and has the histories in one shard."""
        for asked in self._asked:
            here = asked.rows[np.isin(asked.rows, rows)]
            for part, shard in self._histories.passes(here):
                yield asked, part, shard
