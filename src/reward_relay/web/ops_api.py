"""The operators' REST API: a thin skin over `ops.Ops`."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from reward_relay.diffing import Diffing
from reward_relay.errors import ConfigurationError, Invalid
from reward_relay.ops import Ops
from reward_relay.web.auth import Operator, Viewer
from reward_relay.web.schemas import (
    Alerts,
    Closing,
    Deliveries,
    DeliveryDetail,
    Diff,
    Error,
    Explain,
    Note,
    OrderDetail,
    Orders,
    Receipt,
    Refusal,
    RoutesDiff,
)

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": Error} for code in (401, 403, 404, 409, 422)}
router = APIRouter(prefix="/api/v1", tags=["ops"], responses=ERRORS)
Limit = Annotated[int, Query(ge=1, le=200)]
DIFF_SECONDS = 20.0


def _ops(request: Request) -> Ops:
    found: Ops = request.app.state.relay.ops
    return found


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise Invalid(f"created_after is {time}, which is no time that can be compared") from None


@router.get("/orders", response_model=Orders)
async def list_orders(
    request: Request,
    _: Viewer,
    state: str | None = None,
    source: str | None = None,
    vendor: str | None = None,
    q: str | None = None,
    created_after: datetime | None = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> Any:
    """Orders, newest first. `q` finds name, e-mail, external id, PO number, vendor order id."""
    if created_after is not None:
        created_after = _in_utc(created_after)
    wanted = {"state": state, "source": source, "vendor": vendor, "q": q, "created_after": created_after}
    return await _ops(request).orders(wanted, limit, cursor)


@router.get("/orders/{order_id}", response_model=OrderDetail)
async def get_order(request: Request, _: Viewer, order_id: str) -> Any:
    """One order, by id, PO number or external id, with its events and calls."""
    return await _ops(request).order(order_id)


@router.post("/orders/{order_id}/retry", response_model=OrderDetail)
async def retry(request: Request, actor: Operator, order_id: str, body: Note) -> Any:
    """Make the next step due now."""
    return await _ops(request).retry(order_id, actor, body.note or "")


@router.post("/orders/{order_id}/hold", response_model=OrderDetail)
async def hold(request: Request, actor: Operator, order_id: str, body: Note) -> Any:
    """Stop it until it is released."""
    return await _ops(request).hold(order_id, actor, body.note or "")


@router.post("/orders/{order_id}/release", response_model=OrderDetail)
async def release(request: Request, actor: Operator, order_id: str, body: Note) -> Any:
    """Let a held order go on; one not placed yet is routed again."""
    return await _ops(request).release(order_id, actor, body.note or "")


@router.post("/orders/{order_id}/refuse", response_model=OrderDetail)
async def refuse(request: Request, actor: Operator, order_id: str, body: Refusal) -> Any:
    """End it; the platform is told `message`."""
    return await _ops(request).refuse(order_id, actor, body.note or "", body.message)


@router.post("/orders/{order_id}/close", response_model=OrderDetail)
async def close(request: Request, actor: Operator, order_id: str, body: Closing) -> Any:
    """End it without telling the platform; `outcome` says how, where the relay does not know (default cancelled)."""
    return await _ops(request).close(order_id, actor, body.note or "", body.outcome)


@router.get("/deliveries", response_model=Deliveries)
async def list_deliveries(
    request: Request,
    _: Viewer,
    source: str | None = None,
    verdict: str | None = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> Any:
    """What arrived, newest first."""
    return await _ops(request).deliveries({"source": source, "verdict": verdict}, limit, cursor)


@router.get("/deliveries/{delivery_id}", response_model=DeliveryDetail)
async def get_delivery(request: Request, _: Viewer, delivery_id: str) -> Any:
    """One delivery, verbatim."""
    return await _ops(request).delivery(delivery_id)


@router.post("/deliveries/{delivery_id}/replay", response_model=Receipt)
async def replay(request: Request, actor: Operator, delivery_id: str, body: Note) -> Any:
    """Take it once more, after a fix."""
    return await _ops(request).replay(delivery_id)


@router.post("/routes/explain")
async def explain(request: Request, _: Viewer, body: Explain) -> dict[str, Any]:
    """What would become of a payload. Nothing is stored or sent."""
    text = isinstance(body.payload, str)
    raw = str(body.payload) if text else json.dumps(body.payload)
    return _ops(request).explain(body.source, raw.encode("utf-8", "replace"), "" if text else "application/json")


@router.post("/routes/diff", response_model=RoutesDiff)
async def diff(request: Request, _: Operator, body: Diff) -> Any:
    """What another configuration would have done with the recorded rewards. Nothing is stored, sent or reloaded."""
    diffing: Diffing = request.app.state.relay.diffing
    try:
        return await diffing.diff(body.toml, days=body.days, limit=body.limit, seconds=DIFF_SECONDS)
    except ConfigurationError as error:
        raise Invalid("\n".join(error.problems)) from None


@router.get("/summary")
async def summary(request: Request, _: Viewer) -> dict[str, Any]:
    """Counts by state, the oldest due order, every party's health."""
    return await _ops(request).summary()


@router.get("/alerts", response_model=Alerts)
async def list_alerts(request: Request, _: Viewer) -> Any:
    """What is wrong just now, critical first."""
    return await _ops(request).alerts()


@router.get("/parties")
async def list_parties(request: Request, _: Viewer) -> list[dict[str, Any]]:
    """Every platform and vendor: what waits for it, and its health."""
    found: list[dict[str, Any]] = (await _ops(request).summary())["parties"]
    return found


@router.post("/parties/{party}/pause")
async def pause(request: Request, actor: Operator, party: str, body: Note) -> dict[str, Any]:
    """Stop calling a party (`vendor:cards`, `source:loyalty`); its orders wait."""
    return await _ops(request).pause(party, actor, body.note or "")


@router.post("/parties/{party}/resume")
async def resume(request: Request, actor: Operator, party: str, body: Note) -> dict[str, Any]:
    """Call it again, and release the orders that were held because it refused us."""
    return await _ops(request).resume(party, actor, body.note or "")
