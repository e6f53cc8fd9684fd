"""Bulk actions over REST: a plan, and then exactly the plan."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from reward_relay.bulk import Bulk
from reward_relay.web.auth import Operator, Viewer
from reward_relay.web.documented import errors
from reward_relay.web.ops_api import KNOWN
from reward_relay.web.requests import BulkAct, BulkAsk
from reward_relay.web.schemas import BulkPlan, BulkResult

router = APIRouter(prefix="/api/v1", tags=["bulk"], dependencies=KNOWN)
Token = Annotated[str, Path(examples=["0f9d3c1e-52a1-4c55-9d0b-5b6b1c0d7e11"], min_length=1)]


def _bulk(request: Request) -> Bulk:
    found: Bulk = request.app.state.relay.bulk
    return found


@router.post("/bulk/plan", response_model=BulkPlan, responses=errors(401, 403, 413, 422, 503))
async def plan_bulk(request: Request, actor: Operator, body: BulkAsk) -> Any:
    """What `retry` or `release` would do to the orders that match now. Nothing is done; the token lasts 30 minutes."""
    filters = body.filters.model_dump(exclude_none=True)
    return await _bulk(request).plan(body.action, filters, actor, body.note or "")


@router.post("/bulk/act", response_model=BulkResult, responses=errors(401, 403, 404, 409, 413, 422, 503))
async def act_bulk(request: Request, actor: Operator, body: BulkAct) -> Any:
    """Do what the plan says. What is no longer as it was is skipped, with the reason; what came later is left alone.

    A plan with `second_person` is carried out by another person's key than the one that made it.
    """
    return await _bulk(request).act(body.token, actor)


@router.get("/bulk/{token}", response_model=BulkPlan, responses=errors(401, 404, 422, 503))
async def get_bulk_plan(request: Request, _: Viewer, token: Token) -> Any:
    """A plan, and what became of it so far: `left` are neither done nor skipped."""
    return await _bulk(request).find(token)
