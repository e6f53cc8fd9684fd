"""Who runs: each process writes its row again and again, and takes it away when it ends well."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import Row

GONE_AFTER_S = 60.0
"""A process that was not seen for so long counts as gone."""

BEAT = text("""
INSERT INTO processes AS p (id, kind, host, pid, version, routes, trouble, started_at, seen_at)
VALUES (CAST(:id AS uuid), :kind, :host, :pid, :version, :routes, :trouble, now(), now())
ON CONFLICT (id) DO UPDATE SET seen_at = now(), routes = :routes, trouble = :trouble
""")
FORGET = text("DELETE FROM processes WHERE seen_at < now() - interval '1 day'")
REMOVE = text("DELETE FROM processes WHERE id = CAST(:id AS uuid)")
ALL = text("""
SELECT kind, host, pid, version, routes, trouble, started_at, seen_at,
  seen_at > now() - make_interval(secs => :gone_after_s) AS alive
FROM processes ORDER BY kind, started_at
""")


async def beat(connection: AsyncConnection, process: Mapping[str, Any]) -> None:
    """Say that a process lives, with the routes it uses; rows that nobody has renewed for a day go."""
    await connection.execute(BEAT, dict(process))
    await connection.execute(FORGET)


async def remove(connection: AsyncConnection, process_id: str) -> None:
    """Take a process off the list: it has ended as it should."""
    await connection.execute(REMOVE, {"id": process_id})


async def all_processes(connection: AsyncConnection) -> list[Row]:
    """Every process of the last day; `alive` where it was seen within a minute."""
    rows = await connection.execute(ALL, {"gone_after_s": GONE_AFTER_S})
    return [dict(row) for row in rows.mappings()]
