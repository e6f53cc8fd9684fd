"""What the alerts look for. Each statement is one look at one kind of trouble, served by an index."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import Row
from reward_relay.states import Step

MOST_COUNTED = 10_000
"""What waits for a party is counted so far."""
ALIVE_S = 60
SAMPLES = 3

_FIRST_ID = "CAST(lpad(to_hex(CAST(EXTRACT(epoch FROM {}) * 1000 AS bigint)), 12, '0') || repeat('0', 20) AS uuid)"
"""The least id of version 7 of a time; a day before what is meant, for ids are made by another clock."""


def _from(time: str) -> str:
    return f"d.id >= {_FIRST_ID.format(f'{time} - {chr(39)}1 day{chr(39)}::interval')} AND d.received_at >= {time}"


HELD = f"""
SELECT source, kind, count(*) AS number,
  COALESCE(array_agg(id) FILTER (WHERE fresh), '{{}}') AS ids, array_agg(at) FILTER (WHERE fresh) AS times,
  (array_agg(po_number ORDER BY fresh DESC, id))[1:{SAMPLES}] AS samples
FROM (
  SELECT o.id, o.source, o.po_number, o.updated_at AS at, t.id IS NULL AS fresh, CASE %s ELSE 'other' END AS kind
  FROM orders o LEFT JOIN alerts_told t ON t.id = o.id AND t.at = o.updated_at WHERE o.state = 'on_hold'
) AS held GROUP BY source, kind ORDER BY source, kind
"""  # noqa: S608 - a constant of this module
IS_KIND = "WHEN strpos(o.hold_reason, CAST(:phrase_{0} AS text)) > 0 THEN CAST(:kind_{0} AS text)"
"""A quarter faster than a join with the phrases (25,000 held orders: 230 against 300 ms)."""
SICK = text("""
SELECT h.party, h.paused, h.why, (SELECT count(*) FROM (
    SELECT 1 FROM orders o WHERE o.party = h.party AND o.due_at IS NOT NULL LIMIT :most) AS w) AS waiting
FROM party_health h WHERE (h.paused OR h.breaker = 'open') AND h.party NOT LIKE 'poll:%' ORDER BY h.party
""")
LATE = text("""
WITH RECURSIVE p(party) AS (
  (SELECT party FROM orders WHERE due_at IS NOT NULL ORDER BY party LIMIT 1)
  UNION ALL
  SELECT (SELECT o.party FROM orders o WHERE o.due_at IS NOT NULL AND o.party > p.party ORDER BY o.party LIMIT 1)
  FROM p WHERE p.party IS NOT NULL
)
SELECT p.party, o.po_number, EXTRACT(epoch FROM now() - o.due_at) AS late_s, (SELECT count(*) FROM (
    SELECT 1 FROM orders d WHERE d.party = p.party AND d.due_at <= now() LIMIT :most) AS w) AS due
FROM p CROSS JOIN LATERAL (
  SELECT l.po_number, l.due_at FROM unnest(CAST(:steps AS text[])) AS s(step) CROSS JOIN LATERAL (
    SELECT po_number, due_at FROM orders
    WHERE party = p.party AND step = s.step AND due_at <= now() - make_interval(secs => :after_s)
    ORDER BY due_at LIMIT 1) l
  ORDER BY l.due_at LIMIT 1) o
""")
"""The parties are found by hopping through the index of due orders, so that one which is no longer configured shows."""
UNCLOSED = text(f"""
SELECT o.source, count(*) AS number, EXTRACT(epoch FROM now() - min(e.at)) AS late_s,
  count(*) FILTER (WHERE o.state = 'on_hold') AS held, (array_agg(o.po_number ORDER BY e.at))[1:{SAMPLES}] AS samples
FROM orders o CROSS JOIN LATERAL (
  SELECT at FROM order_events WHERE order_id = o.id AND to_state = 'settled' ORDER BY seq LIMIT 1) e
WHERE o.state IN ('settled', 'on_hold') AND (o.state = 'settled' OR o.held_from = 'settled')
  AND o.outcome = 'fulfilled' AND o.created_at <= now() - make_interval(secs => :after_s)
  AND e.at <= now() - make_interval(secs => :after_s)
GROUP BY o.source ORDER BY o.source
""")  # noqa: S608 - a constant of this module
QUIET = text("""
SELECT s.source, EXTRACT(epoch FROM now() - d.received_at) AS quiet_s
FROM unnest(CAST(:sources AS text[]), CAST(:after_s AS float8[])) AS s(source, after_s) CROSS JOIN LATERAL (
  SELECT received_at FROM deliveries WHERE source >= s.source AND source <= s.source AND verdict <> 'rejected'
  ORDER BY source DESC, id DESC LIMIT 1) d
