"""The HTTP API of a served ranker; knows media types and status codes, no model and no Ray.

    POST /v1/rank?slot=0&min_version=0    requests in, responses out, both Arrow or both JSON
    GET  /v1/models                       slots, versions, settings
    POST /v1/events                       impressions in, history lengths out
    GET and DELETE /v1/users/{id}         the length of a stored history; its erasure
    GET  /healthz                         the event loop answers
    GET  /readyz                          every slot holds a version

Where the settings ask for a token (`token_env`), every route under /v1 does.

Errors are {"error": "field, value, rule"}: 401 no token or another, 404 unknown slot or no store,
408 a deadline that passed while the call waited (and so does Serve for its `request_timeout_s`),
409 no such version, or impressions that do not follow those stored, 413 a body too long, 415
another media type, 422 a request that breaks the contract, 500 a ranker whose answer does or a
store that cannot be read, 507 a store that is full. Serve itself answers 503 when its queue is
full.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from ifa_ray.errors import (
    CheckpointError,
    ConfigError,
    RankerError,
    RequestError,
    StoreError,
    shortened,
)
from ifa_ray.serving import wire
from ifa_ray.serving.deployment import NoStoreError, RankerDeployment, UnknownSlotError
from ifa_ray.serving.events import (
    AppendBody,
    AppendedBody,
    ErasedBody,
    UserBody,
    decode_appends,
    encode_appended,
)
from ifa_ray.serving.json_form import ErrorBody, RequestBody, ResponseBody
from ifa_ray.serving.sequence_store import SequenceConflictError, StoreFullError
from ifa_ray.serving.versions import MAX_DEADLINE_MS, DeadlineError

MIN_TOKEN = 16
"""Characters of a token, at least."""

_SCHEME = HTTPBearer(auto_error=False, description="The application's token.")


class TokenError(RequestError):
    """A call brought no token, or another one."""


def read_token(name: str, environment: Mapping[str, str]) -> str:
    """The token in an environment variable.

    Raises:
        ConfigError: if there is none, or one that could be guessed or cannot be sent; the message
            does not hold it.
    """
    token = environment.get(name, "")
    if len(token) < MIN_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"token_env == {name!r}: the variable holds {len(token)} characters, must hold "
            f">= {MIN_TOKEN}, printable ASCII without spaces."
        )
    return token


def token_check(token: str) -> Callable[..., None]:
    """A dependency of routes that lets nobody in without the token."""

    def check(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]) -> None:
        """Refuses another token."""
        _compare("" if sent is None else sent.credentials, token)

    return check


def _compare(found: str, token: str) -> None:
    """In a time that does not depend on how much is right."""
    if not hmac.compare_digest(found.encode(), token.encode()):
        raise TokenError("authorization == ..., must be 'Bearer ' and the application's token.")


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


_MAX_INT32 = 2**31 - 1  # versions are int32 in every answer

# The first class that fits decides: subclasses stand before RequestError.
_STATUS: dict[type[Exception], int] = {
    TokenError: 401,
    UnknownSlotError: 404,
    NoStoreError: 404,
    DeadlineError: 408,
    SequenceConflictError: 409,
    BodyTooLongError: 413,
    MediaTypeError: 415,
    RequestError: 422,
    CheckpointError: 409,
    RankerError: 500,
    StoreFullError: 507,
    StoreError: 500,
}


def build_http(service: RankerDeployment) -> FastAPI:
    """The routes of one replica.

    Raises:
        ConfigError: if the environment holds no token where the settings ask for one.
    """
    api = FastAPI(title="ifa_ray", version=_version(), redoc_url=None)
    limits = service.settings
    stored = limits.sequence_store is not None
    locked = APIRouter()
    if limits.token_env is not None:
        check = token_check(read_token(limits.token_env, os.environ))
        locked.dependencies.append(Depends(check))

    @locked.post(
        "/v1/rank",
        response_class=Response,
        responses=_documented_responses(),
        openapi_extra={"requestBody": documented_request(RequestBody)},
    )
    async def rank(
        request: Request,
        slot: Annotated[
            int, Query(ge=0, le=_MAX_INT32, description="Which model: the replicate's number.")
        ] = 0,
        min_version: Annotated[
            int, Query(ge=0, le=_MAX_INT32, description="The oldest version that may answer.")
        ] = 0,
        deadline_ms: Annotated[
            int | None,
            Header(
                alias="deadline-ms",
                ge=1,
                le=MAX_DEADLINE_MS,
                description="How long the answer is of use, from when the replica has the call.",
            ),
        ] = None,
    ) -> Response:
        """Ranks the candidates of each request; the answer has the media type of the body."""
        body, media_type = await read_body(request, limits.max_body_bytes)
        # Long JSON takes tens of milliseconds to read; health checks must not wait for it.
        requests, wanted = await asyncio.to_thread(
            wire.decode_requests, body, media_type, limits.max_requests, stored=stored
        )
        responses = await service.rank(slot, requests, min_version, deadline_ms=deadline_ms)
        return Response(wire.encode_responses(responses, media_type, wanted), media_type=media_type)

    add_history_routes(locked, service)

    @locked.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is served: slots, the versions in memory (newest first), settings."""
        return await service.models()

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """True if the process answers at all."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> dict[str, Any]:
        """True if every slot holds a version; a replica starts to listen only then."""
        served = await service.models()
        return {"status": "ready", "versions": [slot["version"] for slot in served["slots"]]}

    api.include_router(locked)
    for kind, status in _STATUS.items():
        api.add_exception_handler(kind, _answer(status))
    api.add_exception_handler(RequestValidationError, _answer_query_error)
    api.openapi = _with_schemas(api.openapi)  # type: ignore[method-assign]
    return api


def _answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def handler(_: Request, error: Exception) -> JSONResponse:
        headers = {"www-authenticate": "Bearer"} if status == 401 else None
        return JSONResponse({"error": str(error)}, status_code=status, headers=headers)

    return handler


def _answer_query_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    message = f"{first['loc'][-1]} == {shortened(repr(first['input']))}: {first['msg']}."
    return JSONResponse({"error": message}, status_code=422)


def _documented_responses() -> dict[int | str, dict[str, Any]]:
    errors = {
        404: "Unknown slot",
        408: "The call's deadline passed while it waited; it was not ranked",
        409: "The version does not exist",
        413: "The body is too long",
        415: "Neither JSON nor Arrow",
        422: "The request breaks the contract",
        500: "The ranker's answer breaks the contract",
    }
    return {
        200: documented_response(ResponseBody),
        **{code: {"model": ErrorBody, "description": text} for code, text in errors.items()},
    }


def _with_schemas(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Adds the requests' schemas: routes read their bodies themselves, and FastAPI knows none."""

    def documented() -> dict[str, Any]:
        described = openapi()
        for body in (RequestBody, AppendBody):
            schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = schema.pop("$defs", {})
            described["components"]["schemas"].update(parts, **{body.__name__: schema})
        return described

    return documented


