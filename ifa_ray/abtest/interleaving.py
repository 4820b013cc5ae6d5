"""Team-draft interleaving: two rankers share one slate, and clicks say whose items users like.

A preference, not a lift: it says which ranker users pick from, with far fewer users than an A/B
test, and not how much longer they would watch. Knows slates and clicks only.

Source: Radlinski, Kurup and Joachims, CIKM 2008.

Letters: K slots of a slate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.config import require

__all__ = ["Draft", "Preference", "preference", "team_draft"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """One interleaved slate.

    Attributes:
        ids_K: unique items, best first.
        team_K: int8, 0 where the first ranker put the item, 1 where the second did.
    """

    ids_K: npt.NDArray[np.int32]
    team_K: npt.NDArray[np.int8]


def team_draft(
    first: npt.NDArray[np.int32],
    second: npt.NDArray[np.int32],
    k: int,
    rng: np.random.Generator,
) -> Draft:
    """Lets two rankers pick in turns, as captains do; a coin says who begins each round.

    Each takes its best item that isn't in the slate yet. In every round each ranker picks once, so
    their numbers of items differ by one at most, and two equal rankings give that ranking.

    Args:
        first: int32, one ranker's items, best first, unique.
        second: the other's.
        k: slots; the slate is shorter where both have run out.
        rng: the coins; give each request its own, so that a replay is the same.
    """
    require(k >= 1, "k", k, ">= 1")
    rankings = (first.tolist(), second.tolist())
    places = [0, 0]
    ids: list[int] = []
    teams: list[int] = []
    taken: set[int] = set()
    while len(ids) < k:
        before = len(ids)
        begins = int(rng.integers(2))
        for team in (begins, 1 - begins):
            ranking = rankings[team]
            while places[team] < len(ranking) and ranking[places[team]] in taken:
                places[team] += 1
            if places[team] < len(ranking) and len(ids) < k:
                taken.add(ranking[places[team]])
                ids.append(ranking[places[team]])
                teams.append(team)
        if len(ids) == before:
            break
    return Draft(ids_K=np.array(ids, np.int32), team_K=np.array(teams, np.int8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference:
    """Which ranker users chose from.

    Attributes:
        wins_first, wins_second: slates on which more of that team's items were clicked.
        ties: all others.
        share_second: of the slates that one team won; None where none was won.
        p: two-sided sign test that both are liked alike.
    """

    wins_first: int
    wins_second: int
    ties: int
    share_second: float | None
    p: float


def preference(drafts: Sequence[Draft], clicks: Sequence[npt.NDArray[np.bool_]]) -> Preference:
    """Counts, of each slate, whose items were clicked more.

    Args:
        drafts: the slates; one per user where slates of one user are not independent.
        clicks: boolean [K] for each, what the user clicked.
    """
    require(len(drafts) == len(clicks), "len(clicks)", len(clicks), f"len(drafts) == {len(drafts)}")
    leads = [
        int((clicked & (draft.team_K == 1)).sum()) - int((clicked & (draft.team_K == 0)).sum())
        for draft, clicked in zip(drafts, clicks, strict=True)
    ]
    second, first = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    decided = first + second
    return Preference(
        wins_first=first,
        wins_second=second,
        ties=len(leads) - decided,
        share_second=second / decided if decided else None,
        p=float(stats.binomtest(second, decided).pvalue) if decided else 1.0,
    )
