"""A client of a served ranker's HTTP API; knows bytes, status codes and a retry policy, no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx

from ifa_ray.errors import ConfigError, RequestError, ServingError
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving import events, wire
from ifa_ray.serving.sequence_store import Append, Appended
from ifa_ray.serving.versions import MAX_DEADLINE_MS

_MEDIA_TYPES = {"arrow": wire.ARROW, "json": wire.JSON}
_RETRIED = (502, 503, 504)  # a proxy without a replica, a full queue, a proxy's patience
# Bodies are not read on the way to a replica, so whose they are is told beside them.
SESSION_HEADER = "x-session-id"
_CONFLICT = (409,)  # of an append, the caller's; of a version, the server's


class RankClient:
    """Ranks at `base_url`; use it as a context manager, from one thread.

    with RankClient("http://127.0.0.1:8000") as client:
        (response,) = client.rank([request])
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 10.0,
        retries: int = 3,
        format: Literal["arrow", "json"] = "arrow",  # noqa: A002 - the word its users look for
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens a pool of connections; nothing is sent yet.

        Args:
            base_url: scheme, host, port and the application's route prefix.
            timeout_s: of one call, its retries and waits included.
            retries: attempts after the first.
            format: "arrow", or "json" to read along.
            token: of the application, where it asks for one.
            transport: of the bytes; None is the network.
            clock: seconds, for the deadline.
            sleep: waits that many seconds between attempts.

        Raises:
            ConfigError: on a setting outside its rule.
        """
        self._patience = RetryPolicy(timeout_s, retries, clock, sleep)
        if format not in _MEDIA_TYPES:
            raise ConfigError(f"format == {format!r}, must be 'arrow' or 'json'.")
        self._media_type = _MEDIA_TYPES[format]
        # trust_env=False: a proxy meant for the web would receive users' histories.
        self._http = httpx.Client(
            base_url=base_url,
            transport=transport,
            trust_env=False,
            headers={} if token is None else {"authorization": f"Bearer {token}"},
        )

    def rank(
        self,
        requests: Sequence[RankRequest],
        *,
        slot: int = 0,
        min_version: int = 0,
        probabilities: bool = False,
    ) -> list[RankResponse]:
        """Ranks requests; one call, and so one version, for all of them, or a call each in JSON.

        Args:
            requests: at least one. A history of `ifa_ray.schema.FROM_STORE` is the one that the
                server keeps of the user; the response's `watermark` says how long it was.
            slot: which model.
            min_version: the oldest version that may answer.
            probabilities: True asks for each objective's too.

        Raises:
            RequestError: the server refused the request; the message is the server's.
            ServingError: no server, no answer in time, or an answer that is none.
        """
        each_alone = self._media_type == wire.JSON
        groups = [[request] for request in requests] if each_alone else [list(requests)]
        params = {"slot": slot, "min_version": min_version}
        responses: list[RankResponse] = []
        for group in groups:
            body = wire.encode_requests(group, self._media_type, probabilities=probabilities)
            answer = self._send(
                "POST", "/v1/rank", params=params, content=body, tells_deadline=True,
                session=session_of(group),
            )  # fmt: skip
            self._check_media_type(answer)
            responses += wire.decode_responses(answer.content, self._media_type, len(group))
        return responses

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Adds impressions to the histories that the server keeps, on its disk on return.

        One call stores all of them or none; in JSON each is a call of its own.

        Args:
            appends: at least one.

        Raises:
            RequestError: the server refused them, as where they do not follow what is stored; the
                message says from where on they must.
            ServingError: as `rank`; also if the server's store is full.
        """
        each_alone = self._media_type == wire.JSON
        groups = [[append] for append in appends] if each_alone else [list(appends)]
        done: list[Appended] = []
        for group in groups:
            body = events.encode_appends(group, self._media_type)
            answer = self._send(
                "POST", "/v1/events", content=body, refusals=_CONFLICT, session=session_of(group)
            )
            self._check_media_type(answer)
            done += events.decode_appended(answer.content, self._media_type, len(group))
        return done

    def watermark(self, user_id: int) -> int:
        """How many impressions the server keeps of a user: where the next append begins.

        Raises:
            RequestError: the server keeps no histories.
            ServingError: as `rank`.
        """
        answer = self._send("GET", f"/v1/users/{user_id}")
        return events.read_user(answer.content).watermark

    def erase(self, user_id: int) -> int:
        """Removes what the server keeps of a user; returns how many impressions there were.

        Raises:
            RequestError, ServingError: as `watermark`.
        """
        answer = self._send("DELETE", f"/v1/users/{user_id}", session=str(user_id))
        return events.read_erased(answer.content).erased

    def models(self) -> dict[str, Any]:
        """Slots, the versions in memory and the settings of one replica.

        Raises:
            ServingError: as `rank`.
        """
        return dict(self._send("GET", "/v1/models").json())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_media_type(self, answer: httpx.Response) -> None:
        media_type = answer.headers.get("content-type", "")
        if media_type != self._media_type:
            raise ServingError(f"content-type == {media_type!r}, must be {self._media_type!r}.")

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, int] | None = None,
        content: bytes | None = None,
        refusals: tuple[int, ...] = (),
        tells_deadline: bool = False,
        session: str = "",
    ) -> httpx.Response:
        """Sends until an answer is final; see `RetryPolicy`.

        Args:
            method: of HTTP.
            path: below the base.
            params: of the query.
            content: of the body.
            refusals: statuses that are the caller's fault, besides those that always are.
            tells_deadline: whether the server is told how long the answer is waited for.
            session: whose replica is to answer; empty if it is nobody's.
        """

        def attempt(left_s: float) -> httpx.Response:
            headers = {"content-type": self._media_type} if content is not None else {}
            if session:
                headers[SESSION_HEADER] = session
            if tells_deadline:
                headers["deadline-ms"] = str(min(max(1, int(1e3 * left_s)), MAX_DEADLINE_MS))
            try:
                answer = self._http.request(
                    method, path, params=params, content=content, headers=headers, timeout=left_s
                )
            except httpx.TransportError as error:
                raise RetryableError(f"{type(error).__name__}: {error}") from None
            if answer.status_code in _RETRIED:
                raise RetryableError(_message(answer), _retry_after_s(answer))
            return _checked(answer, refusals)

        return self._patience.answer_of(f"{method} {self._http.base_url.join(path)}", attempt)


