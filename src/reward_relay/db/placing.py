"""The switch that stops placing: its newest row counts, for every process at once; the older ones say who did what."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.engine import notify

PRESENT = text("SELECT paused, actor, note, at FROM placing_switch ORDER BY id DESC LIMIT 1")
ONE_AT_A_TIME = text("LOCK TABLE placing_switch IN SHARE ROW EXCLUSIVE MODE")
SET = text("INSERT INTO placing_switch (at, paused, actor, note) VALUES (now(), :paused, :actor, :note)")
WAITING = text("""
SELECT count(*) FROM (SELECT 1 FROM orders WHERE state = 'received' AND step = 'place' LIMIT :most) AS w
""")


async def present(connection: AsyncConnection) -> dict[str, Any] | None:
    """How the switch stands, and who put it so; None where nobody ever has."""
    row = (await connection.execute(PRESENT)).mappings().first()
    return dict(row) if row else None


async def turn(connection: AsyncConnection, *, paused: bool, actor: str, note: str) -> bool:
    """Turn the switch; False where it stands so already."""
    await connection.execute(ONE_AT_A_TIME)
    now = await present(connection)
    if bool(now and now["paused"]) == paused:
        return False
    await connection.execute(SET, {"paused": paused, "actor": actor, "note": note})
    if not paused:
        await notify(connection)
    return True


async def waiting(connection: AsyncConnection, most: int) -> int:
    """How many orders wait to be placed, counted up to `most`."""
    return int((await connection.execute(WAITING, {"most": most})).scalar_one())
