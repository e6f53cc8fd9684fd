"""Removing personal data: by age, of single orders, of single deliveries. Keys, amounts, events and proofs stay.

What goes of an order: recipient, message, the platform's references to the person, the last error, the answers of calls
and the addresses they went to, body and headers of all its deliveries. Each statement is a transaction's whole work and
takes no more rows than its batch.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db import caps, search
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row, with_body
from reward_relay.db.tables import orders

BATCH = 500
BODIES = 50
"""Bodies in memory at a time: each may have 1 MiB."""
REJECTED_KEPT = 1000
"""Of each source, so that the junk of one does not push out another's evidence."""
UPKEEP = "upkeep"
"""Who removes what has had its time."""

_FORGET = """
), purged AS (
  UPDATE orders o SET reward = (o.reward || '{"recipient": {}, "reference": {}}') - 'message', message = NULL,
    last_error = NULL, purged_at = now()
  FROM due WHERE o.id = due.id RETURNING o.id, o.state, due.purged_at IS NULL AS first
), answers AS (
  UPDATE calls c SET answer = NULL, exchanges = (
    SELECT jsonb_agg(e - 'url' ORDER BY n) FROM jsonb_array_elements(c.exchanges) WITH ORDINALITY AS x(e, n))
  FROM purged p WHERE c.order_id = p.id
), bodies AS (
  UPDATE deliveries d SET body = '', headers = '{}', sealed = NULL, purged_at = now()
  FROM purged p WHERE d.order_id = p.id AND d.purged_at IS NULL
  RETURNING d.id
), told AS (
  INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
  SELECT id, now(), state, state, :actor, :reason FROM purged WHERE first
)
SELECT (SELECT count(*) FROM due) AS orders, (SELECT count(*) FROM bodies) AS deliveries
"""
EXPIRED_ORDERS = text(f"""
WITH due AS (
  SELECT id, purged_at FROM orders
  WHERE state = 'closed' AND purged_at IS NULL AND updated_at < now() - make_interval(days => :days)
  ORDER BY updated_at LIMIT :batch FOR UPDATE SKIP LOCKED
{_FORGET}
""")  # noqa: S608 - a constant of this module
THESE_ORDERS = text(f"""
WITH due AS (
  SELECT id, purged_at FROM orders WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'closed' ORDER BY id FOR UPDATE
{_FORGET}
""")  # noqa: S608 - a constant of this module
_PLACE = "(d.received_at, d.id) > (CAST(:at AS timestamptz), CAST(:id AS uuid))"
EXPIRED_DELIVERIES = text(f"""
SELECT d.id, d.received_at, EXISTS (SELECT 1 FROM orders o WHERE o.id = d.order_id AND o.state <> 'closed') AS needed
FROM deliveries d
WHERE d.purged_at IS NULL AND d.received_at < now() - make_interval(days => :days) AND {_PLACE}
ORDER BY d.received_at, d.id LIMIT :batch
""")  # noqa: S608 - a constant of this module
THESE_DELIVERIES = text("""
UPDATE deliveries d SET body = '', headers = '{}', sealed = NULL, purged_at = now()
WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.purged_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = d.order_id AND o.state <> 'closed')
""")
"""An order that is open needs its delivery for a release."""
BODIES_FROM = text(f"""
SELECT d.id, d.source, d.received_at, d.verdict, d.external_id, d.order_id, d.body, d.sealed, o.po_number, o.state
FROM deliveries d LEFT JOIN orders o ON o.id = d.order_id
WHERE d.purged_at IS NULL AND {_PLACE} ORDER BY d.received_at, d.id LIMIT :batch
""")  # noqa: S608 - a constant of this module
WITHOUT_ORDER = text(f"""
SELECT d.id, d.source, d.received_at, d.verdict, d.external_id, d.order_id
FROM deliveries d
WHERE d.purged_at IS NULL AND d.source = :source AND d.external_id = :external_id AND d.order_id IS NULL AND {_PLACE}
ORDER BY d.received_at, d.id LIMIT :batch
""")  # noqa: S608 - a constant of this module
PRUNE_REJECTED = text("""
DELETE FROM deliveries WHERE id IN (
  SELECT id FROM (
    SELECT id, row_number() OVER (PARTITION BY source ORDER BY id DESC) AS place
    FROM deliveries WHERE verdict = 'rejected') AS rejected
  WHERE place > :kept)
""")


