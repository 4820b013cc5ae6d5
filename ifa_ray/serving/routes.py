"""The HTTP face of a served ranker; knows media types and status codes, no model and no Ray.

    POST /v1/rank?slot=0&min_version=0    requests in, responses out, both Arrow or both JSON
    GET  /v1/models                       slots, versions, settings
    POST /v1/events, GET and DELETE /v1/users/{id}: see `ifa_ray.serving.history_routes`
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
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ifa_ray.errors import CheckpointError, RankerError, RequestError, StoreError, shortened
from ifa_ray.serving import wire
from ifa_ray.serving.appends import SequenceConflictError
from ifa_ray.serving.bodies import (
    BodyTooLongError,
    MediaTypeError,
    documented_request,
    documented_response,
    read_body,
)
from ifa_ray.serving.deployment import NoStoreError, RankerDeployment, UnknownSlotError
from ifa_ray.serving.event_forms import AppendBody
from ifa_ray.serving.history_routes import add_history_routes
from ifa_ray.serving.json_form import ErrorBody, RequestBody, ResponseBody
from ifa_ray.serving.load import MAX_DEADLINE_MS, DeadlineError
from ifa_ray.serving.sequence_store import StoreFullError
from ifa_ray.serving.token import TokenError, read_token, token_check

__all__ = ["build_http"]


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
        """Whether the process answers at all."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> dict[str, Any]:
        """Whether every slot holds a version; a replica starts to listen only then."""
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
