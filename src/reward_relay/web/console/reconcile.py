"""Our orders against the vendors' and the platforms': the newest report, a new run, and the repair after a look."""

from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from reward_relay.errors import NotAllowed
from reward_relay.reconciling.comparing import Scope
from reward_relay.web.console.session import Actor, Reader, Session
from reward_relay.web.console.views import page
from reward_relay.web.requests import SaidInForm

router = APIRouter()
Closed = Literal["none", "sample", "all"]


@router.get("/reconcile")
async def report(request: Request, session: Reader, part: str = "") -> Response:
    """The newest report, and the run that is under way."""
    return await _shown(request, session, "reconcile_live.html" if part else "reconcile.html")


@router.post("/reconcile")
async def start(
    request: Request, session: Actor, closed: Annotated[Closed, Form()] = "sample", note: SaidInForm = None
) -> Response:
    """Start a run; the page follows it."""
    scope = Scope(closed=closed)
    try:
        await request.app.state.relay.reconciliation.start(scope, session.name, note or "", wait_s=1.0)
    except NotAllowed as error:
        return await _shown(request, session, status=error.status, error=error.detail)
    return RedirectResponse("/reconcile", 303)


@router.post("/reconcile/repair")
async def repair(
    request: Request, session: Actor, token: Annotated[str, Form()] = "", note: SaidInForm = None
) -> Response:
    """Carry out what the report says can be repaired."""
    try:
        await request.app.state.relay.reconciliation.repair(token, session.name, note or "")
    except NotAllowed as error:
        return await _shown(request, session, status=error.status, error=error.detail)
    return RedirectResponse("/reconcile", 303)


async def _shown(
    request: Request, session: Session, template: str = "reconcile.html", status: int = 200, **more: Any
) -> Response:
    service = request.app.state.relay.reconciliation
    context = {"report": await service.latest(), "running": await service.present(), "choices": get_args(Closed)}
    return page(request, template, session, status, **context, **more)
