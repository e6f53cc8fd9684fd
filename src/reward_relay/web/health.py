"""Liveness, readiness and metrics: open to whoever can reach the port, and without a word about any order."""

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from reward_relay.db import migrate
from reward_relay.errors import DatabaseUnavailable
from reward_relay.metrics import CONTENT_TYPE, exposition
from reward_relay.web.documented import errors
from reward_relay.web.schemas import Health

log = structlog.get_logger()
router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"description": "PostgreSQL is away, or its migrations are behind", "model": Health}},
)
async def readyz(request: Request) -> JSONResponse:
    """The process can take webhooks: the database is there and has the newest tables.

    `warning`: the configuration file has mistakes, and the routes of before stay in use.
    """
    try:
        current = await migrate.is_current(request.app.state.relay.database)
    except DatabaseUnavailable as error:
        log.warning("database_unavailable", detail=str(error))
        detail = "PostgreSQL cannot be reached just now; the relay's log says why"
        return JSONResponse({"status": "unavailable", "detail": detail}, status_code=503)
    if not current:
        detail = "the database's tables are not this version's; run: reward-relay migrate"
        return JSONResponse({"status": "unavailable", "detail": detail}, status_code=503)
    if request.app.state.relay.reloading.trouble:
        warning = "the configuration file is not in use as it is now; GET /api/v1/summary says why"
        return JSONResponse({"status": "ready", "warning": warning})
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=PlainTextResponse, responses=errors(503))
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    summary = await request.app.state.relay.ops.summary()
    return Response(exposition(summary), media_type=CONTENT_TYPE)
