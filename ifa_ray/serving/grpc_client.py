"""A client of a served ranker's gRPC face: `RankClient`'s methods, over `ranking.proto`.

Knows messages, status codes and patience (`ifa_ray.serving.patience`), no Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from ifa_ray.errors import RequestError, ServingError
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving import grpc_form
from ifa_ray.serving.appends import Append, Appended
from ifa_ray.serving.load import MAX_DEADLINE_MS
from ifa_ray.serving.patience import NotNowError, Patience
from ifa_ray.serving.placement import SESSION_METADATA, session_of
from ifa_ray.serving.proto import ranking_pb2 as pb
from ifa_ray.serving.proto import ranking_pb2_grpc

__all__ = ["GrpcRankClient"]

# No server or no replica; a full queue. Serve's proxy says no more about when to come back.
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
)


class GrpcRankClient:
    """Ranks with one application behind `target`; use it as a context manager.

    with GrpcRankClient("127.0.0.1:9000", application="ifa", token=token) as client:
        (response,) = client.rank([request])
    """

    def __init__(
        self,
        target: str,
        *,
        application: str,
        timeout_s: float = 10.0,
        retries: int = 3,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.Channel | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens a channel; nothing is sent yet.

        Args:
            target: host and port.
            application: its name, as `serve status` shows it.
            timeout_s: of one call, its retries and waits included.
            retries: attempts after the first.
            token: of the application.
            credentials: of TLS, for a proxy in front of the port; None sends as it is.
            channel: instead of one to `target`.
            clock: seconds, for the deadline.
            sleep: waits that many seconds between attempts.

        Raises:
            ConfigError: on a setting outside its rule.
        """
        self._patience = Patience(timeout_s, retries, clock, sleep)
        self._metadata: list[tuple[str, str]] = [("application", application)]
        if token is not None:
            self._metadata.append(("authorization", f"Bearer {token}"))
        # A request at the contract's limits is longer than gRPC's 4 MB. A proxy meant for the web
        # would receive users' histories.
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ]
        if channel is None and credentials is None:
            channel = grpc.insecure_channel(target, options)
        elif channel is None:
            channel = grpc.secure_channel(target, credentials, options)
        self._channel = channel
        self._stub = ranking_pb2_grpc.RankingStub(channel)

    def rank(
        self,
        requests: Sequence[RankRequest],
        *,
        slot: int = 0,
        min_version: int = 0,
        probabilities: bool = False,
    ) -> list[RankResponse]:
        """Ranks requests: one call, and so one version, for all of them.

        Arguments and errors are those of `ifa_ray.serving.client.RankClient.rank`.

        Raises:
            RequestError: the server refused the request; the message is the server's.
            ServingError: no server, no answer in time, or an answer that is none.
        """
        call = grpc_form.encode_requests(
            requests, slot=slot, min_version=min_version, probabilities=probabilities
        )
        answer = self._send("Rank", call, session_of(requests))
        return grpc_form.decode_responses(answer, len(requests))

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Adds impressions to the histories that the server keeps, on its disk on return.

        Raises:
            RequestError: the server refused them; where they do not follow what is stored, the
                message says from where on they must.
            ServingError: as `rank`; also if the server's store is full.
        """
        call = grpc_form.encode_appends(appends)
        answer = self._send("AppendEvents", call, session_of(appends))
        return grpc_form.decode_appended(answer, len(appends))

    def watermark(self, user_id: int) -> int:
        """How many impressions the server keeps of a user: where the next append begins.

        Raises:
            RequestError: the server keeps no histories.
            ServingError: as `rank`.
        """
        return int(self._send("GetUser", pb.UserCall(user_id=user_id)).watermark)

    def erase(self, user_id: int) -> int:
        """Removes what the server keeps of a user; returns how many impressions there were.

        Raises:
            RequestError, ServingError: as `watermark`.
        """
        call = pb.UserCall(user_id=user_id)
        return int(self._send("EraseUser", call, str(user_id)).erased)

    def models(self) -> dict[str, Any]:
        """Slots, the versions in memory and the settings of one replica.

        Raises:
            ServingError: as `rank`.
        """
        return dict(json.loads(self._send("Models", pb.ModelsCall()).json))

    def versions(self) -> list[int]:
        """The newest version of each slot, if the application is ready.

        Raises:
            ServingError: as `rank`.
        """
        return list(self._send("Health", pb.HealthCall()).versions)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, method: str, call: Any, session: str = "") -> Any:
        send = getattr(self._stub, method)

        def attempt(left_s: float) -> Any:
            left_ms = min(max(1, int(1e3 * left_s)), MAX_DEADLINE_MS)
            metadata = [*self._metadata, ("deadline-ms", str(left_ms))]
            if session:
                metadata.append((SESSION_METADATA, session))
            try:
                return send(call, timeout=left_s, metadata=metadata)
            except grpc.RpcError as error:
                # Every error of a call is a grpc.Call too.
                code, details = error.code(), error.details()
                if code in _RETRIED:
                    raise NotNowError(f"{code.name}: {details}") from None
                if code in _REFUSED:
                    raise RequestError(details) from None
                raise ServingError(f"{method}: status {code.name}: {details}") from None

        return self._patience.answer_of(method, attempt)
