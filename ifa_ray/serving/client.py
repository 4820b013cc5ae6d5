"""A client of a served ranker's HTTP API; knows bytes, status codes and a retry policy, no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import httpx

from ifa_ray.config import require
from ifa_ray.errors import RequestError, ServingError
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving import wire
from ifa_ray.serving.sequence_store import Append, Appended

SESSION_HEADER = "x-session-id"
"""Bodies are not read on the way to a replica, so whose they are is told beside them."""

_RETRIED = (502, 503, 504)  # a proxy without a replica, a full queue, a proxy's patience
_REFUSED = (404, 413, 415, 422)  # the caller's fault
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


class RankClient:
    """Ranks at `base_url`, in Arrow; use it as a context manager, from one thread.

    with RankClient("http://127.0.0.1:8000") as client:
        (response,) = client.rank([request])
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 10.0,
        retries: int = 3,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens a pool of connections; nothing is sent yet.

        Args:
            base_url: scheme, host, port and the application's route prefix.
            timeout_s: of one call, its retries and waits included. It bounds when an attempt may
                start and how long it may wait for the network at a stretch; an answer that trickles
                in may pass it.
            retries: attempts after the first.
            token: of the application, where it asks for one.
            transport: of the bytes; None is the network.
            clock: seconds, for the deadline.
            sleep: waits between attempts.
        """
        require(timeout_s > 0, "timeout_s", timeout_s, "> 0")
        require(retries >= 0, "retries", retries, ">= 0")
        self._timeout_s, self._retries = timeout_s, retries
        self._clock, self._sleep = clock, sleep
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
        """Ranks requests; one call, and so one version, for all of them.

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
        answer = self._send(
            "POST",
            "/v1/rank",
            params={"slot": slot, "min_version": min_version},
            content=wire.encode_requests(requests, probabilities=probabilities),
            session=_session_of(requests),
            tells_deadline=True,
        )
        return wire.decode_responses(answer.content, len(requests))

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Adds impressions to the histories that the server keeps, on its disk on return.

        One call stores all of them, at least one, or none.

        Raises:
            RequestError: the server refused them, as where they do not follow what is stored; the
                message says from where on they must.
            ServingError: as `rank`; also if the server's store is full.
        """
        content, session = wire.encode_appends(appends), _session_of(appends)
        answer = self._send(
            "POST", "/v1/events", content=content, session=session, refused=(*_REFUSED, 409)
        )
        return wire.decode_appended(answer.content, len(appends))

    def watermark(self, user_id: int) -> int:
        """The number of a user's impressions on the server: where the next append begins."""
        return _number(self._send("GET", f"/v1/users/{user_id}"), "watermark")

    def erase(self, user_id: int) -> int:
        """Removes what the server keeps of a user; returns how many impressions there were."""
        answer = self._send("DELETE", f"/v1/users/{user_id}", session=str(user_id))
        return _number(answer, "erased")

    def models(self) -> dict[str, Any]:
        """Slots, the versions in memory and the settings of one replica."""
        return dict(self._send("GET", "/v1/models").json())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, int] | None = None,
        content: bytes | None = None,
        session: str = "",
        refused: tuple[int, ...] = _REFUSED,
        tells_deadline: bool = False,
    ) -> httpx.Response:
        """Sends until an answer is final, attempts are used up or waiting would pass the deadline.

        `refused` are statuses that are the caller's fault, `session` whose replica is to answer.
        """
        headers = {"content-type": wire.ARROW} if content is not None else {}
        if session:
            headers[SESSION_HEADER] = session
        deadline, wait_s = self._clock() + self._timeout_s, _FIRST_WAIT_S
        for number in range(1, self._retries + 2):
            left_s, pause_s = max(deadline - self._clock(), 1e-3), wait_s
            if tells_deadline:
                headers["deadline-ms"] = str(min(max(1, int(1e3 * left_s)), wire.MAX_DEADLINE_MS))
            try:
                answer = self._http.request(
                    method, path, params=params, content=content, headers=headers, timeout=left_s
                )
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code not in _RETRIED:
                    return _checked(answer, refused, content is not None)
                reason, after = _message(answer), answer.headers.get("retry-after", "")
                if after.isdigit():
                    pause_s = max(wait_s, min(float(after), _LONGEST_WAIT_S))
            if number > self._retries or self._clock() + pause_s >= deadline:
                break
            self._sleep(pause_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        raise ServingError(
            f"{method} {self._http.base_url.join(path)} failed {number} time(s) within timeout_s "
            f"== {self._timeout_s}; the last: {reason}"
        )


def _checked(answer: httpx.Response, refused: tuple[int, ...], in_arrow: bool) -> httpx.Response:
    # A 404 without an error comes from a proxy that has no such route, not from the ranker.
    if answer.status_code in refused and _field(answer, "error") is not None:
        raise RequestError(_message(answer))
    if answer.status_code != 200:
        raise ServingError(f"status {answer.status_code}: {_message(answer)}")
    media_type = answer.headers.get("content-type", "")
    if in_arrow and media_type != wire.ARROW:
        raise ServingError(f"content-type == {media_type!r}, must be {wire.ARROW!r}.")
    return answer


def _field(answer: httpx.Response, name: str) -> Any:
    try:
        return answer.json()[name]
    except (ValueError, KeyError, TypeError):
        return None


def _message(answer: httpx.Response) -> str:
    return str(_field(answer, "error") or answer.text[:200] or answer.reason_phrase)


def _number(answer: httpx.Response, field: str) -> int:
    found = _field(answer, field)
    if not isinstance(found, int):
        raise ServingError(f"not an answer about a user: {field} == {found!r}, must be an int.")
    return found


def _session_of(calls: Sequence[RankRequest] | Sequence[Append]) -> str:
    """The user of a call; empty of several users, as no replica is theirs."""
    users = {one.user_id for one in calls}
    return str(users.pop()) if len(users) == 1 else ""
