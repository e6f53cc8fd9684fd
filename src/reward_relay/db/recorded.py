"""What was recorded, for looking at it again under another configuration."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import and_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import CLOCKS_MS, Row, first_id, with_body
from reward_relay.db.search import by_values
from reward_relay.db.tables import deliveries, orders


async def arrivals(connection: AsyncConnection, since: datetime, before: uuid.UUID | None, limit: int) -> list[Row]:
    """Deliveries with their bytes, newest first: of each reward the one that made its order, and quarantined ones."""
    await by_values(connection)
    named = ("id", "source", "received_at", "content_type", "body", "sealed", "external_id")
    shown = [deliveries.c[name] for name in named]
    of_delivery = select(orders.c.po_number, orders.c.delivery_id).where(orders.c.id == deliveries.c.order_id)
    order = of_delivery.limit(1).lateral("its_order")  # the limit keeps it a look at one row, not a join of the tables
    wanted: list[Any] = [
        deliveries.c.id >= first_id(since, -CLOCKS_MS),
        deliveries.c.received_at >= since,
        or_(
            deliveries.c.verdict == "quarantined",
            and_(deliveries.c.verdict == "accepted", order.c.delivery_id == deliveries.c.id),
        ),
    ]
    if before is not None:
        wanted.append(deliveries.c.id < before)
    found = await connection.execute(
        select(*shown, order.c.po_number)
        .select_from(deliveries.outerjoin(order, true()))
        .where(*wanted)
        .order_by(deliveries.c.id.desc())
        .limit(limit)
    )
    return [with_body(row) for row in found.mappings()]


async def held(connection: AsyncConnection, before: uuid.UUID | None, limit: int) -> list[Row]:
    """Orders on hold, newest first, that a release would route again, with the bytes that they came from."""
    wanted: list[Any] = [
        orders.c.state == "on_hold",
        orders.c.held_from == "received",
        or_(orders.c.in_doubt.is_(False), orders.c.plan.is_(None)),
    ]
    if before is not None:
        wanted.append(orders.c.id < before)
    shown = [orders.c[name] for name in ("id", "po_number", "source", "external_id", "created_at", "reward")]
    found = await connection.execute(
        select(*shown, deliveries.c.body, deliveries.c.sealed, deliveries.c.content_type)
        .select_from(orders.outerjoin(deliveries, deliveries.c.id == orders.c.delivery_id))
        .where(*wanted)
        .order_by(orders.c.id.desc())
        .limit(limit)
    )
    return [with_body(row) for row in found.mappings()]
