"""Slow statements that keep the house: orders without a party, and whose turn it is to poll."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.jobs import source_party

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
