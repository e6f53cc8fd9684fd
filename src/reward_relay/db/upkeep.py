"""Slow statements that keep the house: orders without a party, polling turns, personal data that has had its time."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db import caps
from reward_relay.jobs import source_party

REJECTED_KEPT = 1000
ORPHANED_AFTER_MIN = 10
"""In a rolling change of configuration another worker may know the party that we do not."""

ORPHANS = text("""
SELECT DISTINCT party FROM orders
WHERE due_at <= now() - make_interval(mins => :mins) AND party <> ALL(CAST(:parties AS text[]))
""")
TURN = text("""
INSERT INTO party_health AS h (party, since, why) SELECT :name, now(), 'last poll'
WHERE NOT EXISTS (SELECT 1 FROM party_health p WHERE p.party = :party AND p.paused)
ON CONFLICT (party) DO UPDATE SET since = now() WHERE h.since <= now() - make_interval(secs => :every_s)
RETURNING party
""")
PURGE_ORDERS = text("""
WITH purged AS (
  UPDATE orders SET reward = (reward || '{"recipient": {}, "reference": {}}') - 'message', message = NULL
  WHERE id IN (
    SELECT id FROM orders
    WHERE state = 'closed' AND updated_at < now() - make_interval(days => :days) AND reward -> 'recipient' <> '{}'
    LIMIT :batch)
  RETURNING id
), answers AS (
  UPDATE calls c SET answer = NULL FROM purged p WHERE c.order_id = p.id
)
SELECT id FROM purged
""")
PURGE_DELIVERIES = text("""
UPDATE deliveries d SET body = '', headers = '{}'
WHERE id IN (
  SELECT id FROM deliveries d2
  WHERE received_at < now() - make_interval(days => :days) AND body <> ''
    AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = d2.order_id AND o.state <> 'closed')
  LIMIT :batch)
""")
PRUNE_REJECTED = text("""
DELETE FROM deliveries WHERE verdict = 'rejected' AND id <= (
  SELECT id FROM deliveries WHERE verdict = 'rejected' ORDER BY id DESC OFFSET :kept LIMIT 1)
""")


async def orphaned_parties(connection: AsyncConnection, known: list[str]) -> list[str]:
    """Parties that due orders wait for and that the configuration no longer has."""
    return [row.party for row in await connection.execute(ORPHANS, {"parties": known, "mins": ORPHANED_AFTER_MIN})]


async def take_turn(connection: AsyncConnection, source: str, every_s: float) -> bool:
    """Whether it is this process's turn to poll a source; of several processes one gets it each `every_s` seconds.

    Nobody's, while the source is paused.
    """
    values = {"name": f"poll:{source}", "party": source_party(source), "every_s": every_s}
    found = await connection.execute(TURN, values)
    return found.first() is not None


async def purge(connection: AsyncConnection, retention_days: int, batch: int = 1000) -> int:
    """Forget the personal data of orders that ended more than `retention_days` ago; returns how many rows changed."""
    values = {"days": retention_days, "batch": batch}
    changed = len((await connection.execute(PURGE_ORDERS, values)).all())
    changed += (await connection.execute(PURGE_DELIVERIES, values)).rowcount
    await connection.execute(PRUNE_REJECTED, {"kept": REJECTED_KEPT})
    await caps.forget(connection)
    return changed
