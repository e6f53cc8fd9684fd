"""The ASGI application over a relay."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reward_relay import __version__
from reward_relay.errors import DatabaseUnavailable, Invalid, NotFound, RequestError, TooManyRejections, Unavailable
from reward_relay.logs import Seldom
from reward_relay.web import bulk_api, console, health, ops_api, placing_api, reconcile_api, webhooks
from reward_relay.web.front import Front, Refused

if TYPE_CHECKING:
    from reward_relay.wiring import Relay

log = structlog.get_logger()
SELDOM = Seldom(20)
"""Of what any caller can bring about, so that a flood does not fill the disk."""
TAGS = {
    "orders": "Find orders, read their whole history, steer them. An action has a note, and your key's name as actor.",
    "bulk": "Retry or release many orders: a plan first, and then exactly the plan.",
    "deliveries": "What arrived, verbatim, and what became of it.",
    "routes": "What would become of a payload.",
    "parties": "Platforms and vendors: what waits for whom, and who is not called.",
    "placing": "The switch that stops placing orders, and nothing else.",
    "reconcile": "Our orders against the vendors' and the platforms': a report, and a repair that is a plan first.",
    "webhooks": "What platforms and vendors post. They prove who they are each in their own way, not with an API key.",
    "health": "For load balancers and Prometheus; open to whoever can reach the port.",
}


def create_app(relay: "Relay") -> FastAPI:
    """The application; it closes the relay when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with relay.sheltering(), relay.alerting().looking(), relay.heartbeat("api").beating():
            yield
        await relay.close()

    app = FastAPI(
        title="Reward Relay",
        version=__version__,
        description="Reward webhooks in, exactly one vendor order each, and the platform hears how it ended.",
        lifespan=lifespan,
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.relay = relay
    skins = (bulk_api.router, placing_api.router, reconcile_api.router, health.router, console.router)
    for router in (webhooks.router, *ops_api.routers, *skins):
        app.include_router(router)
    app.add_middleware(Front, relay=relay)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(DatabaseUnavailable, _database_unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    return app


MACHINES = ("/api/", "/webhooks/", "/vendor-webhooks/", "/healthz", "/readyz", "/metrics", "/openapi.json")


def _for_people(request: Request) -> bool:
    """Whether a browser asks for a page of the console, and not a program for JSON."""
    asks = "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers
    return asks and not request.url.path.startswith(MACHINES)


def _error(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    storable = detail.encode("utf-8", "replace").decode()  # it may quote half a character
    return JSONResponse({"error": code, "detail": storable}, status_code=status, headers=headers)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - registered for it
    if _for_people(request):
        return console.problem(request, error)
    headers = None
    if isinstance(error, Unavailable | TooManyRejections):
        headers = {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return _error(error.status, error.code, error.detail, headers)


async def _database_unavailable(request: Request, error: Exception) -> Response:
    if (left_out := SELDOM.left_out("database_unavailable")) is not None:
        log.error("database_unavailable", detail=str(error), left_out=left_out)
    if _for_people(request):
        return console.problem(request, error)
    detail = "the relay cannot store anything just now; send it again in a few seconds"
    return _error(503, Unavailable.code, detail, {"Retry-After": str(Unavailable.retry_after_s)})


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    problems = "; ".join(_problem(each) for each in error.errors())
    return console.problem(request, Invalid(problems)) if _for_people(request) else _error(422, Invalid.code, problems)


def _problem(error: dict[str, Any]) -> str:
    """One mistake in a request, in words."""
    if error["type"] == "json_invalid":
        return f"the body is not JSON ({error['ctx']['error']})"
    place = [str(part) for part in error["loc"]]
    if place == ["body"]:
        return f"the body is wrong: {error['msg']}; send an object with Content-Type: application/json"
    return f"{'.'.join(place)}: {error['msg'].removeprefix('Value error, ')}"


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 404 and _for_people(request):
        return console.problem(request, NotFound(f"there is no page {request.url.path}"))
    if isinstance(error, Refused):
        return await _request_error(request, error.error)
    if _for_people(request):
        return console.problem(request, error)
    where, detail, headers = f"{request.method} {request.url.path}", str(error.detail), dict(error.headers or {})
    if error.status_code == 400:  # the body is not even text
        return _error(422, Invalid.code, "the body cannot be read; send JSON in UTF-8")
    if error.status_code == 404:
        return _error(404, NotFound.code, f"there is nothing at {where}; see /docs")
    if error.status_code == 405:
        allowed = headers.get("Allow") or headers.get("allow") or "something else"
        return _error(405, "method_not_allowed", f"{where} is not possible; it takes {allowed}", headers)
    return _error(error.status_code, "error", detail, headers)


async def _gone(request: Request, error: Exception) -> Response:
    """The caller has left while it was sending: nobody reads this."""
    return Response(status_code=400)


async def _unexpected(request: Request, error: Exception) -> Response:
    if (left_out := SELDOM.left_out("unexpected")) is not None:
        log.exception("unexpected", path=request.url.path[:200], exc_info=error, left_out=left_out)
    if _for_people(request):
        return console.problem(request, error)
    return _error(500, "internal", "something failed inside the relay; its log has the details")
