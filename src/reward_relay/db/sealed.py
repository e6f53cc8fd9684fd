"""Stored bodies by the key that sealed them, and sealing them anew."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.purging import BODIES, Place
from reward_relay.db.queries import Row, with_body
from reward_relay.sealing import Stored

OTHERS = text("""
SELECT id, received_at, body, sealed FROM deliveries
WHERE purged_at IS NULL AND body <> '' AND sealed IS DISTINCT FROM :newest
  AND (received_at, id) > (CAST(:at AS timestamptz), CAST(:id AS uuid))
ORDER BY received_at, id LIMIT :batch FOR UPDATE
""")
KEEP = text("""
UPDATE deliveries d SET body = n.body, sealed = n.sealed
FROM unnest(CAST(:ids AS uuid[]), CAST(:bodies AS bytea[]), CAST(:keys AS text[])) AS n(id, body, sealed)
WHERE d.id = n.id
""")
BY_KEY = text("""
SELECT sealed, count(*) AS number FROM deliveries WHERE purged_at IS NULL AND body <> '' GROUP BY sealed ORDER BY sealed
""")
"""Reads every delivery that has a body: for a command that a person waits for."""


async def sealed_otherwise(connection: AsyncConnection, newest: str | None, place: Place) -> list[Row]:
    """The next bodies that another key sealed, or none; nobody else changes them until the transaction ends."""
    values = {"newest": newest, "at": place.at, "id": place.id, "batch": BODIES}
    return [with_body(row) for row in (await connection.execute(OTHERS, values)).mappings()]


async def keep(connection: AsyncConnection, sealed: Sequence[tuple[str, Stored]]) -> None:
    """Put these bodies in the place of what is stored."""
    ids, bodies = [each for each, _ in sealed], [body for _, body in sealed]
    values = {"ids": ids, "bodies": [each.body for each in bodies], "keys": [each.key for each in bodies]}
    await connection.execute(KEEP, values)


async def by_key(connection: AsyncConnection) -> dict[str | None, int]:
    """How many bodies each key sealed; under None those that are plain."""
    return {row.sealed: row.number for row in await connection.execute(BY_KEY)}