def _checked(answer: httpx.Response, refusals: tuple[int, ...]) -> httpx.Response:
    if answer.status_code == 200:
        return answer
    if answer.status_code in (404, 413, 415, 422, *refusals) and _has_error(answer):
        raise RequestError(_message(answer))
    raise ServingError(f"status {answer.status_code}: {_message(answer)}")


def _has_error(answer: httpx.Response) -> bool:
    # A 404 without it comes from a proxy that has no such route, not from the ranker.
    try:
        return isinstance(answer.json()["error"], str)
    except (ValueError, KeyError, TypeError):
        return False


def _message(answer: httpx.Response) -> str:
    if _has_error(answer):
        return str(answer.json()["error"])
    return answer.text[:200] or answer.reason_phrase


def _retry_after_s(answer: httpx.Response) -> float:
    value = answer.headers.get("retry-after", "")
    return min(float(value), LONGEST_WAIT_S) if value.isdigit() else 0.0


def session_of(calls: Sequence[RankRequest] | Sequence[Append]) -> str:
    """The user of a call; empty of several users, as no replica is theirs."""
    users = {one.user_id for one in calls}
    return str(users.pop()) if len(users) == 1 else ""


FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0

Answer = TypeVar("Answer")


class RetryableError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        """Notes the reason, and how long the server asks to be left alone."""
        super().__init__(reason)
        self.wait_s = wait_s


class RetryPolicy:
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
            attempt: given the seconds that are left, > 0; raises `RetryableError` to be repeated.

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
            except RetryableError as error:
                reason, pause_s = str(error), max(wait_s, error.wait_s)
            if number > self._retries or self._clock() + pause_s >= deadline:
                raise ServingError(
                    f"{what} failed {number} time(s) within timeout_s == {self._timeout_s}; "
                    f"the last: {reason}"
                )
            self._sleep(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
