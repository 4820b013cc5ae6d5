"""An optional bearer token of the HTTP and gRPC faces: one secret, from an environment variable.

Knows FastAPI's security scheme, so that the documentation offers it; no route and no settings.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ifa_ray.errors import ConfigError, RequestError

__all__ = ["MIN_LENGTH", "TokenError", "check_bearer", "read_token", "token_check"]

MIN_LENGTH = 16
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
    if len(token) < MIN_LENGTH or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"token_env == {name!r}: the variable holds {len(token)} characters, must hold "
            f">= {MIN_LENGTH}, printable ASCII without spaces."
        )
    return token


def token_check(token: str) -> Callable[..., None]:
    """A dependency of routes that lets nobody in without the token."""

    def check(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]) -> None:
        """Refuses another token."""
        _compare("" if sent is None else sent.credentials, token)

    return check


def check_bearer(authorization: str | bytes | None, token: str) -> None:
    """Checks the value of an `authorization` that came without HTTP.

    Raises:
        TokenError: if it is not "Bearer " and the token.
    """
    scheme, _, found = authorization.partition(" ") if isinstance(authorization, str) else ("",) * 3
    _compare(found if scheme.lower() == "bearer" else "", token)


def _compare(found: str, token: str) -> None:
    """In a time that does not depend on how much is right."""
    if not hmac.compare_digest(found.encode(), token.encode()):
        raise TokenError("authorization == ..., must be 'Bearer ' and the application's token.")
