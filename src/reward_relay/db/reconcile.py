"""What reconciliation reads of the orders, page by page, and the row of the run that is under way."""

import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db import plans
from reward_relay.db.engine import Database
from reward_relay.db.queries import CLOCKS_MS, Row, first_id
from reward_relay.db.search import terms
from reward_relay.errors import NotAllowed
from reward_relay.states import State

PAGE = 200
REPORT = "reconcile"
RUNNING = "reconcile_running"
BEAT_S = 300
"""A run that has not shown a sign of life for so long has died with its process."""
FIRST = "00000000-0000-0000-0000-000000000000"

COLUMNS = """o.id, o.po_number, o.source, o.external_id, o.state, o.outcome, o.vendor, o.vendor_order_id, o.in_doubt,
  o.hold_reason, o.held_from, o.created_at, o.updated_at, o.claim IS NOT NULL AND o.claim_until >= now() AS claimed,
  (SELECT sum(CAST(line ->> 'value' AS numeric) * CAST(line ->> 'quantity' AS numeric))
   FROM jsonb_array_elements(o.plan -> 'lines') AS line) AS amount"""
OPEN = text(f"""
SELECT {COLUMNS}, (SELECT max(e.at) FROM order_events e
  WHERE e.order_id = o.id AND e.to_state = o.state AND e.from_state IS DISTINCT FROM e.to_state) AS since
FROM orders o WHERE o.state = :state AND o.state <> 'closed' AND o.id > CAST(:after AS uuid)
  AND o.created_at < now() - make_interval(mins => :min_age_min) ORDER BY o.id LIMIT :page
""")  # noqa: S608 - a constant of this module
CLOSED = text(f"""
SELECT {COLUMNS}, o.updated_at AS since FROM orders o
WHERE o.state = 'closed' AND o.vendor_order_id IS NOT NULL AND o.id > CAST(:after AS uuid)
  AND o.created_at BETWEEN :first AND :last AND hashtextextended(CAST(o.id AS text), :draw) % :every = 0
ORDER BY o.id LIMIT :page
""")  # noqa: S608 - a constant of this module
COUNT_CLOSED = text("""
SELECT count(*) FROM orders WHERE state = 'closed' AND updated_at >= :first AND created_at >= :first
""")
BY_ID = text(f"SELECT {COLUMNS} FROM orders o WHERE o.id = ANY(CAST(:ids AS uuid[]))")  # noqa: S608
BY_PO = text(f"SELECT {COLUMNS} FROM orders o WHERE o.po_number = ANY(CAST(:keys AS text[]))")  # noqa: S608
BY_EXTERNAL = text(f"""
SELECT {COLUMNS} FROM orders o WHERE o.source = :source AND o.external_id = ANY(CAST(:keys AS text[]))
""")  # noqa: S608 - a constant of this module
BY_VENDOR_ORDER = text(f"""
SELECT {COLUMNS} FROM order_search s JOIN orders o ON o.id = s.order_id
WHERE s.words @@ CAST(:query AS tsquery) AND o.vendor = :vendor AND o.vendor_order_id = ANY(CAST(:keys AS text[]))
""")  # noqa: S608 - a constant of this module
LOCKED = text(f"SELECT {COLUMNS} FROM orders o WHERE o.id = CAST(:id AS uuid) FOR UPDATE SKIP LOCKED")  # noqa: S608

ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(7272001)")
DEAD = text("""
DELETE FROM plans WHERE action = :running
  AND CAST(content ->> 'seen_at' AS timestamptz) < now() - make_interval(secs => :beat_s)
""")
ALIVE = text("SELECT actor, made_at FROM plans WHERE action = :running")
BEAT = text("""
UPDATE plans SET content = CAST(:content AS jsonb) || jsonb_build_object('seen_at', now())
WHERE id = CAST(:id AS uuid) AND action = :running RETURNING id
""")
DONE = text("""
UPDATE plans SET action = :report, content = CAST(:content AS jsonb), made_at = now()
WHERE id = CAST(:id AS uuid) AND action = :running RETURNING id
""")
GIVE_UP = text("DELETE FROM plans WHERE id = CAST(:id AS uuid) AND action = :running")
NOW = text("SELECT now()")


async def open_orders(database: Database, min_age_min: int) -> AsyncIterator[list[Row]]:
    """Every open order that came more than `min_age_min` minutes ago, in pages; `since` = when its state began.

    No transaction is open while a page is looked at.
    """
    for state in (State.RECEIVED, State.PLACED, State.SETTLED, State.ON_HOLD):
        async for rows in _pages(database, OPEN, {"state": state, "min_age_min": min_age_min}):
            yield rows


