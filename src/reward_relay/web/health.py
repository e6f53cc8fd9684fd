"""Liveness, readiness and metrics: open to whoever can reach the port, and without a word about any order."""

from contextlib import suppress

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from reward_relay.db import migrate
from reward_relay.errors import DatabaseUnavailable
from reward_relay.metrics import CONTENT_TYPE, exposition
from reward_relay.shelter import TABLES
from reward_relay.web.schemas import Health

log = structlog.get_logger()
router = APIRouter(tags=["health"])
ANSWER_S = 2.0


@router.get("/healthz", response_model=Health)
async def healthz() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"description": "It can store nothing, or its database's migrations are behind", "model": Health}},
)
async def readyz(request: Request) -> JSONResponse:
    """The process can take webhooks: PostgreSQL is there with the newest tables, or away and the spool has room.

    `warning`: PostgreSQL is away, webhooks wait in the spool, or the configuration file has mistakes.
    """
    relay = request.app.state.relay
    try:
        current = await relay.database.promptly(ANSWER_S, migrate.is_current(relay.database))
    except DatabaseUnavailable as error:
        current = None
        log.warning("database_unavailable", detail=str(error))
    spool = await relay.shelter.look()
    if current is False or spool.away == TABLES:
        return JSONResponse({"status": "unavailable", "detail": TABLES}, status_code=503)
    if current is None and not spool.takes:
        detail = "PostgreSQL cannot be reached just now; the relay's log says why"
        if spool.on:
            detail = "PostgreSQL cannot be reached just now, and the spool is full or broken; the relay's log says why"
        return JSONResponse({"status": "unavailable", "detail": detail}, status_code=503)
    warnings = [spool.warning()] if spool.on else []
    if relay.reloading.trouble:
        warnings.append("the configuration file is not in use as it is now; GET /api/v1/summary says why")
    said = "; ".join(each for each in warnings if each)
    return JSONResponse({"status": "ready", **({"warning": said} if said else {})})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text; while PostgreSQL is away without what only it knows."""
    relay = request.app.state.relay
    spool = (await relay.shelter.look()).shown()
    summary = None
    with suppress(DatabaseUnavailable):
        summary = await relay.database.promptly(ANSWER_S, relay.ops.summary())
    return Response(exposition(summary, spool), media_type=CONTENT_TYPE)