WHERE s.after_s > 0 AND d.received_at <= now() - make_interval(secs => s.after_s) ORDER BY s.source
""")
"""Rejected ones do not count: anybody can post those. With `=` the planner walks back through everybody's deliveries,
which is long where a source is quiet; so only the index of source and id fits."""
QUARANTINED = text(f"""
SELECT d.source, count(*) AS number, COALESCE(array_agg(d.id) FILTER (WHERE t.id IS NULL), '{{}}') AS ids,
  array_agg(d.received_at) FILTER (WHERE t.id IS NULL) AS times
FROM deliveries d LEFT JOIN alerts_told t ON t.id = d.id
WHERE d.verdict = 'quarantined' AND {_from("CAST(:floor AS timestamptz)")}
  AND (t.id IS NULL OR d.received_at > now() - interval '1 day')
GROUP BY d.source ORDER BY d.source
""")  # noqa: S608 - a constant of this module
REJECTED = text(f"""
SELECT d.source, count(*) AS number FROM deliveries d
WHERE d.verdict = 'rejected' AND {_from("(now() - interval '1 hour')")}
GROUP BY d.source HAVING count(*) >= :least ORDER BY d.source
""")  # noqa: S608 - a constant of this module
TROUBLED = text("""
SELECT host, min(trouble) AS trouble, count(*) AS number FROM processes
WHERE trouble IS NOT NULL AND seen_at > now() - make_interval(secs => :alive_s) GROUP BY host ORDER BY host
""")
WORKERS = text("""
WITH seen AS (
  UPDATE alert_looks SET worker_at = GREATEST(worker_at, (SELECT max(seen_at) FROM processes WHERE kind = 'worker'))
  RETURNING worker_at
)
SELECT EXTRACT(epoch FROM now() - worker_at) AS gone_s, (SELECT count(*) FROM (
    SELECT 1 FROM orders WHERE due_at IS NOT NULL LIMIT :most) AS w) AS waiting
FROM seen WHERE worker_at <= now() - make_interval(secs => :alive_s)
""")
"""A worker takes its row away when it ends well; that there was one is remembered here."""


async def held(connection: AsyncConnection, kinds: Sequence[tuple[str, str]]) -> list[Row]:
    """Orders on hold by source and kind; `kinds` are pairs of kind and the phrase of the reason that tells it.

    `ids` and `times` are those that nobody was told of. A second hold of an order, and a change of a held one, is
    news again.
    """
    statement = text(HELD % " ".join(IS_KIND.format(number) for number in range(len(kinds))))
    values = {f"kind_{number}": kind for number, (kind, _) in enumerate(kinds)}
    values |= {f"phrase_{number}": phrase for number, (_, phrase) in enumerate(kinds)}
    return await _rows(connection, statement, values)


async def sick_parties(connection: AsyncConnection) -> list[Row]:
    """Parties that are paused, or whose breaker is open, and how many orders wait for each."""
    return await _rows(connection, SICK, {"most": MOST_COUNTED})


async def late(connection: AsyncConnection, after_s: float) -> list[Row]:
    """Parties whose oldest due order has been due for `after_s` seconds."""
    return await _rows(connection, LATE, {"after_s": after_s, "most": MOST_COUNTED, "steps": list(Step)})


async def unclosed(connection: AsyncConnection, after_s: float) -> list[Row]:
    """Sources that have not been told of rewards fulfilled `after_s` seconds ago."""
    return await _rows(connection, UNCLOSED, {"after_s": after_s})


async def quiet(connection: AsyncConnection, after_s: Mapping[str, float]) -> list[Row]:
    """Sources whose last delivery is older than their number of seconds; one that never had any is not quiet."""
    return await _rows(connection, QUIET, {"sources": list(after_s), "after_s": list(after_s.values())})


async def quarantined(connection: AsyncConnection, floor: datetime) -> list[Row]:
    """Sources with quarantined deliveries of the last day, or since `floor` and untold (`ids`, `times`)."""
    return await _rows(connection, QUARANTINED, {"floor": floor})


async def rejected(connection: AsyncConnection, least: int) -> list[Row]:
    """Sources with at least so many rejected deliveries within the last hour, as far as they were kept."""
    return await _rows(connection, REJECTED, {"least": least})


async def troubled(connection: AsyncConnection) -> list[Row]:
    """Hosts on which live processes have something to say."""
    return await _rows(connection, TROUBLED, {"alive_s": ALIVE_S})


async def workers_gone(connection: AsyncConnection) -> Row | None:
    """Since when no worker lives, and how many orders wait; None where one lives, or there never was one."""
    found = await _rows(connection, WORKERS, {"alive_s": ALIVE_S, "most": MOST_COUNTED})
    return found[0] if found else None


async def _rows(connection: AsyncConnection, statement: Any, values: Mapping[str, Any]) -> list[Row]:
    return [dict(row) for row in (await connection.execute(statement, dict(values))).mappings()]
