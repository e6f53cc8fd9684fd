"""The state of the alerts: whose turn it is to look, what is present, what was told."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import Row

KEPT_S = 7 * 86_400.0
"""How long an alert that is over is remembered."""

TURN = text("""
INSERT INTO alert_looks AS l (name, at, busy_until) VALUES ('alerts', now(), now() + make_interval(secs => :lease_s))
ON CONFLICT (name) DO UPDATE SET at = now(), busy_until = now() + make_interval(secs => :lease_s)
WHERE l.at <= now() - make_interval(secs => :every_s) AND (l.busy_until IS NULL OR l.busy_until <= now())
RETURNING at, CASE WHEN :tells THEN LEAST(COALESCE(told_to, '2000-01-01') - interval '1 hour', now() - interval '1 day')
  ELSE now() - interval '1 day' END AS floor
""")
"""A transaction that commits more than an hour after it began would be missed; statements end after 30 seconds."""
PRESENT = text("""
INSERT INTO alerts AS a (key, severity, text, since, seen_at)
SELECT key, severity, text, now(), now()
FROM unnest(CAST(:keys AS text[]), CAST(:severities AS text[]), CAST(:texts AS text[])) AS n(key, severity, text)
ON CONFLICT (key) DO UPDATE SET severity = excluded.severity, text = excluded.text, seen_at = now(), ended_at = NULL,
  since = CASE WHEN a.sent_at >= a.ended_at OR a.ended_at <= now() - interval '1 hour' THEN now() ELSE a.since END
""")
"""What comes back before its end was told is the same alert."""
ENDED = text("UPDATE alerts SET ended_at = now() WHERE ended_at IS NULL AND key <> ALL(CAST(:keys AS text[]))")
ALL = text("SELECT *, now() AS now FROM alerts ORDER BY severity, since, key")
TOLD = text("UPDATE alerts SET sent_at = now() WHERE key = ANY(CAST(:keys AS text[]))")
TOLD_OF = text("""
INSERT INTO alerts_told AS t (id, kind, at)
SELECT id, kind, at
FROM unnest(CAST(:id AS uuid[]), CAST(:kind AS text[]), CAST(:at AS timestamptz[])) AS n(id, kind, at)
ON CONFLICT (id) DO UPDATE SET at = excluded.at
""")
DONE = text("""
UPDATE alert_looks SET busy_until = NULL, told_to = CASE WHEN :all_told THEN at ELSE told_to END WHERE at = :turn
""")
FORGET = text("DELETE FROM alerts WHERE ended_at < now() - make_interval(secs => :kept_s)")
FORGET_ORDERS = text("""
DELETE FROM alerts_told t WHERE kind = 'order'
  AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = t.id AND o.state = 'on_hold')
""")
FORGET_DELIVERIES = text("""
DELETE FROM alerts_told t USING alert_looks l WHERE t.kind = 'delivery' AND l.told_to IS NOT NULL
  AND t.at < LEAST(l.told_to - interval '1 hour', now() - interval '1 day')
""")
LIST = text("""
SELECT key, severity, text, since, seen_at, sent_at FROM alerts WHERE ended_at IS NULL ORDER BY severity, since, key
""")
LOOKED = text("SELECT at FROM alert_looks")


class Turn(NamedTuple):
    """A look that is ours: when it began, and since when quarantined deliveries may be untold."""

    at: datetime
    floor: datetime


class Fresh(NamedTuple):
    """An order (by the time of its hold) or a delivery that nobody was told of yet."""

    id: uuid.UUID
    kind: str
    at: datetime


async def take_turn(connection: AsyncConnection, every_s: float, lease_s: float, *, tells: bool) -> Turn | None:
    """The turn to look, if it is this process's; of several one gets it each `every_s` seconds.

    Nobody else gets one before `done`, or before `lease_s` seconds have passed. With `tells` somebody is told.
    """
    values = {"every_s": every_s, "lease_s": lease_s, "tells": tells}
    row = (await connection.execute(TURN, values)).first()
    return Turn(row.at, row.floor) if row else None


async def keep(connection: AsyncConnection, present: Sequence[tuple[str, str, str]]) -> list[Row]:
    """Write down what is present, as (key, severity, text); all others have ended. Returns every alert, and `now`."""
    keys, severities, texts = ([each[column] for each in present] for column in range(3))
    await connection.execute(PRESENT, {"keys": keys, "severities": severities, "texts": texts})
    await connection.execute(ENDED, {"keys": keys})
    return [dict(row) for row in (await connection.execute(ALL)).mappings()]


async def told(connection: AsyncConnection, keys: Sequence[str], fresh: Sequence[Fresh]) -> None:
    """The receiver has taken a message with these alerts, and with this news in them."""
    await connection.execute(TOLD, {"keys": list(keys)})
    columns = {name: [getattr(each, name) for each in fresh] for name in Fresh._fields}
    await connection.execute(TOLD_OF, columns)


async def done(connection: AsyncConnection, turn: Turn, *, all_told: bool, kept_s: float = KEPT_S) -> None:
    """The look is over; `all_told` where nothing of it waits to be told. What is over is forgotten after `kept_s`."""
    await connection.execute(DONE, {"turn": turn.at, "all_told": all_told})
    await connection.execute(FORGET, {"kept_s": kept_s})
    await connection.execute(FORGET_ORDERS)
    await connection.execute(FORGET_DELIVERIES)


async def present(connection: AsyncConnection) -> list[Row]:
    """The alerts of the last look, critical ones first; `sent_at` is None where nobody was told yet."""
    return [dict(row) for row in (await connection.execute(LIST)).mappings()]


async def looked_at(connection: AsyncConnection) -> datetime | None:
    """When the last look was."""
    found: datetime | None = (await connection.execute(LOOKED)).scalar()
    return found
