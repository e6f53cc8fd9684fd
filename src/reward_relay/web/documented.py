"""What the API's description promises: the same names of parameters, the same shape of errors, the same limits."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_relay.errors import Invalid
from reward_relay.near import did_you_mean
from reward_relay.web.auth import Viewer
from reward_relay.web.schemas import Error

MAX_BODY = 1 << 20
TOO_LARGE = f"the body is over {MAX_BODY} bytes (1 MiB)"
EXAMPLES: Mapping[int, tuple[str, str, str]] = {
    401: (
        "The key is missing or none of ours",
        "unauthenticated",
        "send header Authorization: Bearer <key>, with a key of [api_keys]",
    ),
    403: ("The key may only read", "forbidden", "vera is a viewer; this needs a key with role operator"),
    404: (
        "There is no such thing",
        "not_found",
        "there is no order 'R-1'; give its id, PO number or the platform's id",
    ),
    409: (
        "It is not allowed now, and why",
        "not_allowed",
        "order RR-0123456789ABCDEF cannot be retried: it is closed (fulfilled)",
    ),
    413: ("The body is over 1 MiB", "too_large", TOO_LARGE),
    422: (
        "The request is not understood, and what in it",
        "invalid",
        'there is no parameter "stat" here; did you mean "state"?',
    ),
    503: (
        "PostgreSQL is away; try again after Retry-After seconds",
        "unavailable",
        "the relay cannot store anything just now; send it again in a few seconds",
    ),
}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers where it does not answer what was asked, with an example of each."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        description, name, detail = EXAMPLES[code]
        example = {"application/json": {"example": {"error": name, "detail": detail}}}
        found[code] = {"model": Error, "description": description, "content": example}
    return found


def only_documented(request: Request, _: Viewer) -> None:
    """Refuse a query parameter that the description does not have: a misspelt filter must not show everything.

    Raises:
        Invalid: it names the parameter, and the near one.
    """
    route = request.scope["route"]
    known = set(_parameters(route.dependant)) if isinstance(route, APIRoute) else set()
    for name in request.query_params:
        if name not in known:
            raise Invalid(f'there is no parameter "{name}" here{did_you_mean(name, known)}')


def _parameters(dependant: Dependant) -> Iterator[str]:
    """The names of a route's query parameters, those of its models among them."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        yield from kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else [field.alias]
    for each in dependant.dependencies:
        yield from _parameters(each)


class Limit:
    """ASGI: nobody reads more than 1 MiB of a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what the application reads."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413, TOO_LARGE)
            return message

        doors = ("/webhooks/", "/vendor-webhooks/")  # they count for themselves, and what they refuse
        own = scope["type"] != "http" or scope["path"].startswith(doors)
        await self._app(scope, receive if own else counted, send)