class Place(NamedTuple):
    """Where a walk through the deliveries is, in the order of their arrival."""

    at: datetime
    id: Any


FIRST = Place(datetime.fromisoformat("0001-01-01T00:00:00+00:00"), "00000000-0000-0000-0000-000000000000")


async def expired(database: Database, days: int, batch: int = BATCH) -> tuple[int, int]:
    """Forget what ended, or came without an order, over `days` ago; returns how many orders and further deliveries."""
    plural = "" if days == 1 else "s"
    values = {"actor": UPKEEP, "reason": f"personal data removed, {days} day{plural} after the end", "days": days}
    forgotten = more = 0
    while True:
        async with database.transaction() as connection:
            await search.by_values(connection)
            found = (await connection.execute(EXPIRED_ORDERS, {**values, "batch": batch})).one()
        forgotten += found.orders
        if found.orders < batch:
            break
    place: Place | None = FIRST
    while place is not None:
        async with database.transaction() as connection:
            await search.by_values(connection)
            rows = (await connection.execute(EXPIRED_DELIVERIES, {**_from(place), "days": days, "batch": batch})).all()
            more += await of_deliveries(connection, [str(row.id) for row in rows if not row.needed])
        place = Place(rows[-1].received_at, rows[-1].id) if len(rows) == batch else None
    async with database.transaction() as connection:
        await connection.execute(PRUNE_REJECTED, {"kept": REJECTED_KEPT})
        await caps.forget(connection)
    return forgotten, more


async def of_orders(connection: AsyncConnection, ids: Sequence[str], actor: str, reason: str) -> tuple[int, int]:
    """Forget the persons of those of these orders that are closed; returns how many orders and deliveries."""
    await search.by_values(connection)
    found = (await connection.execute(THESE_ORDERS, {"ids": list(ids), "actor": actor, "reason": reason})).one()
    return found.orders, found.deliveries


async def of_deliveries(connection: AsyncConnection, ids: Sequence[str]) -> int:
    """Forget body and headers of those of these deliveries that no open order needs; returns how many."""
    return (await connection.execute(THESE_DELIVERIES, {"ids": list(ids)})).rowcount if ids else 0


async def bodies_after(connection: AsyncConnection, place: Place, batch: int = BODIES) -> list[Row]:
    """The next deliveries that have their contents, as stored, with number and state of their orders."""
    found = await connection.execute(BODIES_FROM, {**_from(place), "batch": batch})
    return [with_body(row) for row in found.mappings()]


async def without_order(connection: AsyncConnection, source: str, external_id: str) -> list[Row]:
    """What else arrived of a reward, and made no order: notices, and what was not understood."""
    values = {"source": source, "external_id": external_id, "batch": BATCH}
    found = await connection.execute(WITHOUT_ORDER, {**values, **_from(FIRST)})
    return [dict(row) for row in found.mappings()]


async def candidates(connection: AsyncConnection, words: str, after: Any = None) -> list[Row]:
    """A page of the orders that have these words, to be looked at more closely; oldest first."""
    await search.by_values(connection)
    wanted = await search.having(connection, {}, words)
    if after is not None:
        wanted.append(orders.c.id > after)
    shown = (orders.c[name] for name in ("id", "po_number", "source", "external_id", "state", "reward", "message"))
    query = select(*shown).where(*wanted).order_by(orders.c.id).limit(BATCH)
    found = await connection.execute(query)
    return [dict(row) for row in found.mappings()]


def _from(place: Place) -> Row:
    return {"at": place.at, "id": place.id}
