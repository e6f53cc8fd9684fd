"""What people ask: lists, one order with its whole history, deliveries."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db import search
from reward_relay.db.search import as_uuid
from reward_relay.db.tables import calls, deliveries, order_events, orders
from reward_relay.errors import Invalid, NotAllowed, NotFound
from reward_relay.sealing import Stored
from reward_relay.states import State

Row = dict[str, Any]
HIDDEN = ("callback_token", "claim", "claim_until", "hinted", "interrupt")
SHOWN = [column for column in orders.c if column.name not in HIDDEN]
EVENT = [column for column in order_events.c if column.name not in ("seq", "hash")]
CLOCKS_MS = 86_400_000
TIMES = ("created_after", "created_before")
LAST_ID = uuid.UUID(int=(1 << 128) - 1)
CLAIMED = (orders.c.claim.isnot(None) & (orders.c.claim_until >= func.now())).label("claimed")
INTERRUPTED = orders.c.interrupt.isnot(None).label("interrupted")
"""What was asked for during a call; with no claim left, the worker died, and the next one sees to it first."""


async def list_orders(connection: AsyncConnection, filters: Mapping[str, Any], limit: int) -> list[Row]:
    """Orders, newest first. Filters: those of `matching`, and `before` (an order id: the cursor)."""
    until = filters.get("created_before")
    newest = min(filters.get("before") or LAST_ID, first_id(until, CLOCKS_MS) if until else LAST_ID)
    wanted = await matching(connection, filters, newest)
    if filters.get("before"):
        wanted.append(orders.c.id < filters["before"])
    found = await connection.execute(
        select(*SHOWN, CLAIMED, INTERRUPTED).where(and_(True, *wanted)).order_by(orders.c.id.desc()).limit(limit)
    )
    return [dict(row) for row in found.mappings()]


def cleaned(filters: Mapping[str, Any]) -> Row:
    """Filters that say something, as PostgreSQL can compare them: no NUL; times also as text, in UTC.

    Raises:
        Invalid: a time that is none.
    """
    said = {name: value for name, value in filters.items() if value not in (None, "")}
    return {name: _clean(name, value) for name, value in said.items()}


def _clean(name: str, value: Any) -> Any:
    if name not in TIMES:
        return value.replace("\x00", "") if isinstance(value, str) else value
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f"{name} is {str(value)!r}, which is no time that can be compared; write 2026-01-31 or 2026-01-31T12:00Z"
        ) from None


async def matching(
    connection: AsyncConnection, filters: Mapping[str, Any], newest: uuid.UUID | None = None
) -> list[ColumnElement[bool]]:
    """Conditions for: state, source, vendor, party, hold_reason, q, created_after, created_before.

    Each is served by an index, and the rest of the transaction is planned for that. An id begins with the time it was
    made at, by the clock of the process that made it; `created_at` is the database's. A day between the two clocks is
    allowed for. `newest` is as for `search.having`.
    """
    await search.by_values(connection)
    wanted: list[ColumnElement[bool]] = [
        orders.c[name] == filters[name] for name in ("state", "party", "hold_reason") if filters.get(name)
    ]
    if filters.get("hold_reason"):
        wanted.append(orders.c.state == State.ON_HOLD)
    if filters.get("party"):
        wanted.append(orders.c.due_at.isnot(None))
    if after := filters.get("created_after"):
        wanted += [orders.c.created_at > after, orders.c.id >= first_id(after, -CLOCKS_MS)]
    if until := filters.get("created_before"):
        wanted += [orders.c.created_at < until, orders.c.id <= first_id(until, CLOCKS_MS)]
    facets = {name: str(filters[name]) for name in ("source", "vendor") if filters.get(name)}
    return wanted + await search.having(connection, facets, str(filters.get("q") or ""), newest)


def first_id(time: datetime, shift_ms: int) -> uuid.UUID:
    """The least id of version 7 of a time (RFC 9562, 5.7: its first 48 bits are milliseconds)."""
    milliseconds = max(0, min(int(time.timestamp() * 1000) + shift_ms, (1 << 48) - 1))
    return uuid.UUID(int=milliseconds << 80)


async def find_orders(connection: AsyncConnection, key: str, *, lock: bool = False) -> list[Row]:
    """The order with this id or PO number; else those with this external id, which two sources may share.

    `lock` keeps them as they are until the transaction ends.
    """
    clean = key.replace("\x00", "")
    exact = as_uuid(clean)
    ours = orders.c.id == exact if exact else orders.c.po_number == clean.upper()
    await search.by_values(connection)
    for where in ([ours], [orders.c.external_id == clean, *await search.having(connection, {}, clean)]):
        wanted = select(*SHOWN, CLAIMED, INTERRUPTED).where(*where).order_by(orders.c.id)
        found = await connection.execute(wanted.with_for_update() if lock else wanted)
        if rows := [dict(row) for row in found.mappings()]:
            return rows
    return []


async def find_order(connection: AsyncConnection, key: str, *, lock: bool = False) -> Row:
    """The one order that `find_orders` finds.

    Raises:
        NotFound: there is none.
        NotAllowed: there are several with this external id.
    """
    rows = await find_orders(connection, key, lock=lock)
    if not rows:
        raise NotFound(f"there is no order {key!r}; give its id, PO number or the platform's id")
    if len(rows) > 1:
        which = ", ".join(f"{row['po_number']} of {row['source']}" for row in rows)
        raise NotAllowed(f"several orders have the external id {key!r}; give the PO number of one: {which}")
    return rows[0]


async def history(connection: AsyncConnection, order_id: uuid.UUID) -> tuple[list[Row], list[Row]]:
    """The events and the calls of an order, oldest first."""
    told = select(
        *[column for column in order_events.c if column.name not in ("order_id", "hash")],
        func.encode(order_events.c.hash, "hex").label("hash"),
    ).where(order_events.c.order_id == order_id)
    made = select(*[column for column in calls.c if column.name not in ("order_id", "claim")]).where(
        calls.c.order_id == order_id
    )
    events = (await connection.execute(told.order_by(order_events.c.seq))).mappings()
    attempts = (await connection.execute(made.order_by(calls.c.id))).mappings()
    return [dict(row) for row in events], [dict(row) for row in attempts]


async def events_after(connection: AsyncConnection, after: int | None, limit: int) -> list[Row]:
    """Events of all orders with a higher id than `after`, oldest first; without it the newest ones.

    An id is given before its transaction commits, so an event may appear after one with a higher id.
    """
    named = (orders.c.po_number, orders.c.source, orders.c.external_id, orders.c.vendor)
    query = select(*EVENT, *named).join(orders, orders.c.id == order_events.c.order_id)
    if after is not None:
        query = query.where(order_events.c.id > after).order_by(order_events.c.id)
    else:
        query = query.order_by(order_events.c.id.desc())
    found = [dict(row) for row in (await connection.execute(query.limit(limit))).mappings()]
    return found if after is not None else found[::-1]


async def list_deliveries(connection: AsyncConnection, filters: Mapping[str, Any], limit: int) -> list[Row]:
    """Deliveries without their bodies, newest first. Filters: source, verdict, order_id, before (a delivery id)."""
    await search.by_values(connection)
    wanted = [deliveries.c[name] == filters[name] for name in ("source", "verdict", "order_id") if filters.get(name)]
    if filters.get("before"):
        wanted.append(deliveries.c.id < filters["before"])
    shown = [column for column in deliveries.c if column.name not in ("body", "headers", "sealed")]
    size = func.octet_length(deliveries.c.body).label("bytes")
    found = await connection.execute(
        select(*shown, size).where(and_(True, *wanted)).order_by(deliveries.c.id.desc()).limit(limit)
    )
    return [dict(row) for row in found.mappings()]


async def find_delivery(connection: AsyncConnection, delivery_id: str, *, lock: bool = False) -> Row | None:
    """One delivery with its body as it is stored."""
    exact = as_uuid(delivery_id)
    if exact is None:
        return None
    query = select(deliveries).where(deliveries.c.id == exact)
    row: RowMapping | None = (await connection.execute(query.with_for_update() if lock else query)).mappings().first()
    return with_body(row) if row else None


def with_body(row: RowMapping) -> Row:
    """A row of deliveries whose body is what it is: perhaps sealed, to be read through `Intake.opened`."""
    body = bytes(row["body"] or b"")
    found = {**row, "body": Stored(body, row["sealed"])}
    del found["sealed"]
    return found


async def find_deliveries(connection: AsyncConnection, ids: Sequence[str]) -> list[Row]:
    """What is needed to read these deliveries again."""
    wanted = select(*(deliveries.c[name] for name in ("id", "source", "body", "sealed", "content_type")))
    found = await connection.execute(wanted.where(deliveries.c.id.in_(ids)))
    return [with_body(row) for row in found.mappings()]


async def select_orders(
    connection: AsyncConnection, filters: Mapping[str, Any], limit: int, after: uuid.UUID | None = None
) -> list[Row]:
    """Orders that match, oldest first, from the one after `after`; `waiting` wants those with a next step."""
    wanted = await matching(connection, filters)
    if filters.get("waiting"):
        wanted.append(orders.c.due_at.isnot(None))
    if after:
        wanted.append(orders.c.id > after)
    query = select(*SHOWN, CLAIMED, INTERRUPTED).where(and_(True, *wanted)).order_by(orders.c.id).limit(limit)
    return [dict(row) for row in (await connection.execute(query)).mappings()]


async def take_orders(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Row]:
    """These orders by id, kept as they are until the transaction ends; without those that somebody else holds so.

    It never waits for a row, so that no two that take many can wait for each other.
    """
    query = select(*SHOWN, CLAIMED, INTERRUPTED).where(orders.c.id.in_(ids))
    found = await connection.execute(query.with_for_update(skip_locked=True, of=orders))
    return {str(row["id"]): dict(row) for row in found.mappings()}


async def held_for(connection: AsyncConnection, party: str) -> list[str]:
    """Orders that are held because `party` refuses us, and that its resumption frees."""
    found = await connection.execute(
        text("SELECT id FROM orders WHERE state = 'on_hold' AND strpos(hold_reason, :words) > 0 ORDER BY id"),
        {"words": f"then resume {party}:"},
    )
    return [str(row.id) for row in found]
