"""The health of the outside parties, shared by all workers: breaker and pause."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.engine import notify

MOST_OPEN_S = 300.0

FAILED = text("""
INSERT INTO party_health AS h (party, failures, breaker, open_until, since, why)
VALUES (:party, 0, 'open', now() + make_interval(secs => :open_s), now(), :why)
ON CONFLICT (party) DO UPDATE SET breaker = 'open', why = :why,
  failures = CASE WHEN h.breaker = 'open' THEN h.failures + 1 ELSE 0 END,
  since = CASE WHEN h.breaker = 'open' THEN h.since ELSE now() END,
  open_until = now() + make_interval(secs => LEAST(
    :open_s * CASE WHEN h.breaker = 'open' THEN power(2, LEAST(h.failures + 1, 10)) ELSE 1 END, :most_s))
WHERE h.breaker = 'closed' OR :probe
""")
RECOVERED = text("""
UPDATE party_health SET breaker = 'closed', failures = 0, open_until = NULL, since = now(), why = NULL
WHERE party = :party AND breaker = 'open' AND NOT paused
""")
PAUSE = text("""
INSERT INTO party_health AS h (party, paused, since, why) VALUES (:party, true, now(), :why)
ON CONFLICT (party) DO UPDATE SET paused = true, why = :why, since = CASE WHEN h.paused THEN h.since ELSE now() END
""")
RESUME = text("""
UPDATE party_health SET paused = false, breaker = 'closed', failures = 0, open_until = NULL, since = now(), why = NULL
WHERE party = :party AND (paused OR breaker = 'open')
""")
ALL = text("SELECT party, breaker, failures, open_until, paused, since, why FROM party_health ORDER BY party")


async def open_breaker(connection: AsyncConnection, party: str, open_s: float, why: str, *, probe: bool) -> bool:
    """Let the party's orders wait for `open_s` seconds, then one probe; each probe that fails doubles the wait.

    A late failure of a call that began before the breaker opened changes nothing: False. `failures` counts failed
    probes.
    """
    values = {"party": party, "open_s": open_s, "most_s": MOST_OPEN_S, "why": why, "probe": probe}
    return (await connection.execute(FAILED, values)).rowcount > 0


async def close_breaker(connection: AsyncConnection, party: str) -> None:
    """The party works again: its orders flow."""
    await connection.execute(RECOVERED, {"party": party})
    await notify(connection)


async def pause(connection: AsyncConnection, party: str, why: str) -> None:
    """Stop calling the party until a person resumes it."""
    await connection.execute(PAUSE, {"party": party, "why": why})


async def resume(connection: AsyncConnection, party: str) -> bool:
    """Call the party again; False where it was neither paused nor broken."""
    found = await connection.execute(RESUME, {"party": party})
    await notify(connection)
    return bool(found.rowcount)


async def all_parties(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Every party that has ever been in trouble."""
    return [dict(row) for row in (await connection.execute(ALL)).mappings()]
