"""Reconciliation over REST: start one, look at the newest report, carry out its repair."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from reward_relay.reconciling.comparing import Scope
from reward_relay.reconciling.findings import Kind, Repair
from reward_relay.reconciling.service import Reconciliation
from reward_relay.web.auth import Operator, Viewer
from reward_relay.web.documented import errors
from reward_relay.web.ops_api import KNOWN
from reward_relay.web.requests import Note

ERRORS = errors(401, 403, 404, 409, 413, 422, 503)
router = APIRouter(prefix="/api/v1/reconcile", tags=["reconcile"], dependencies=KNOWN, responses=ERRORS)


class Wanted(Note):
    """What to compare; all of it may be left out."""

    days: Annotated[int | None, Field(ge=1, le=3650, description="Days back; default: reconcile_days.")] = None
    closed: Annotated[Literal["none", "sample", "all"], Field(description="Closed orders to ask about.")] = "sample"
    limit: Annotated[int, Field(ge=1, le=1_000_000, description="At most so many questions to vendors.")] = 5000
    min_age_min: Annotated[int, Field(ge=0, le=1_000_000, description="Younger orders are left out.")] = 15


class Finding(BaseModel):
    """One thing that is wrong, and what to do about it. Without `repair` only a person can."""

    kind: Kind
    party: str = Field(examples=["vendor:cards"])
    ours: str = Field(examples=["placed, 20.00"])
    theirs: str = Field(examples=["Completed, 25.00"])
    todo: str
    order_id: str | None
    po_number: str | None
    external_id: str | None
    state: str | None
    updated_at: str | None
    repair: Repair | None


class Repaired(BaseModel):
    """What became of one finding."""

    kind: Kind
    party: str
    repair: Repair
    po_number: str | None
    external_id: str | None
    order_id: str | None
    done: bool
    why: str


class Repairs(BaseModel):
    """What the repair did, order by order; one that moved since the report is skipped."""

    token: str
    done: int
    skipped: int
    left: int = Field(0, description="Not seen to yet: it goes on, or was broken off. Reconcile again for these.")
    results: list[Repaired]


class Report(BaseModel):
    """What a run found. Not `complete`: `problems` says what was not looked at. `token` carries out the repair."""

    token: str
    actor: str
    note: str
    made_at: datetime
    expires_at: datetime
    used_at: datetime | None
    scope: dict[str, Any]
    started_at: datetime
    finished_at: datetime
    complete: bool
    problems: list[str]
    bad_rows: list[str]
    looked: dict[str, int]
    counts: dict[str, int] = Field(examples=[{"ended_there": 1}])
    not_listed: int = Field(description="Findings that are counted, and too many to list.")
    repairable: int
    findings: list[Finding]
    repaired: Repairs | None


class Running(BaseModel):
    """A run that is under way."""

    model_config = ConfigDict(extra="ignore")
    actor: str
    started_at: datetime
    doing: str = Field(examples=["open orders"])
    scope: dict[str, Any] = {}
    looked: dict[str, int] = {}
    counts: dict[str, int] = {}


class Present(BaseModel):
    """The run that is under way, and the newest report."""

    running: Running | None
    report: Report | None


class Yes(Note):
    """The token of the report whose repair is wanted."""

    token: str = Field(max_length=100, examples=["0f9d3c1e-52a1-4c55-9d0b-5b6b1c0d7e11"])


def _service(request: Request) -> Reconciliation:
    found: Reconciliation = request.app.state.relay.reconciliation
    return found


@router.post("", response_model=Present, responses={202: {"model": Present, "description": "It goes on; ask again."}})
async def start_reconciliation(request: Request, response: Response, actor: Operator, body: Wanted) -> Any:
    """Compare our orders with the vendors' and the platforms' open lists. 200 with the report, or 202 where it takes
    longer than a few seconds: then ask again. One at a time: 409 while another runs.
    """
    service = _service(request)
    scope = Scope(days=body.days, closed=body.closed, limit=body.limit, min_age_min=body.min_age_min)
    report = await service.start(scope, actor, body.note or "")
    if report is None:
        response.status_code = 202
        return {"running": await service.present(), "report": None}
    return {"running": None, "report": report}


@router.get("", response_model=Present)
async def get_reconciliation(request: Request, _: Viewer) -> Any:
    """How far the present run is, and the newest report (also the daily one's)."""
    service = _service(request)
    return {"running": await service.present(), "report": await service.latest()}


@router.post("/repair", response_model=Repairs)
async def repair_reconciliation(request: Request, actor: Operator, body: Yes) -> Any:
    """Carry out what a report of yours says can be repaired; within half an hour, once."""
    return await _service(request).repair(body.token, actor, body.note or "")
