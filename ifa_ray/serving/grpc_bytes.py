"""Registers the service of `ranking.proto` so that calls reach a servicer as the bytes that came.

The generated function has the server read messages, and one that cannot be read is then `UNKNOWN`
or `INTERNAL`, as if the fault were ours; Serve's proxy would besides read every call only to write
it again for the replica. Here the replica reads, after it has checked the token and the length, and
says `INVALID_ARGUMENT`. Knows descriptors, no servicer.
"""

from __future__ import annotations

from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from ifa_ray.errors import RequestError
from ifa_ray.serving.proto import ranking_pb2 as pb

__all__ = ["add_ranking_to_server", "read_call"]

Call = TypeVar("Call", bound=Message)


def add_ranking_to_server(servicer: Any, server: Any) -> None:
    """Adds a servicer; Serve's `grpc_servicer_functions` names this function."""
    service = pb.DESCRIPTOR.services_by_name["Ranking"]
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            response_serializer=getattr(pb, method.output_type.name).SerializeToString,
        )
        for method in service.methods
    }
    handler = grpc.method_handlers_generic_handler(service.full_name, handlers)
    server.add_generic_rpc_handlers((handler,))
    server.add_registered_method_handlers(service.full_name, handlers)


def read_call(call: bytes | Call, kind: type[Call], max_bytes: int) -> Call:
    """The message of a call, its length first.

    Args:
        call: the bytes, or a message that somebody has read.
        kind: of message.
        max_bytes: at most.

    Raises:
        RequestError: if it is longer, or no such message.
    """
    size = len(call) if isinstance(call, bytes) else call.ByteSize()
    if size > max_bytes:
        raise RequestError(f"len(call) == {size}, must be <= {max_bytes}.")
    if not isinstance(call, bytes):
        return call
    try:
        return kind.FromString(call)
    except DecodeError:
        raise RequestError(f"call of {size} bytes, must be a {kind.__name__}.") from None
