"""The list of orders, one order with its timeline and the buttons that are allowed now, and work on many at once."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from reward_relay.errors import Invalid, NotAllowed, NotFound
from reward_relay.states import Outcome, State
from reward_relay.web.console.session import Actor, Reader, Session
from reward_relay.web.console.views import link, page
from reward_relay.web.requests import SaidInForm

router = APIRouter()
FILTERS = ("q", "state", "source", "vendor", "party", "created_after", "created_before", "hold_reason")
ROWS = 50


def filters_of(given: Any) -> dict[str, Any]:
    """The filters of an address or a form."""
    return {name: str(given[name]).strip() for name in FILTERS if given.get(name)}


@router.get("/orders")
async def listed(request: Request, session: Reader, cursor: str | None = None, part: str = "") -> Response:
    """A page of orders; the filters are the address's."""
    relay = request.app.state.relay
    filters = filters_of(request.query_params)
    found = await relay.ops.orders(filters, ROWS, cursor or None)
    shown = {name: request.query_params.get(name, "") for name in FILTERS}
    context = {
        "found": found,
        "filters": shown,
        "cursor": cursor,
        "states": list(State),
        "sources": list(relay.settings.sources),
        "vendors": list(relay.settings.vendors),
        "here": link("/orders", shown),
        "next": link("/orders", {**shown, "cursor": found["next_cursor"]}),
        "live": link("/orders", {**shown, "part": "list"}),
    }
    return page(request, "orders_list.html" if part else "orders.html", session, **context)


@router.get("/orders/{key}")
async def one(request: Request, session: Reader, key: str, seen: str = "") -> Response:
    """One order. With `seen` only what has changed since: nothing (204), or the whole order anew."""
    order = await request.app.state.relay.ops.order(key)
    if seen:
        if seen == _mark(order):
            return Response(status_code=204)
        return _order(request, session, order, template="order_live.html")
    return _order(request, session, order)


@router.post("/orders/{key}/{action}")
async def act(
    request: Request,
    session: Actor,
    key: str,
    action: str,
    note: SaidInForm = None,
    message: SaidInForm = None,
    outcome: Annotated[Outcome | None, Form()] = None,
) -> Response:
    """Do something to one order, and show it; where it is not allowed, say why on the order's page."""
    ops = request.app.state.relay.ops
    why = note or ""
    calls = {
        "retry": lambda: ops.retry(key, session.name, why),
        "hold": lambda: ops.hold(key, session.name, why),
        "release": lambda: ops.release(key, session.name, why),
        "refuse": lambda: ops.refuse(key, session.name, why, message),
        "close": lambda: ops.close(key, session.name, why, outcome),
        "withdraw": lambda: ops.withdraw(key, session.name, why),
    }
    if action not in calls:
        raise NotFound(f"there is no action {action!r}")
    try:
        order = await calls[action]()
    except (NotAllowed, Invalid) as error:
        return _order(request, session, await ops.order(key), status=error.status, error=error.detail)
    return RedirectResponse(f"/orders/{order['id']}", 303)


@router.post("/bulk/plan")
async def plan(
    request: Request, session: Actor, action: Annotated[str, Form()] = "", note: SaidInForm = None
) -> Response:
    """What a bulk action would do; nothing is done yet."""
    filters = filters_of(await request.form())
    made = await request.app.state.relay.bulk.plan(action, filters, session.name, note or "")
    return page(request, "bulk_plan.html", session, plan=made, back=link("/orders", filters))


@router.get("/bulk/{token}")
async def look_at_plan(request: Request, session: Reader, token: str) -> Response:
    """A plan, for the second person who may carry it out."""
    made = await request.app.state.relay.bulk.find(token)
    return page(request, "bulk_plan.html", session, plan=made, back="/orders")


@router.post("/bulk/act")
async def carry_out(request: Request, session: Actor, token: Annotated[str, Form()] = "") -> Response:
    """Do what the plan says."""
    done = await request.app.state.relay.bulk.act(token, session.name)
    return page(request, "bulk_done.html", session, done=done)


def _mark(order: Any) -> str:
    """Changes whenever there is something new to see."""
    return hashlib.sha256(json.dumps(order, default=str).encode()).hexdigest()[:16]


def _order(
    request: Request, session: Session, order: Any, status: int = 200, template: str = "order.html", **more: Any
) -> Response:
    context = {"order": order, "mark": _mark(order), "outcomes": list(Outcome)}
    return page(request, template, session, status, **context, **more)
