"""The operators' REST API: a thin skin over `ops.Ops`."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from reward_relay.diffing import ANSWER_WITHIN_S, Diffing
from reward_relay.errors import ConfigurationError, Invalid
from reward_relay.ops import Ops
from reward_relay.purging import Purging
from reward_relay.web.auth import Operator, Viewer
from reward_relay.web.diff_schemas import RoutesDiff
from reward_relay.web.documented import errors, only_documented
from reward_relay.web.requests import Closing, DeliveryQuery, Diff, Explain, Note, OrderQuery, Refusal
from reward_relay.web.schemas import (
    Alerts,
    Deliveries,
    DeliveryDetail,
    Explained,
    OrderDetail,
    Orders,
    Party,
    Paused,
    Receipt,
    Resumed,
    Summary,
)

READ, FIND, ACT = errors(401, 422, 503), errors(401, 404, 422, 503), errors(401, 403, 404, 409, 413, 422, 503)
KNOWN = [Depends(only_documented)]
orders = APIRouter(prefix="/api/v1", tags=["orders"], dependencies=KNOWN)
deliveries = APIRouter(prefix="/api/v1", tags=["deliveries"], dependencies=KNOWN)
routes = APIRouter(prefix="/api/v1", tags=["routes"], dependencies=KNOWN)
parties = APIRouter(prefix="/api/v1", tags=["parties"], dependencies=KNOWN)
routers = (orders, deliveries, routes, parties)

OrderKey = Annotated[
    str, Path(description="Id, PO number, or the platform's own id", examples=["RR-0123456789ABCDEF"], min_length=1)
]
DeliveryId = Annotated[str, Path(examples=["01890a5d-ac96-774b-bcce-b302099a8057"], min_length=1)]
PartyName = Annotated[str, Path(examples=["vendor:cards"], min_length=1)]


def _ops(request: Request) -> Ops:
    found: Ops = request.app.state.relay.ops
    return found


@orders.get("/orders", response_model=Orders, responses=READ)
async def list_orders(request: Request, _: Viewer, query: Annotated[OrderQuery, Query()]) -> Any:
    """Orders, newest first. A page stays right while orders arrive: pass its `next_cursor` as `cursor`."""
    wanted = query.model_dump()
    return await _ops(request).orders(wanted, wanted.pop("limit"), wanted.pop("cursor"))


@orders.get("/orders/{order_id}", response_model=OrderDetail, responses=FIND | errors(409))
async def get_order(request: Request, _: Viewer, order_id: OrderKey) -> Any:
    """One order with everything that happened to it, and what may be done to it now."""
    return await _ops(request).order(order_id)


@orders.post("/orders/{order_id}/retry", response_model=OrderDetail, responses=ACT)
async def retry_order(request: Request, actor: Operator, order_id: OrderKey, body: Note) -> Any:
    """Make the next step due now."""
    return await _ops(request).retry(order_id, actor, body.note or "")


@orders.post("/orders/{order_id}/hold", response_model=OrderDetail, responses=ACT)
async def hold_order(request: Request, actor: Operator, order_id: OrderKey, body: Note) -> Any:
    """Stop it until it is released."""
    return await _ops(request).hold(order_id, actor, body.note or "")


@orders.post("/orders/{order_id}/release", response_model=OrderDetail, responses=ACT)
async def release_order(request: Request, actor: Operator, order_id: OrderKey, body: Note) -> Any:
    """Let a held order go on; one not placed yet is routed again.

    Where that needs two persons the first only asks: the order comes back on hold, with `asked`; the second does it.
    """
    return await _ops(request).release(order_id, actor, body.note or "")


@orders.post("/orders/{order_id}/withdraw", response_model=OrderDetail, responses=ACT)
async def withdraw_release(request: Request, actor: Operator, order_id: OrderKey, body: Note) -> Any:
    """Take back what was asked of a second person."""
    return await _ops(request).withdraw(order_id, actor, body.note or "")


@orders.post("/orders/{order_id}/refuse", response_model=OrderDetail, responses=ACT)
async def refuse_order(request: Request, actor: Operator, order_id: OrderKey, body: Refusal) -> Any:
    """End it; the platform is told `message`."""
    return await _ops(request).refuse(order_id, actor, body.note or "", body.message)


@orders.post("/orders/{order_id}/close", response_model=OrderDetail, responses=ACT)
async def close_order(request: Request, actor: Operator, order_id: OrderKey, body: Closing) -> Any:
    """End it without telling the platform; `outcome` says how, where the relay does not know (default cancelled)."""
    return await _ops(request).close(order_id, actor, body.note or "", body.outcome)


@orders.post("/orders/{order_id}/purge", response_model=OrderDetail, responses=ACT)
async def purge_order(request: Request, actor: Operator, order_id: OrderKey, body: Note) -> Any:
    """Remove the personal data of a closed order and its deliveries; key, amounts and events stay."""
    purging: Purging = request.app.state.relay.purging
    found = await purging.about_order(order_id)
    await purging.forget(found, actor, body.note or "")
    return await _ops(request).order(found.orders[0]["id"])


@deliveries.get("/deliveries", response_model=Deliveries, responses=READ)
async def list_deliveries(request: Request, _: Viewer, query: Annotated[DeliveryQuery, Query()]) -> Any:
    """What arrived, newest first."""
    wanted = query.model_dump()
    return await _ops(request).deliveries(wanted, wanted.pop("limit"), wanted.pop("cursor"))


@deliveries.get("/deliveries/{delivery_id}", response_model=DeliveryDetail, responses=FIND)
async def get_delivery(request: Request, _: Viewer, delivery_id: DeliveryId) -> Any:
    """One delivery, verbatim."""
    return await _ops(request).delivery(delivery_id)


@deliveries.post("/deliveries/{delivery_id}/replay", response_model=Receipt, responses=ACT)
async def replay_delivery(request: Request, actor: Operator, delivery_id: DeliveryId, body: Note) -> Any:
    """Take it once more, after a fix."""
    return await _ops(request).replay(delivery_id, actor, body.note or "")


@routes.post("/routes/explain", response_model=Explained, responses=FIND | errors(413))
async def explain_payload(request: Request, _: Viewer, body: Explain) -> Any:
    """What would become of a payload. Nothing is stored or sent."""
    text = isinstance(body.payload, str)
    raw = str(body.payload) if text else json.dumps(body.payload)
    return _ops(request).explain(body.source, raw.encode("utf-8", "replace"), "" if text else "application/json")


@routes.post("/routes/diff", response_model=RoutesDiff, responses=errors(401, 403, 413, 422, 503))
async def diff_routes(request: Request, _: Operator, body: Diff) -> Any:
    """What another configuration would have done with the recorded rewards. Nothing is stored, sent or reloaded."""
    diffing: Diffing = request.app.state.relay.diffing
    try:
        return await diffing.diff(body.toml, days=body.days, limit=body.limit, seconds=ANSWER_WITHIN_S)
    except ConfigurationError as error:
        raise Invalid("\n".join(error.problems)) from None


@parties.get("/summary", response_model=Summary, responses=READ)
async def get_summary(request: Request, _: Viewer) -> Any:
    """Counts by state, the oldest due order, every party's health."""
    return await _ops(request).summary()


@parties.get("/alerts", response_model=Alerts, responses=READ)
async def list_alerts(request: Request, _: Viewer) -> Any:
    """What is wrong just now, critical first."""
    return await _ops(request).alerts()


@parties.get("/parties", response_model=list[Party], responses=READ)
async def list_parties(request: Request, _: Viewer) -> Any:
    """Every platform and vendor: what waits for it, and its health."""
    return (await _ops(request).summary())["parties"]


@parties.post("/parties/{party}/pause", response_model=Paused, responses=ACT)
async def pause_party(request: Request, actor: Operator, party: PartyName, body: Note) -> Any:
    """Stop calling a party (`vendor:cards`, `source:loyalty`); its orders wait."""
    return await _ops(request).pause(party, actor, body.note or "")


@parties.post("/parties/{party}/resume", response_model=Resumed, responses=ACT)
async def resume_party(request: Request, actor: Operator, party: PartyName, body: Note) -> Any:
    """Call it again, and release the orders that were held because it refused us."""
    return await _ops(request).resume(party, actor, body.note or "")
