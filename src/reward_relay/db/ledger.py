"""Reading the ledger: orders with their chained events, page by page, each page as it was at one moment."""

import uuid
from itertools import groupby
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import Row

FIRST_ID = uuid.UUID(int=0)
AT_ONCE = 1000
LAST_ID = uuid.UUID(int=(1 << 128) - 1)

PAGE = text("""
SELECT o.id, o.po_number, o.state, e.seq, e.at, e.from_state, e.to_state, e.actor, e.reason, e.hash
FROM (SELECT id, po_number, state FROM orders WHERE id > :after ORDER BY id LIMIT :number) o
LEFT JOIN LATERAL (SELECT * FROM order_events WHERE order_id = o.id ORDER BY seq OFFSET 0) e ON true
ORDER BY o.id, e.seq
""")
STRAYS = text("""
SELECT DISTINCT e.order_id FROM order_events e
WHERE e.order_id > :after AND e.order_id <= :until AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = e.order_id)
""")
TOKEN = text("SELECT callback_token FROM orders WHERE id = :id")


async def page(connection: AsyncConnection, after: uuid.UUID, number: int = AT_ONCE) -> list[Row]:
    """The `number` orders after one, by id: `id`, `po_number`, `state`, and `events` with their hashes, by `seq`."""
    rows = (await connection.execute(PAGE, {"after": after, "number": number})).mappings().all()
    return [_order([dict(row) for row in some]) for _, some in groupby(rows, lambda row: row["id"])]


def _order(rows: list[dict[str, Any]]) -> Row:
    events = [row for row in rows if row["seq"] is not None]
    return {name: rows[0][name] for name in ("id", "po_number", "state")} | {"events": events}


async def strays(connection: AsyncConnection, after: uuid.UUID, until: uuid.UUID) -> list[uuid.UUID]:
    """Ids in that range that have events and are no order's."""
    return list((await connection.execute(STRAYS, {"after": after, "until": until})).scalars())


async def callback_token(connection: AsyncConnection, order_id: uuid.UUID) -> str:
    """The secret part of an order's callback address: what was sent holds it, and nothing that is shown may."""
    found: str = (await connection.execute(TOKEN, {"id": order_id})).scalar_one()
    return found
