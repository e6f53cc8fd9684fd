"""What the API's description promises: the same names of parameters, the same shape of errors, the same limits."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from reward_relay.errors import Invalid
from reward_relay.near import did_you_mean
from reward_relay.web.auth import Viewer
from reward_relay.web.schemas import Error

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
    408: (
        "Head or body of the request took too long",
        "timeout",
        "the body did not come within 15 seconds",
    ),
    413: (
        "The body is larger than this call takes",
        "too_large",
        "the body has 1048577 bytes; the limit here is 1048576 (1024 KiB)",
    ),
    415: (
        "The body is compressed",
        "encoded_body",
        "the body is compressed (Content-Encoding: gzip); send it as it is, for the bytes as they are sent are what "
        "is signed and kept",
    ),
    422: (
        "The request is not understood, and what in it",
        "invalid",
        'there is no parameter "stat" here; did you mean "state"?',
    ),
    429: (
        "Too many calls from this address were rejected; try again after Retry-After seconds",
        "too_many_rejections",
        "too many calls from this address were rejected; mend the secret, and come again in 7 seconds",
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
    for code in (*codes, *({429} if 401 in codes else ())):
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
