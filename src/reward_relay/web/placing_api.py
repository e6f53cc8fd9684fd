"""The switch that stops placing, over REST."""

from typing import Any

from fastapi import APIRouter, Request

from reward_relay.web.auth import Operator, Viewer
from reward_relay.web.documented import errors
from reward_relay.web.guard_schemas import Placing
from reward_relay.web.ops_api import ACT, KNOWN, READ
from reward_relay.web.requests import Note

router = APIRouter(prefix="/api/v1", tags=["placing"], dependencies=KNOWN)


@router.get("/placing", response_model=Placing, responses=READ)
async def get_placing(request: Request, _: Viewer) -> Any:
    """Whether orders are placed; if not, who stopped it and how many wait."""
    return await request.app.state.relay.ops.placing.status()


@router.post("/placing/pause", response_model=Placing, responses={**ACT, **errors(409)})
async def pause_placing(request: Request, actor: Operator, body: Note) -> Any:
    """Stop placing in every process at once. Webhooks are taken, placed orders checked, platforms told."""
    return await request.app.state.relay.ops.placing.pause(actor, body.note or "")


@router.post("/placing/resume", response_model=Placing, responses={**ACT, **errors(409)})
async def resume_placing(request: Request, actor: Operator, body: Note) -> Any:
    """Let placing go on."""
    return await request.app.state.relay.ops.placing.resume(actor, body.note or "")
