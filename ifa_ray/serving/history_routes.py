"""HTTP routes of the histories that the service keeps; knows status codes, no store.

    POST   /v1/events        impressions in, watermarks out, both Arrow or both JSON
    GET    /v1/users/{id}    what is stored of a user
    DELETE /v1/users/{id}    nothing is, from then on

`ifa_ray.serving.routes` says which error is which status.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from ifa_ray.serving import event_forms
from ifa_ray.serving.bodies import documented_request, documented_response, read_body
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.event_forms import AppendBody, AppendedBody, ErasedBody, UserBody
from ifa_ray.serving.json_form import ErrorBody

__all__ = ["add_history_routes"]

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
        appends = await asyncio.to_thread(
            event_forms.decode_appends, body, media_type, limits.max_requests
        )
        done = await service.append(appends)
        return Response(event_forms.encode_appended(done, media_type), media_type=media_type)

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
