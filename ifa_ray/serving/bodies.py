"""Bodies of HTTP requests, read no further than the limit; knows no route."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel

from ifa_ray.errors import RequestError
from ifa_ray.serving import wire

__all__ = [
    "BodyTooLongError",
    "MediaTypeError",
    "documented_request",
    "documented_response",
    "read_body",
]


class BodyTooLongError(RequestError):
    """A body is longer than the limit; it was not read further."""


class MediaTypeError(RequestError):
    """A body is neither JSON nor Arrow."""


async def read_body(request: Request, limit: int) -> tuple[bytes, str]:
    """A whole body and its media type.

    Raises:
        MediaTypeError, BodyTooLongError: as their names say.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (wire.JSON, wire.ARROW):
        raise MediaTypeError(
            f"content-type == {media_type!r}, must be {wire.JSON!r} or {wire.ARROW!r}."
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise BodyTooLongError(f"content-length == {declared}, must be <= {limit}.")
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise BodyTooLongError(f"len(body) > {limit}, must be <= {limit}.")
        body += chunk
    return bytes(body), media_type


_BINARY = {wire.ARROW: {"schema": {"type": "string", "format": "binary"}}}


def documented_request(body: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body that a route reads itself."""
    reference = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"required": True, "content": {wire.JSON: {"schema": reference}, **_BINARY}}


def documented_response(body: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of an answer in the form in which the body came."""
    return {"model": body, "content": dict(_BINARY)}
