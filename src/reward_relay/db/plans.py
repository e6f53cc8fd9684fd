"""Plans: what a bulk action or a repair would do, kept until a person says yes. Each is used once, by who made it."""

import json
import uuid
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.queries import Row
from reward_relay.db.search import as_uuid
from reward_relay.errors import NotAllowed, NotFound

VALID_MIN = 30
KEPT_DAYS = 90

KEEP = text("""
INSERT INTO plans (id, action, actor, note, content, made_at)
VALUES (CAST(:id AS uuid), :action, :actor, :note, CAST(:content AS jsonb), now())
""")
FIND = text("""
SELECT *, made_at + make_interval(mins => :valid_min) AS expires_at, made_at < now() - make_interval(mins => :valid_min)
  AS expired FROM plans WHERE id = CAST(:id AS uuid)
""")
LATEST = text("""
SELECT *, made_at + make_interval(mins => :valid_min) AS expires_at FROM plans WHERE action = :action
ORDER BY made_at DESC LIMIT 1
""")
USE = text("UPDATE plans SET used_at = now() WHERE id = CAST(:id AS uuid) AND used_at IS NULL RETURNING id")
RESULT = text("UPDATE plans SET result = CAST(:result AS jsonb) WHERE id = CAST(:id AS uuid)")
NAMING = text("SELECT count(*) FROM plans WHERE strpos(lower(CAST(content AS text)), :words) > 0")
FORGET_NAMING = text("DELETE FROM plans WHERE strpos(lower(CAST(content AS text)), :words) > 0")
FORGET = text("DELETE FROM plans WHERE made_at < now() - make_interval(days => :days)")


async def keep(connection: AsyncConnection, action: str, actor: str, note: str, content: Any) -> str:
    """Keep a plan; returns its token, which nobody can guess."""
    token = str(uuid.uuid4())
    values = {"id": token, "action": action, "actor": actor, "note": note}
    await connection.execute(KEEP, {**values, "content": json.dumps(content, default=str)})
    return token


async def find(connection: AsyncConnection, token: str) -> Row:
    """The plan as it was kept, with `expires_at`.

    Raises:
        NotFound: there is none with this token.
    """
    found = None
    if as_uuid(token) is not None:
        found = (await connection.execute(FIND, {"id": token, "valid_min": VALID_MIN})).mappings().first()
    if found is None:
        raise NotFound(f"there is no plan {token!r}; make one first, and act with its token")
    return dict(found)


async def latest(connection: AsyncConnection, action: str) -> Row | None:
    """The newest plan of this action."""
    found = (await connection.execute(LATEST, {"action": action, "valid_min": VALID_MIN})).mappings().first()
    return dict(found) if found else None


async def use(connection: AsyncConnection, token: str, actor: str) -> Row:
    """Take the plan to carry it out; in the same transaction nobody else can.

    Raises:
        NotFound: there is none with this token.
        NotAllowed: it was somebody else's, has been used, or is too old to be believed.
    """
    plan = await find(connection, token)
    if plan["actor"] != actor:
        raise NotAllowed(f"this plan is {plan['actor']}'s; make your own, look at it, and act with its token")
    if plan["expired"]:
        raise NotAllowed(f"this plan is older than {VALID_MIN} minutes; make a new one and look at it again")
    if (await connection.execute(USE, {"id": token})).first() is None:
        raise NotAllowed(
            "this plan has been carried out already, or was broken off: look at what it did, and make a new one for "
            "what is left"
        )
    return plan


async def note_result(connection: AsyncConnection, token: str, result: Any) -> None:
    """Write down what became of the plan so far, in the transaction that does it."""
    await connection.execute(RESULT, {"id": token, "result": json.dumps(result, default=str)})


async def count_naming(connection: AsyncConnection, words: str) -> int:
    """How many plans and reports hold these words, given in lower case: somebody searched for them."""
    return int((await connection.execute(NAMING, {"words": words})).scalar_one())


async def forget_naming(connection: AsyncConnection, words: str) -> None:
    """Remove those."""
    await connection.execute(FORGET_NAMING, {"words": words})


async def forget(connection: AsyncConnection) -> None:
    """Remove plans and reports that nobody will look at again."""
    await connection.execute(FORGET, {"days": KEPT_DAYS})
