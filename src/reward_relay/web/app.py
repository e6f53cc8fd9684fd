"""The ASGI application over a relay."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from reward_relay import __version__
from reward_relay.errors import DatabaseUnavailable, Invalid, NotFound, RequestError, Unavailable
from reward_relay.web import console, health, ops_api, reconcile_api, webhooks

if TYPE_CHECKING:
    from reward_relay.wiring import Relay

log = structlog.get_logger()


def create_app(relay: "Relay") -> FastAPI:
    """The application; it closes the relay when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with relay.alerting().looking(), relay.heartbeat("api").beating():
            yield
        await relay.close()

    app = FastAPI(
        title="Reward Relay",
        version=__version__,
        description="Reward webhooks in, exactly one vendor order each, and the platform hears how it ended.",
        lifespan=lifespan,
    )
    app.state.relay = relay
    for module in (webhooks, ops_api, reconcile_api, health, console):
        app.include_router(module.router)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(DatabaseUnavailable, _database_unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


MACHINES = ("/api/", "/webhooks/", "/vendor-webhooks/", "/healthz", "/readyz", "/metrics", "/openapi.json")


def _for_people(request: Request) -> bool:
    """Whether a browser asks for a page of the console, and not a program for JSON."""
    asks = "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers
    return asks and not request.url.path.startswith(MACHINES)


def _error(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": code, "detail": detail}, status_code=status, headers=headers)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - registered for it
    if _for_people(request):
        return console.problem(request, error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Unavailable) else None
    if error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return _error(error.status, error.code, error.detail, headers)


async def _database_unavailable(request: Request, error: Exception) -> Response:
    log.error("database_unavailable", detail=str(error))
    if _for_people(request):
        return console.problem(request, error)
    detail = "the relay cannot store anything just now; send it again in a few seconds"
    return _error(503, Unavailable.code, detail, {"Retry-After": str(Unavailable.retry_after_s)})


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    problems = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    if _for_people(request):
        return console.problem(request, Invalid("; ".join(problems)))
    return _error(422, "invalid", "; ".join(problems))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 404 and _for_people(request):
        return console.problem(request, NotFound(f"there is no page {request.url.path}"))
    codes = {404: "not_found", 405: "method_not_allowed"}
    detail = f"there is nothing at {request.method} {request.url.path}; see /docs" if error.status_code == 404 else None
    return _error(error.status_code, codes.get(error.status_code, "error"), detail or str(error.detail))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.exception("unexpected", path=request.url.path, exc_info=error)
    if _for_people(request):
        return console.problem(request, error)
    return _error(500, "internal", "something failed inside the relay; its log has the details")
