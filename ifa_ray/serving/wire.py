"""Requests and responses as bytes from outside: Arrow streams for programs, JSON for people.

Knows which media type means which form; no HTTP, no ranker. No pickle crosses this boundary, and
sizes are checked before anything of that size is made. Whoever receives a body limits its length.
"""

from __future__ import annotations

from collections.abc import Sequence

from ifa_ray.errors import RequestError
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving import arrow_form, json_form

__all__ = ["ARROW", "JSON", "decode_requests", "decode_responses", "encode_requests",
           "encode_responses"]  # fmt: skip

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"


def encode_requests(
    requests: Sequence[RankRequest], media_type: str = ARROW, *, probabilities: bool = False
) -> bytes:
    """Requests as one body. JSON holds exactly one request."""
    if media_type == JSON:
        (request,) = requests
        return json_form.encode_request(request, probabilities)
    return arrow_form.encode_requests(requests, probabilities)


def decode_requests(
    body: bytes, media_type: str, max_requests: int, *, stored: bool = False
) -> tuple[list[RankRequest], list[bool]]:
    """Reads one body: the requests, and whether each wants probabilities.

    Types and sizes are checked here, everything else by `ifa_ray.schema.validate_request`.

    Args:
        body: from outside.
        media_type: its form.
        max_requests: at most.
        stored: True where the service keeps histories: a request may name its user alone, and is
            read as one whose history is `FROM_STORE`.

    Raises:
        RequestError: naming what is wrong.
    """
    if media_type == JSON:
        request, probabilities = json_form.decode_request(body, stored=stored)
        return [request], [probabilities]
    if media_type != ARROW:
        raise RequestError(f"content-type == {media_type!r}, must be {JSON!r} or {ARROW!r}.")
    pairs = arrow_form.decode_requests(body, max_requests, stored=stored)
    return [request for request, _ in pairs], [wanted for _, wanted in pairs]


def encode_responses(
    responses: Sequence[RankResponse], media_type: str, probabilities: Sequence[bool]
) -> bytes:
    """Responses as one body; `probabilities` says which of them carry theirs."""
    if media_type == JSON:
        (response,), (wanted,) = responses, probabilities
        return json_form.encode_response(response, wanted)
    return arrow_form.encode_responses(responses, probabilities)


def decode_responses(body: bytes, media_type: str, num_requests: int) -> list[RankResponse]:
    """Reads a server's answer to `num_requests` requests.

    Raises:
        ServingError: if it is not one.
    """
    if media_type == JSON:
        return [json_form.decode_response(body)]
    return arrow_form.decode_responses(body, num_requests)
