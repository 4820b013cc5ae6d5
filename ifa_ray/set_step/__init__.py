"""From scored candidates to a slate: the best next item given the items above it.

Knows scores, traits and a history; knows no model. Three steps share one greedy walk over the pool
of the best P candidates by score, O(P) work per slot whatever stands above (times the width of a
content vector, or for `dpp` the number of slots filled):

    mmr      takes off likeness to the closest item above
    dpp      adds the log-volume that an item's content adds to that of the items above
    learned  adds how the log says that responses move with repetition, in the slate and the session

`ifa_ray.set_step.step` puts them to work; docs/set-step.md says what they are worth.
"""

from __future__ import annotations
