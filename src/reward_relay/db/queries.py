"""What people ask: lists, one order with its whole history, deliveries, the summary."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.tables import calls, deliveries, order_events, orders

Row = dict[str, Any]
HIDDEN = ("callback_token", "claim", "claim_until", "hinted", "interrupt")
SHOWN = [column for column in orders.c if column.name not in HIDDEN]
CLAIMED = (orders.c.claim.isnot(None) & (orders.c.claim_until >= func.now())).label("claimed")


def as_uuid(value: str) -> uuid.UUID | None:
    """The UUID, None where the text is none."""
    try:
        return uuid.UUID(value)
    except ValueError:
        return None


async def list_orders(connection: AsyncConnection, filters: Mapping[str, Any], limit: int) -> list[Row]:
    """Orders, newest first. Filters: state, source, vendor, q, created_after, before (an order id: the cursor)."""
    wanted: list[ColumnElement[bool]] = [
        orders.c[name] == filters[name] for name in ("state", "source", "vendor") if filters.get(name)
    ]
    if filters.get("created_after"):
        wanted.append(orders.c.created_at > filters["created_after"])
    if filters.get("before"):
        wanted.append(orders.c.id < filters["before"])
    if filters.get("q"):
        wanted.append(_search(str(filters["q"])))
    found = await connection.execute(
        select(*SHOWN, CLAIMED).where(and_(True, *wanted)).order_by(orders.c.id.desc()).limit(limit)
    )
    return [dict(row) for row in found.mappings()]


def _search(words: str) -> ColumnElement[bool]:
    """Exact on our keys and the outside ids, part of the recipient's name or e-mail address."""
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    recipient = orders.c.reward["recipient"]
    choices: list[ColumnElement[bool]] = [
        orders.c.po_number == words.upper(),
        orders.c.external_id == words,
        orders.c.vendor_order_id == words,
        recipient["name"].astext.ilike(f"%{escaped}%"),
        recipient["email"].astext.ilike(f"%{escaped}%"),
    ]
    if (exact := as_uuid(words)) is not None:
        choices.append(orders.c.id == exact)
    return or_(*choices)


async def find_orders(connection: AsyncConnection, key: str, *, lock: bool = False) -> list[Row]:
    """The order with this id or PO number; else those with this external id, which two sources may share.

    `lock` keeps them as they are until the transaction ends.
    """
    clean = key.replace("\x00", "")
    exact = as_uuid(clean)
    ours = orders.c.id == exact if exact else orders.c.po_number == clean.upper()
    for where in (ours, orders.c.external_id == clean):
        wanted = select(*SHOWN, CLAIMED).where(where).order_by(orders.c.id)
        found = await connection.execute(wanted.with_for_update() if lock else wanted)
        if rows := [dict(row) for row in found.mappings()]:
            return rows
    return []


async def history(connection: AsyncConnection, order_id: uuid.UUID) -> tuple[list[Row], list[Row]]:
    """The events and the calls of an order, oldest first."""
    told = select(
        *[column for column in order_events.c if column.name != "order_id"],
    ).where(order_events.c.order_id == order_id)
    made = select(*[column for column in calls.c if column.name not in ("order_id", "claim")]).where(
        calls.c.order_id == order_id
    )
    events = (await connection.execute(told.order_by(order_events.c.id))).mappings()
    attempts = (await connection.execute(made.order_by(calls.c.id))).mappings()
    return [dict(row) for row in events], [dict(row) for row in attempts]


async def list_deliveries(connection: AsyncConnection, filters: Mapping[str, Any], limit: int) -> list[Row]:
    """Deliveries without their bodies, newest first. Filters: source, verdict, order_id, before (a delivery id)."""
    wanted = [deliveries.c[name] == filters[name] for name in ("source", "verdict", "order_id") if filters.get(name)]
    if filters.get("before"):
        wanted.append(deliveries.c.id < filters["before"])
    shown = [column for column in deliveries.c if column.name not in ("body", "headers")]
    size = func.octet_length(deliveries.c.body).label("bytes")
    found = await connection.execute(
        select(*shown, size).where(and_(True, *wanted)).order_by(deliveries.c.id.desc()).limit(limit)
    )
    return [dict(row) for row in found.mappings()]


async def find_delivery(connection: AsyncConnection, delivery_id: str, *, lock: bool = False) -> Row | None:
    """One delivery with its bytes."""
    exact = as_uuid(delivery_id)
    if exact is None:
        return None
    query = select(deliveries).where(deliveries.c.id == exact)
    row: RowMapping | None = (await connection.execute(query.with_for_update() if lock else query)).mappings().first()
    return dict(row) if row else None


STATES = text("SELECT state, count(*) AS number FROM orders GROUP BY state")
OLDEST = text("""
SELECT id, EXTRACT(epoch FROM now() - due_at) AS late_s, party FROM orders
WHERE due_at <= now() AND (claim IS NULL OR claim_until < now()) ORDER BY due_at LIMIT 1
""")
WAITING = text("""
SELECT party, count(*) AS waiting, count(*) FILTER (WHERE due_at <= now()) AS due,
  count(*) FILTER (WHERE claim_until >= now()) AS claimed
FROM orders WHERE due_at IS NOT NULL GROUP BY party
""")
TROUBLE = text("""
SELECT verdict, count(*) AS number FROM deliveries WHERE verdict IN ('quarantined', 'rejected') GROUP BY verdict
""")


async def summary(connection: AsyncConnection) -> Row:
    """Counts by state, the oldest order that is due, what waits for whom, deliveries in trouble."""
    states = {row.state: row.number for row in await connection.execute(STATES)}
    oldest = (await connection.execute(OLDEST)).mappings().first()
    waiting = {row.party: dict(row._mapping) for row in await connection.execute(WAITING)}
    trouble = {row.verdict: row.number for row in await connection.execute(TROUBLE)}
    return {"states": states, "oldest_due": dict(oldest) if oldest else None, "waiting": waiting, "trouble": trouble}


async def held_for(connection: AsyncConnection, party: str) -> list[str]:
    """Orders that are held because `party` refuses us, and that its resumption frees."""
    found = await connection.execute(
        text("SELECT id FROM orders WHERE state = 'on_hold' AND strpos(hold_reason, :words) > 0 ORDER BY id"),
        {"words": f"then resume {party}:"},
    )
    return [str(row.id) for row in found]
