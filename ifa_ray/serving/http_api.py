"""The HTTP API of a served ranker; knows media types and status codes, no model and no Ray.

    POST /v1/rank?slot=0&min_version=0    requests in, responses out, both Arrow or both JSON
    GET  /v1/models                       slots, versions, settings
    POST /v1/events                       impressions in, history lengths out
    GET and DELETE /v1/users/{id}         the length of a stored history; its erasure
    GET  /healthz                         the event loop answers
    GET  /readyz                          every slot holds a version

Where the settings ask for a token (`token_env`), every route under /v1 does. Errors are
{"error": "field, value, rule"}, with a status of `_STATUS`. Serve itself answers 503 when its queue
is full, and 408 after its `request_timeout_s`.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from ifa_ray.config import require
from ifa_ray.errors import CheckpointError, RankerError, RequestError, StoreError, shortened
from ifa_ray.serving import wire
from ifa_ray.serving.deployment import (
    DeadlineError,
    NoStoreError,
    RankerDeployment,
    UnknownSlotError,
)
from ifa_ray.serving.json_form import (
    AppendBody,
    AppendedBody,
    ErasedBody,
    ErrorBody,
    RequestBody,
    ResponseBody,
    UserBody,
)
from ifa_ray.serving.sequence_store import SequenceConflictError, StoreFullError

_MIN_TOKEN = 16  # characters
_MAX_INT32 = 2**31 - 1  # versions are int32 in every answer
_UserId = Annotated[int, Path(ge=0, le=2**63 - 1, examples=[7])]
_SCHEME = HTTPBearer(auto_error=False, description="The application's token.")


# The first class that fits decides: subclasses stand before RequestError.
_STATUS: dict[type[Exception], int] = {
    UnknownSlotError: 404,
    NoStoreError: 404,
    DeadlineError: 408,
    SequenceConflictError: 409,
    RequestError: 422,
    CheckpointError: 409,
    RankerError: 500,
    StoreFullError: 507,
    StoreError: 500,
}


def read_token(name: str, environment: Mapping[str, str]) -> str:
    """The token in an environment variable, if it can be sent and not be guessed."""
    token = environment.get(name, "")
    sendable = all("!" <= letter <= "~" for letter in token)
    rule = (
        f"the name of a variable of >= {_MIN_TOKEN} characters, printable ASCII without spaces; "
        f"it holds {len(token)}"
    )
    require(len(token) >= _MIN_TOKEN and sendable, "token_env", name, rule)
    return token


def _token_check(token: str) -> Callable[..., None]:
    def check(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]) -> None:
        found = "" if sent is None else sent.credentials
        # In a time that does not depend on how much is right.
        if not hmac.compare_digest(found.encode(), token.encode()):
            rule = "must be 'Bearer ' and the application's token."
            headers = {"www-authenticate": "Bearer"}
            raise HTTPException(401, f"authorization == ..., {rule}", headers)

    return check


async def _read_body(request: Request, limit: int) -> tuple[bytes, str]:
    """A whole body and its media type."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (wire.JSON, wire.ARROW):
        rule = f"must be {wire.JSON!r} or {wire.ARROW!r}."
        raise HTTPException(415, f"content-type == {media_type!r}, {rule}")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise HTTPException(413, f"content-length == {declared}, must be <= {limit}.")
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise HTTPException(413, f"len(body) > {limit}, must be <= {limit}.")
        body += chunk
    return bytes(body), media_type


def build_http(service: RankerDeployment) -> FastAPI:
    """The routes of one replica."""
    try:
        release = version("ifa-ray")
    except PackageNotFoundError:  # run from a source tree that is not installed
        release = "0"
    api = FastAPI(title="ifa_ray", version=release, redoc_url=None)
    limits = service.settings
    stored = limits.sequence_store is not None
    locked = APIRouter()
    if limits.token_env is not None:
        check = _token_check(read_token(limits.token_env, os.environ))
        locked.dependencies.append(Depends(check))

    @locked.post("/v1/rank", **_documented(RequestBody, ResponseBody, 404, 408, 409, 500))
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
                le=wire.MAX_DEADLINE_MS,
                description="How long the answer is of use, from when the replica has the call.",
            ),
        ] = None,
    ) -> Response:
        """Ranks the candidates of each request; the answer has the media type of the body."""
        body, media_type = await _read_body(request, limits.max_body_bytes)
        # Long JSON takes tens of milliseconds to read; health checks must not wait for it.
        requests, wanted = await asyncio.to_thread(
            wire.decode_requests, body, media_type, limits.max_requests, stored=stored
        )
        responses = await service.rank(slot, requests, min_version, deadline_ms=deadline_ms)
        return Response(wire.encode_responses(responses, media_type, wanted), media_type=media_type)

    @locked.post("/v1/events", **_documented(AppendBody, AppendedBody, 404, 409, 500, 507))
    async def events(request: Request) -> Response:
        """Appends impressions to histories, all of the body or none; on disk when answered."""
        body, media_type = await _read_body(request, limits.max_body_bytes)
        appends = await asyncio.to_thread(
            wire.decode_appends, body, media_type, limits.max_requests
        )
        done = await service.append(appends)
        return Response(wire.encode_appended(done, media_type), media_type=media_type)

    @locked.get("/v1/users/{user_id}", responses=_errors(404, 422, 500))
    async def user(user_id: _UserId) -> UserBody:
        """The number of a user's stored impressions."""
        watermark, last_ms = await service.user(user_id)
        return UserBody(user_id=user_id, watermark=watermark, last_ms=last_ms)

    @locked.delete("/v1/users/{user_id}", responses=_errors(404, 422, 500))
    async def erase(user_id: _UserId) -> ErasedBody:
        """Removes a user's history and states; saying it again changes nothing."""
        return ErasedBody(user_id=user_id, erased=await service.erase(user_id))

    @locked.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The state of the service: slots, the versions in memory (newest first), settings."""
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
    api.add_exception_handler(HTTPException, _answer_refusal)
    api.openapi = _with_schemas(api.openapi)  # type: ignore[method-assign]
    return api


def _answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def handler(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=status)

    return handler


def _answer_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _answer_query_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    message = f"{first['loc'][-1]} == {shortened(repr(first['input']))}: {first['msg']}."
    return JSONResponse({"error": message}, status_code=422)


def _documented(asked: type[BaseModel], answered: type[BaseModel], *errors: int) -> dict[str, Any]:
    """OpenAPI's description of a route that reads its body itself, in either form."""
    binary = {wire.ARROW: {"schema": {"type": "string", "format": "binary"}}}
    reference = {"$ref": f"#/components/schemas/{asked.__name__}"}
    body = {"required": True, "content": {wire.JSON: {"schema": reference}, **binary}}
    good = {200: {"model": answered, "content": binary}}
    return {
        "response_class": Response,
        "responses": {**good, **_errors(*errors, 413, 415, 422)},
        "openapi_extra": {"requestBody": body},
    }


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorBody, "description": HTTPStatus(code).phrase} for code in statuses}


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
