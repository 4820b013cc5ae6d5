"""The gRPC face of a served ranker: the methods that Serve's gRPC proxy calls by their names.

Knows messages and status codes, no model. The proxy hands a call to the method of the replica that
is named as in `ranking.proto`, and sends what is set on the context along with what is returned, so
an error here is a status on the context and an empty answer: raised ones would lose their name on
the way, and fill the proxy's log.

    UNAUTHENTICATED      no token, or another
    INVALID_ARGUMENT     a request that breaks the contract, an unknown slot, a call too long
    FAILED_PRECONDITION  the application keeps no histories
    ABORTED              impressions that do not follow those stored
    NOT_FOUND            no such version (or, from Serve, no such application)
    DEADLINE_EXCEEDED    the deadline passed while the call waited
    RESOURCE_EXHAUSTED   the store is full (or, from Serve, its queue)
    UNIMPLEMENTED        the application is not to be reached by gRPC
    INTERNAL             a ranker whose answer breaks the contract, a store that cannot be read
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from ifa_ray.errors import CheckpointError, RankerError, RequestError, StoreError
from ifa_ray.serving import grpc_form
from ifa_ray.serving.appends import SequenceConflictError
from ifa_ray.serving.deployment import NoStoreError, RankerDeployment
from ifa_ray.serving.grpc_bytes import read_call
from ifa_ray.serving.load import MAX_DEADLINE_MS, DeadlineError
from ifa_ray.serving.proto import ranking_pb2 as pb
from ifa_ray.serving.sequence_store import StoreFullError
from ifa_ray.serving.token import TokenError, check_bearer, read_token

__all__ = ["GrpcOffError", "RankerService"]

_log = logging.getLogger(__name__)

Call = TypeVar("Call", bound=Message)
Answer = TypeVar("Answer")


class GrpcOffError(RequestError):
    """The application is not to be reached by gRPC."""


# The first class that fits decides: subclasses stand before RequestError.
_STATUS: dict[type[Exception], grpc.StatusCode] = {
    GrpcOffError: grpc.StatusCode.UNIMPLEMENTED,
    TokenError: grpc.StatusCode.UNAUTHENTICATED,
    NoStoreError: grpc.StatusCode.FAILED_PRECONDITION,
    SequenceConflictError: grpc.StatusCode.ABORTED,
    RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    CheckpointError: grpc.StatusCode.NOT_FOUND,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    StoreFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RankerError: grpc.StatusCode.INTERNAL,
    StoreError: grpc.StatusCode.INTERNAL,
}


class RankerService(RankerDeployment):
    """A replica that answers gRPC too; see `RankerDeployment` for what the calls do."""

    def __init__(self, *args: Any) -> None:
        """As `RankerDeployment`.

        Raises:
            ConfigError: also if the environment holds no token where the settings ask for one.
        """
        super().__init__(*args)
        name = self.settings.token_env
        self._token = None if name is None else read_token(name, os.environ)

    async def Rank(self, call: bytes | pb.RankCall, grpc_context: Any) -> pb.RankAnswer:
        """Ranks the candidates of each request."""

        async def work(call: pb.RankCall) -> pb.RankAnswer:
            deadline_ms = _deadline_ms(grpc_context)
            if call.min_version < 0:
                raise RequestError(f"min_version == {call.min_version}, must be >= 0.")
            requests, wanted = grpc_form.decode_requests(
                call,
                self.settings.max_requests,
                stored=self.settings.sequence_store is not None,
            )
            responses = await self.rank(
                call.slot, requests, call.min_version, deadline_ms=deadline_ms
            )
            return grpc_form.encode_responses(responses, wanted)

        return await self._answered(call, grpc_context, pb.RankCall, pb.RankAnswer, work)

    async def AppendEvents(self, call: bytes | pb.AppendCall, grpc_context: Any) -> pb.AppendAnswer:
        """Adds impressions to histories."""

        async def work(call: pb.AppendCall) -> pb.AppendAnswer:
            appends = grpc_form.decode_appends(call, self.settings.max_requests)
            return grpc_form.encode_appended(await self.append(appends))

        return await self._answered(call, grpc_context, pb.AppendCall, pb.AppendAnswer, work)

    async def GetUser(self, call: bytes | pb.UserCall, grpc_context: Any) -> pb.UserAnswer:
        """How much is stored of a user."""

        async def work(call: pb.UserCall) -> pb.UserAnswer:
            watermark, last_ms = await self.user(_user_id(call))
            return pb.UserAnswer(user_id=call.user_id, watermark=watermark, last_ms=last_ms)

        return await self._answered(call, grpc_context, pb.UserCall, pb.UserAnswer, work)

    async def EraseUser(self, call: bytes | pb.UserCall, grpc_context: Any) -> pb.EraseAnswer:
        """Removes a user's history and states."""

        async def work(call: pb.UserCall) -> pb.EraseAnswer:
            return pb.EraseAnswer(user_id=call.user_id, erased=await self.erase(_user_id(call)))

        return await self._answered(call, grpc_context, pb.UserCall, pb.EraseAnswer, work)

    async def Models(self, call: bytes | pb.ModelsCall, grpc_context: Any) -> pb.ModelsAnswer:
        """What is served, as one JSON document."""

        async def work(_: pb.ModelsCall) -> pb.ModelsAnswer:
            return pb.ModelsAnswer(json=json.dumps(await self.models()))

        return await self._answered(call, grpc_context, pb.ModelsCall, pb.ModelsAnswer, work)

    async def Health(self, call: bytes | pb.HealthCall, grpc_context: Any) -> pb.HealthAnswer:
        """Whether every slot holds a version; asks for no token."""

        async def work(_: pb.HealthCall) -> pb.HealthAnswer:
            slots = (await self.models())["slots"]
            return pb.HealthAnswer(status="ready", versions=[slot["version"] for slot in slots])

        return await self._answered(
            call, grpc_context, pb.HealthCall, pb.HealthAnswer, work, locked=False
        )

    async def _answered(
        self,
        call: bytes | Call,
        context: Any,
        kind: type[Call],
        empty: Callable[[], Answer],
        work: Callable[[Call], Awaitable[Answer]],
        *,
        locked: bool = True,
    ) -> Answer:
        """What `work` gives for the call's message, or a status and an empty answer."""
        try:
            if not self.settings.grpc:
                raise GrpcOffError("grpc == False: this application is not to be reached by gRPC.")
            if locked and self._token is not None:
                check_bearer(dict(context.invocation_metadata()).get("authorization"), self._token)
            return await work(read_call(call, kind, self.settings.max_body_bytes))
        except Exception as error:
            for wrong, code in _STATUS.items():
                if isinstance(error, wrong):
                    context.set_code(code)
                    context.set_details(str(error))
                    break
            else:  # what went wrong is the log's to know, not the caller's
                _log.exception("a gRPC call failed")
                context.set_code(grpc.StatusCode.INTERNAL)
                context.set_details("Internal error.")
            return empty()


def _deadline_ms(context: Any) -> int | None:
    value = dict(context.invocation_metadata()).get("deadline-ms")
    if value is None:
        return None
    if not (
        value.isascii()
        and value.isdigit()
        and len(value) <= 9
        and 1 <= int(value) <= MAX_DEADLINE_MS
    ):
        raise RequestError(f"deadline-ms == {value[:60]!r}, must be in [1, {MAX_DEADLINE_MS}].")
    return int(value)


def _user_id(call: pb.UserCall) -> int:
    if call.user_id < 0:
        raise RequestError(f"user_id == {call.user_id}, must be >= 0.")
    return call.user_id
