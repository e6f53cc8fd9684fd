"""Orders and deliveries written straight into the tables, in the states that a test needs."""

from typing import Any

from sqlalchemy import text

from reward_relay.db.engine import Database
from reward_relay.intake import new_id, po_number

RECIPIENT = '{"source": "roster", "recipient": {"name": "Ann Lee", "email": "ann@example.com"}, "items": []}'
ORDER = text("""
INSERT INTO orders (id, po_number, source, external_id, delivery_id, state, step, party, due_at, outcome, hold_reason,
  held_from, reward, vendor_order_id, callback_token, created_at, updated_at)
VALUES (:id, :po, :source, CAST(CAST(:id AS uuid) AS text), :id, :state, CAST(:step AS text),
  CASE WHEN CAST(:step AS text) IS NOT NULL THEN CAST(:party AS text) END,
  CASE WHEN CAST(:step AS text) IS NOT NULL THEN now() - make_interval(secs => :due_s) END, :outcome,
  CAST(:hold_reason AS text),
  CASE WHEN CAST(:hold_reason AS text) IS NOT NULL THEN CAST(:held_from AS text) END, CAST(:reward AS jsonb), 'V1',
  'callback-token-of-this-order', now() - make_interval(secs => :age_s), now() - make_interval(secs => :age_s))
""")
EVENT = text("""
INSERT INTO order_events (order_id, at, to_state, actor)
VALUES (:id, now() - make_interval(secs => :age_s), :to, 'test')
""")
DELIVERY = text("""
INSERT INTO deliveries (id, source, received_at, via, content_type, headers, body, verdict)
VALUES (:id, :source, now() - make_interval(secs => :age_s), 'webhook', '', '{}', '', :verdict)
""")
PROCESS = text("""
INSERT INTO processes (id, kind, host, pid, version, routes, trouble, started_at, seen_at)
VALUES (:id, :kind, 'relay-1', 1, '0', '', :trouble, now(), now() - make_interval(secs => :age_s))
""")


async def run(database: Database, sql: str, **values: Any) -> list[Any]:
    """One statement in a transaction of its own; its rows."""
    async with database.transaction() as connection:
        found = await connection.execute(text(sql), values)
        return list(found) if found.returns_rows else []


async def order(database: Database, state: str, source: str = "roster", **values: Any) -> str:
    """An order in this state, `age_s` old and due for `due_s` seconds where it has a step; returns its PO number."""
    step = {"received": "place", "placed": "check", "settled": "close"}.get(state)
    order_id = new_id()
    given = {
        "party": "vendor:gcp",
        "due_s": 0,
        "outcome": None,
        "hold_reason": None,
        "held_from": "received",
        "age_s": 0,
    }
    row = {**given, "step": step, **values, "id": order_id, "po": po_number(order_id), "source": source}
    async with database.transaction() as connection:
        await connection.execute(ORDER, {**row, "state": state, "reward": RECIPIENT})
        if row["outcome"]:
            await connection.execute(EVENT, {"id": order_id, "age_s": row["age_s"], "to": "settled"})
    return str(row["po"])


async def held(database: Database, reason: str, source: str = "roster", **values: Any) -> str:
    """An order on hold; returns its PO number."""
    return await order(database, "on_hold", source, hold_reason=reason, **values)


async def delivery(database: Database, source: str, verdict: str, age_s: float = 0) -> str:
    """A delivery; returns its id."""
    delivery_id = new_id()
    async with database.transaction() as connection:
        values = {"id": delivery_id, "source": source, "verdict": verdict, "age_s": age_s}
        await connection.execute(DELIVERY, values)
    return delivery_id


async def process(database: Database, kind: str, age_s: float = 0, trouble: str | None = None) -> None:
    """A process that was seen `age_s` seconds ago."""
    async with database.transaction() as connection:
        values = {"id": new_id(), "kind": kind, "age_s": age_s, "trouble": trouble}
        await connection.execute(PROCESS, values)
