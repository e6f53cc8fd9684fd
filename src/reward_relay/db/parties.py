"""The health of the outside parties, shared by all workers: pause, breaker, and the way back.

A party whose breaker is open is tested by one probe at a time. Its first answer closes the breaker, but the party is
not trusted yet: `permits` says how many more calls may be begun, by all workers together, and each answer adds two. So
the calls at a time go 1, 2, 4, 8 … with the party's own speed, until they are as many as it has slots; then `permits`
is empty again.
"""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.engine import notify
from reward_relay.jobs import Trial

MOST_OPEN_S = 300.0
MOST_ASKED_S = 900.0
"""The longest that a `Retry-After` keeps a party from being tested again."""
STRICT_ANSWERS = 16
"""Until a party that comes back has answered so often, one failure is enough to open its breaker again."""

FAILED = text("""
INSERT INTO party_health AS h (party, failures, breaker, open_until, since, why)
VALUES (:party, 0, 'open', now() + make_interval(secs => :first_s), now(), :why)
ON CONFLICT (party) DO UPDATE SET breaker = 'open', permits = NULL, answered = 0, why = :why,
  failures = CASE WHEN h.breaker = 'open' THEN h.failures + 1 ELSE 0 END,
  since = CASE WHEN h.breaker = 'open' THEN h.since ELSE now() END,
  open_until = now() + make_interval(secs => GREATEST(:asked_s, LEAST(:most_s,
    :open_s * CASE WHEN h.breaker = 'open' THEN power(2, LEAST(h.failures + 1, 10)) ELSE 1 END)))
WHERE CASE WHEN h.breaker = 'open' THEN CAST(:trial AS text) = 'probe'
           WHEN h.permits IS NULL THEN CAST(:enough AS boolean)
           ELSE CAST(:trial AS text) IS NOT NULL AND (CAST(:enough AS boolean) OR h.answered < CAST(:strict AS int)) END
""")
LONGER = text("""
UPDATE party_health SET open_until = now() + make_interval(secs => :asked_s)
WHERE party = :party AND breaker = 'open' AND open_until < now() + make_interval(secs => :asked_s)
""")
ANSWERED = text("""
UPDATE party_health SET breaker = 'closed', failures = 0, why = NULL, answered = answered + 1,
  since = CASE WHEN breaker = 'open' THEN now() ELSE since END,
  permits = CASE WHEN answered + 2 < CAST(:slots AS int) THEN COALESCE(permits, 0) + 2 END,
  open_until = CASE WHEN answered + 2 < CAST(:slots AS int) THEN now() + make_interval(secs => :lease_s) END
WHERE party = :party AND NOT paused
  AND CASE WHEN breaker = 'open' THEN CAST(:trial AS text) = 'probe' ELSE permits IS NOT NULL END
RETURNING permits
""")
GIVE_BACK = text("""
UPDATE party_health SET permits = permits + 1,
  open_until = CASE WHEN breaker = 'open' THEN now() ELSE open_until END
WHERE party = :party AND CASE WHEN breaker = 'open' THEN CAST(:trial AS text) = 'probe' ELSE permits IS NOT NULL END
""")
PAUSE = text("""
INSERT INTO party_health AS h (party, paused, since, why) VALUES (:party, true, now(), :why)
ON CONFLICT (party) DO UPDATE SET paused = true, why = :why, since = CASE WHEN h.paused THEN h.since ELSE now() END
""")
RESUME = text("""
UPDATE party_health SET paused = false, breaker = 'closed', failures = 0, open_until = NULL, since = now(), why = NULL,
  permits = 1, answered = 0
WHERE party = :party AND (paused OR breaker = 'open')
""")
ALL = text("""
SELECT party, breaker, failures, open_until, paused, since, why, permits IS NOT NULL AS recovering FROM party_health
ORDER BY party
""")


async def failed(
    connection: AsyncConnection,
    party: str,
    why: str,
    *,
    open_s: float,
    asked_s: float = 0.0,
    trial: Trial | None = None,
    enough: bool = True,
) -> bool:
    """A call failed: open the party's breaker for `open_s` seconds, or leave all as it is; whether it was opened.

    `enough` says that the worker has seen enough failures in a row. A failed probe doubles the wait; no wait is shorter
    than the `asked_s` that the party asked for. A late failure of a call that began before the breaker opened, or
    before the party came back, opens nothing.
    """
    asked_s = min(asked_s, MOST_ASKED_S)
    values = {"party": party, "why": why, "open_s": open_s, "asked_s": asked_s, "most_s": MOST_OPEN_S}
    values["first_s"] = max(open_s, asked_s)
    found = await connection.execute(FAILED, {**values, "trial": trial, "enough": enough, "strict": STRICT_ANSWERS})
    if found.rowcount:
        return True
    if asked_s:
        await connection.execute(LONGER, {"party": party, "asked_s": asked_s})
    await give_back(connection, party, trial)
    return False


async def answered(connection: AsyncConnection, party: str, trial: Trial, slots: int, lease_s: float) -> None:
    """A party on trial has answered: it gets two more calls, or all its `slots` where it had as many at a time.

    Should all these calls be lost with their workers, one more may be begun after `lease_s` seconds.
    """
    values = {"party": party, "trial": trial, "slots": slots, "lease_s": lease_s}
    row = (await connection.execute(ANSWERED, values)).first()
    if row is not None and (row.permits is None or trial is Trial.PROBE):
        await notify(connection)


async def give_back(connection: AsyncConnection, party: str, trial: Trial | str | None) -> None:
    """A claimed order's call was not made, or says nothing about its party: another one may be."""
    if trial is not None:
        await connection.execute(GIVE_BACK, {"party": party, "trial": trial})


async def pause(connection: AsyncConnection, party: str, why: str) -> None:
    """Stop calling the party until a person resumes it."""
    await connection.execute(PAUSE, {"party": party, "why": why})


async def resume(connection: AsyncConnection, party: str) -> bool:
    """Call the party again, one call first; False where it was neither paused nor broken."""
    found = await connection.execute(RESUME, {"party": party})
    await notify(connection)
    return bool(found.rowcount)


async def all_parties(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Every party that has ever been in trouble."""
    return [dict(row) for row in (await connection.execute(ALL)).mappings()]