async def closed_orders(
    database: Database, first: datetime, last: datetime, *, draw: int = 0, every: int = 1
) -> AsyncIterator[list[Row]]:
    """Closed orders that were at a vendor and came between two times, in pages; one in `every`, others each `draw`."""
    values = {"first": first, "last": last, "draw": draw, "every": every}
    async for rows in _pages(database, CLOSED, values, after=str(first_id(first, -CLOCKS_MS))):
        yield rows


async def _pages(
    database: Database, query: Any, values: Mapping[str, Any], after: str = FIRST
) -> AsyncIterator[list[Row]]:
    while True:
        async with database.transaction() as connection:
            found = (await connection.execute(query, {**values, "after": after, "page": PAGE})).mappings()
            rows = [dict(row) for row in found]
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        after = str(rows[-1]["id"])


async def count_closed(connection: AsyncConnection, first: datetime) -> int:
    """How many orders that came after `first` are closed."""
    return int((await connection.execute(COUNT_CLOSED, {"first": first})).scalar_one())


async def database_time(connection: AsyncConnection) -> datetime:
    """The time by the clock that stamps the orders."""
    found: datetime = (await connection.execute(NOW)).scalar_one()
    return found


async def by_ids(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Row]:
    """These orders as they are now, by id."""
    return {str(row["id"]): row for row in await _rows(connection, BY_ID, {"ids": list(ids)})}


async def by_po_numbers(connection: AsyncConnection, numbers: Sequence[str]) -> dict[str, Row]:
    """The orders with these PO numbers, by PO number."""
    return {row["po_number"]: row for row in await _rows(connection, BY_PO, {"keys": list(numbers)})}


async def by_external_ids(connection: AsyncConnection, source: str, ids: Sequence[str]) -> dict[str, Row]:
    """A source's orders with these ids, by external id."""
    found = await _rows(connection, BY_EXTERNAL, {"source": source, "keys": list(ids)})
    return {row["external_id"]: row for row in found}


async def by_vendor_orders(connection: AsyncConnection, vendor: str, ids: Sequence[str]) -> dict[str, Row]:
    """A vendor's orders with these ids of its own, by that id: through the index of the search."""
    wholes = [" & ".join(word.removesuffix(":*") for word in words) for each in ids if (words := terms(each))]
    if not wholes:
        return {}
    query = " | ".join(f"({whole})" for whole in wholes)
    found = await _rows(connection, BY_VENDOR_ORDER, {"query": query, "vendor": vendor, "keys": list(ids)})
    return {row["vendor_order_id"]: row for row in found}


async def locked(connection: AsyncConnection, order_id: str) -> Row | None:
    """An order as it is, and stays until the transaction ends; None also where somebody else holds it so."""
    found = (await connection.execute(LOCKED, {"id": order_id})).mappings().first()
    return dict(found) if found else None


async def _rows(connection: AsyncConnection, query: Any, values: Mapping[str, Any]) -> list[Row]:
    return [dict(row) for row in (await connection.execute(query, values)).mappings()]


async def open_run(connection: AsyncConnection, actor: str, note: str, content: Mapping[str, Any]) -> str:
    """Note that a run is under way; returns its token, which will be the report's.

    Raises:
        NotAllowed: another one is.
    """
    await connection.execute(ONE_AT_A_TIME)
    await connection.execute(DEAD, {"running": RUNNING, "beat_s": BEAT_S})
    other = (await connection.execute(ALIVE, {"running": RUNNING})).first()
    if other is not None:
        raise NotAllowed(f"{other.actor} reconciles just now, since {other.made_at:%H:%M} UTC; look at its report")
    await plans.forget(connection)
    token = await plans.keep(connection, RUNNING, actor, note, content)
    await beat(connection, token, content)
    return token


async def beat(connection: AsyncConnection, token: str, content: Mapping[str, Any]) -> bool:
    """Show a sign of life, and how far the run is; False where it was taken for dead."""
    values = {"id": token, "running": RUNNING, "content": json.dumps(content, default=str)}
    return (await connection.execute(BEAT, values)).first() is not None


async def finish(connection: AsyncConnection, token: str, content: Mapping[str, Any]) -> bool:
    """Turn the row of the run into its report; False where the run was taken for dead."""
    values = {"id": token, "running": RUNNING, "report": REPORT, "content": json.dumps(content, default=str)}
    return (await connection.execute(DONE, values)).first() is not None


async def give_up(connection: AsyncConnection, token: str) -> None:
    """The run ended without a report."""
    await connection.execute(GIVE_UP, {"id": token, "running": RUNNING})


async def running(connection: AsyncConnection) -> Row | None:
    """The run that is under way, None where there is none or it has died."""
    found = await plans.latest(connection, RUNNING)
    if found is None:
        return None
    seen = datetime.fromisoformat(found["content"]["seen_at"])
    return found if (await database_time(connection) - seen).total_seconds() < BEAT_S else None


def new_draw() -> int:
    """A number that decides which closed orders are looked at this time."""
    return uuid.uuid4().int & ((1 << 62) - 1)
