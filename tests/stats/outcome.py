"""What a statistical check found: its number in the list, its figure, and whether that passes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Outcome:
    number: int
    claim: str
    figure: str
    ok: bool


def within(value, low, high):
    return low <= value <= high
