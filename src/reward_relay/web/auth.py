"""Who may use the ops API: bearer keys, compared in constant time."""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from reward_relay.errors import Forbidden, Unauthenticated
from reward_relay.settings import ApiKey

NONE_CONFIGURED = "the ops API is closed, for no key is configured: add [api_keys.NAME] with role and key, then restart"
bearer = HTTPBearer(auto_error=False, description="A key of [api_keys]")


def actor_of(keys: dict[str, ApiKey], given: str) -> tuple[str, ApiKey]:
    """The name and entry of the key that was given. Takes the same time whichever it is.

    Raises:
        Unauthenticated: it is none of ours, or none is configured.
    """
    found = None
    for name, entry in keys.items():
        if hmac.compare_digest(entry.key.get_secret_value().encode(), given.encode("utf-8", "replace")):
            found = (name, entry)
    if found is None:
        raise Unauthenticated(NONE_CONFIGURED if not keys else "the key is none of [api_keys]; was it changed?")
    return found


def viewer(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The name of the caller, who may read."""
    keys = request.app.state.relay.settings.api_keys
    if credentials is None and keys:
        raise Unauthenticated("send header Authorization: Bearer <key>, with a key of [api_keys]")
    return actor_of(keys, credentials.credentials if credentials else "")[0]


def may_act(name: str, role: str) -> None:
    """See that a key may change something.

    Raises:
        Forbidden: it is a viewer's.
    """
    if role != "operator":
        raise Forbidden(f"{name} is a viewer; this needs a key with role operator")


def operator(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The name of the caller, who may act."""
    name = viewer(request, credentials)
    may_act(name, request.app.state.relay.settings.api_keys[name].role)
    return name


Viewer = Annotated[str, Depends(viewer)]
Operator = Annotated[str, Depends(operator)]