def _version() -> str:
    try:
        return version("ifa-ray")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


_ERRORS = {
    404: "The application keeps no histories",
    409: "The impressions do not follow those that are stored",
    413: "The body is too long",
    415: "Neither JSON nor Arrow",
    422: "The impressions break the contract",
    500: "The store is damaged or cannot be read",
    507: "The store is full; nothing of the call was written",
}

UserId = Annotated[int, Path(ge=0, le=2**63 - 1, examples=[7])]


def add_history_routes(api: APIRouter, service: RankerDeployment) -> None:
    """Adds the routes to those of one replica."""
    limits = service.settings

    @api.post(
        "/v1/events",
        response_class=Response,
        responses={200: documented_response(AppendedBody), **_documented(*_ERRORS)},
        openapi_extra={"requestBody": documented_request(AppendBody)},
    )
    async def events(request: Request) -> Response:
        """Appends impressions to histories, all of the body or none; on disk when answered."""
        body, media_type = await read_body(request, limits.max_body_bytes)
        appends = await asyncio.to_thread(decode_appends, body, media_type, limits.max_requests)
        done = await service.append(appends)
        return Response(encode_appended(done, media_type), media_type=media_type)

    @api.get("/v1/users/{user_id}", responses=_documented(404, 422, 500))
    async def user(user_id: UserId) -> UserBody:
        """How much is stored of a user."""
        watermark, last_ms = await service.user(user_id)
        return UserBody(user_id=user_id, watermark=watermark, last_ms=last_ms)

    @api.delete("/v1/users/{user_id}", responses=_documented(404, 422, 500))
    async def erase(user_id: UserId) -> ErasedBody:
        """Removes a user's history and states; saying it again changes nothing."""
        return ErasedBody(user_id=user_id, erased=await service.erase(user_id))


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorBody, "description": _ERRORS[code]} for code in statuses}
