"""The whole at a glance: counts, what waits for whom, what flowed lately."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import CLOCKS_MS, Row, first_id
from reward_relay.states import Step

OPEN = text("SELECT state, count(*) AS number FROM orders WHERE state <> 'closed' GROUP BY state")
CLOSED = text("SELECT count(*) AS number FROM orders WHERE state = 'closed'")
WAITING = text("""
SELECT party, count(*) AS waiting, count(*) FILTER (WHERE due_at <= now()) AS due
FROM orders WHERE due_at IS NOT NULL GROUP BY party
""")
CLAIMED = text("""
SELECT party, count(*) AS claimed FROM orders
WHERE party = ANY(CAST(:parties AS text[])) AND step = ANY(CAST(:steps AS text[]))
  AND due_at > now() AND due_at <= now() + interval '1 hour' AND claim_until >= now() GROUP BY party
""")
"""A claimed order is due again at the end of its lease, which is an hour at most."""
OLDEST = text("""
SELECT o.id, o.po_number, o.party, EXTRACT(epoch FROM now() - o.due_at) AS late_s
FROM unnest(CAST(:parties AS text[])) AS p(party) CROSS JOIN unnest(CAST(:steps AS text[])) AS s(step)
CROSS JOIN LATERAL (
  SELECT id, po_number, party, due_at FROM orders
  WHERE party = p.party AND step = s.step AND due_at <= now() ORDER BY due_at LIMIT 1) o
ORDER BY o.due_at LIMIT 1
""")
TROUBLE = text("""
SELECT verdict, count(*) AS number FROM deliveries WHERE verdict IN ('quarantined', 'rejected') GROUP BY verdict
""")
ASKED = text("SELECT count(*) FROM orders WHERE state = 'on_hold' AND asked IS NOT NULL")
RECEIVED = text("""
SELECT floor(EXTRACT(epoch FROM now() - created_at) / :width_s)::int AS ago, count(*) AS number FROM orders
WHERE id >= CAST(:first AS uuid) AND created_at > now() - make_interval(secs => :width_s * :buckets) GROUP BY ago
""")
ENDED = text("""
SELECT floor(EXTRACT(epoch FROM now() - updated_at) / :width_s)::int AS ago, outcome, count(*) AS number FROM orders
WHERE state = 'closed' AND updated_at > now() - make_interval(secs => :width_s * :buckets) GROUP BY ago, outcome
""")
HELD = text("""
SELECT hold_reason, count(*) AS number, (array_agg(po_number ORDER BY id))[1] AS first FROM (
  SELECT id, po_number, hold_reason FROM orders WHERE state = 'on_hold' ORDER BY id DESC LIMIT :most) AS newest
GROUP BY hold_reason ORDER BY number DESC
""")


async def summary(connection: AsyncConnection) -> Row:
    """Counts by state, the oldest order that is due, what waits for whom, deliveries in trouble."""
    states = {row.state: row.number for row in await connection.execute(OPEN)}
    states["closed"] = (await connection.execute(CLOSED)).scalar_one()
    waiting: dict[str, Row] = {row.party: {**row._mapping, "claimed": 0} for row in await connection.execute(WAITING)}
    parties = {"parties": list(waiting), "steps": list(Step)}
    for row in await connection.execute(CLAIMED, parties):
        waiting[row.party]["claimed"] = row.claimed
    oldest = (await connection.execute(OLDEST, parties)).mappings().first()
    trouble = {row.verdict: row.number for row in await connection.execute(TROUBLE)}
    asked = (await connection.execute(ASKED)).scalar_one()
    late = dict(oldest) if oldest else None
    return {"states": states, "oldest_due": late, "waiting": waiting, "trouble": trouble, "asked": asked}


async def flow(connection: AsyncConnection, width_s: int, buckets: int) -> tuple[Counter[int], dict[str, Counter[int]]]:
    """How many orders came, and ended by outcome, in each of the last `buckets` times of `width_s` seconds.

    Keys count back from now: 0 is the present bucket.
    """
    since = datetime.now(UTC) - timedelta(seconds=width_s * buckets)
    values = {"width_s": width_s, "buckets": buckets, "first": str(first_id(since, -CLOCKS_MS))}
    came = Counter({row.ago: row.number for row in await connection.execute(RECEIVED, values)})
    ended: dict[str, Counter[int]] = {}
    for row in await connection.execute(ENDED, {"width_s": width_s, "buckets": buckets}):
        ended.setdefault(row.outcome, Counter())[row.ago] = row.number
    return came, ended


async def held(connection: AsyncConnection, most: int = 2000) -> list[Row]:
    """Why orders are on hold: each reason with its number and one order; of the newest `most` of them."""
    return [dict(row) for row in (await connection.execute(HELD, {"most": most})).mappings()]
