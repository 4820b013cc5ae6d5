"""When a client asks again, how long it waits before, and when it gives up; knows no transport.

Everything that clients here send is idempotent, so a call that failed on the way, or met a server
that was busy or restarting, is sent again: ranking changes nothing at the server, an append says
where it begins and is stored once, what is erased twice is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ifa_ray.errors import ConfigError, ServingError

__all__ = ["LONGEST_WAIT_S", "NotNowError", "Patience"]

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0

Answer = TypeVar("Answer")


class NotNowError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        """Notes the reason, and how long the server asks to be left alone."""
        super().__init__(reason)
        self.wait_s = wait_s


class Patience:
    """Of one client: a deadline for each call, and how many attempts lie within."""

    def __init__(
        self,
        timeout_s: float,
        retries: int,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        """Checks the settings.

        Args:
            timeout_s: of one call, its retries and waits included.
            retries: attempts after the first.
            clock: seconds, for the deadline.
            sleep: waits that many seconds between attempts.

        Raises:
            ConfigError: on a setting outside its rule.
        """
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s == {timeout_s}, must be > 0.")
        if retries < 0:
            raise ConfigError(f"retries == {retries}, must be >= 0.")
        self._timeout_s, self._retries = timeout_s, retries
        self._clock, self._sleep = clock, sleep

    def answer_of(self, what: str, attempt: Callable[[float], Answer]) -> Answer:
        """Attempts until one is final, attempts are used up or waiting would pass the deadline.

        The deadline bounds when an attempt may start and how long it may wait for the network at a
        stretch; an answer that trickles in may pass it.

        Args:
            what: is asked, for the message.
            attempt: given the seconds that are left, > 0; raises `NotNowError` to be repeated.

        Raises:
            ServingError: with the last reason.
        """
        deadline = self._clock() + self._timeout_s
        wait_s = FIRST_WAIT_S
        number = 0
        while True:
            number += 1
            try:
                return attempt(max(deadline - self._clock(), 1e-3))
            except NotNowError as error:
                reason, pause_s = str(error), max(wait_s, error.wait_s)
            if number > self._retries or self._clock() + pause_s >= deadline:
                raise ServingError(
                    f"{what} failed {number} time(s) within timeout_s == {self._timeout_s}; "
                    f"the last: {reason}"
                )
            self._sleep(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
