"""The verdict by rule: a value and one plain sentence. Knows effects, not where they are from."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from ifa_ray.abtest.estimate import Estimate
from ifa_ray.abtest.replicates import MIN_REPLICATES

__all__ = ["Decision", "Verdict", "decide", "percent"]


class Decision(enum.StrEnum):
    """What the test says of one treatment arm against control."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NO_VERDICT = "no verdict"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision with the sentence that goes on top of the report."""

    decision: Decision
    line: str


def decide(
    *,
    arm: str,
    control: str,
    effect: Estimate | None,
    p_adjusted: float | None,
    alpha: float,
    replicates: int,
    arms_tested: int,
    failed_checks: Sequence[str],
    users_decide: bool = False,
    breached: Sequence[str] = (),
) -> Verdict:
    """The rule, in this order: no verdict on bad data, on too few replicates, on no effect to test.

    Then better or worse exactly where the p of the primary metric, adjusted by Holm over the
    treatment arms, is under alpha; else not distinguishable.

    Args:
        arm: the treatment.
        control: what it is compared with.
        effect: the headline over replicates of the primary metric; None where there is none.
        p_adjusted: its p after Holm; None with `effect`.
        alpha: the level of the test.
        replicates: R.
        arms_tested: how many treatment arms share the level.
        failed_checks: names of health checks that failed; any forbids a verdict.
        users_decide: `effect` is over users alone where there are too few replicates: the verdict
            is then one of these rankers as trained, and says so.
        breached: labels of the guardrails that were breached, which the line names.
    """
    no_verdict = f"No verdict on {arm}: "
    if failed_checks:
        line = f"{no_verdict}failed {', '.join(failed_checks)}; the numbers below can't be trusted."
        return Verdict(decision=Decision.NO_VERDICT, line=line)
    if replicates < MIN_REPLICATES and not users_decide:
        noun = "replicate" if replicates == 1 else "replicates"
        line = f"{no_verdict}{replicates} {noun}, at least {MIN_REPLICATES} are needed."
        return Verdict(decision=Decision.NO_VERDICT, line=line)
    if effect is None or p_adjusted is None:
        line = f"{no_verdict}an arm has no watch time, so there is no relative effect."
        return Verdict(decision=Decision.NO_VERDICT, line=line)
    low, high = (percent(bound) for bound in effect.interval(alpha))
    numbers = (
        f"{percent(effect.relative)} watch time per user, {1 - alpha:.0%} interval {low} to {high}"
    )
    as_trained = " As these rankers were trained: another training of them may differ."
    note = as_trained if replicates < MIN_REPLICATES else ""
    if p_adjusted >= alpha:
        alone = effect.p_value < alpha
        why = f", but {arms_tested} arms were tested, and it is gone after Holm." if alone else "."
        line = f"{arm} and {control} can't be told apart: {numbers}{why}{note}"
        return Verdict(decision=Decision.NOT_DISTINGUISHABLE, line=line)
    better = effect.log_lift > 0
    line = f"{arm} is {'better' if better else 'worse'} than {control}: {numbers}.{note}"
    if breached:
        noun = "guardrail" if len(breached) == 1 else "guardrails"
        line += f" Breached {noun}: {', '.join(breached)}."
    return Verdict(decision=Decision.BETTER if better else Decision.WORSE, line=line)


def percent(ratio: float) -> str:
    """A relative effect for people: +0.80%, with a true minus sign."""
    digits = 2 if abs(ratio) < 1 else 0
    text = f"{ratio * 100:+,.{digits}f}%"
    # An effect that rounds to nothing has no direction to print.
    return (
        text[1:] if float(text[1:-1].replace(",", "")) == 0 else text.replace("-", "\N{MINUS SIGN}")
    )
