"""Who may use the ops API: bearer keys, compared in constant time."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from reward_relay.errors import Unauthenticated
from reward_relay.keys import actor_of, may_act

bearer = HTTPBearer(auto_error=False, description="A key of [api_keys]")


def bearer_of(request: Request) -> str:
    """The key in header Authorization, "" where there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else ""


def viewer(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The name of the caller, who may read."""
    keys = request.app.state.relay.settings.api_keys
    if credentials is None and keys:
        raise Unauthenticated("send header Authorization: Bearer <key>, with a key of [api_keys]")
    return actor_of(keys, credentials.credentials if credentials else "")[0]


def operator(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The name of the caller, who may act."""
    name = viewer(request, credentials)
    may_act(name, request.app.state.relay.settings.api_keys[name].role)
    return name


Viewer = Annotated[str, Depends(viewer)]
Operator = Annotated[str, Depends(operator)]
