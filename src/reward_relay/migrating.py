"""The tables at a start: brought to this version at once, or when a database that is away comes back."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from reward_relay.db import migrate
from reward_relay.db.engine import Database
from reward_relay.errors import DatabaseUnavailable

log = structlog.get_logger()
AWAY_AFTER_S = 5.0


async def migrated(url: str) -> None:
    """Bring a database to the newest migration."""
    connection = Database(url, pool_size=1, timeout_s=None)
    try:
        await migrate.migrate(connection)
    finally:
        await connection.close()


def migrated_or_later(url: str) -> Callable[[], None]:
    """Migrate. A database that is away is migrated when it is back, by what this returns: a look, 5 s apart.

    Webhooks are taken meanwhile: the API keeps them until it has seen this version's tables.

    Raises:
        DatabaseUnavailable: it is there, and somebody holds a table.
    """

    def is_there() -> bool:
        async def look() -> None:
            connection = Database(url, pool_size=1)
            try:
                await connection.promptly(AWAY_AFTER_S, connection.ping())
            finally:
                await connection.close()

        try:
            asyncio.run(look())
        except DatabaseUnavailable as error:
            log.warning("database_unavailable", detail=str(error))
            return False
        return True

    done, last = is_there(), time.monotonic()
    if done:
        asyncio.run(migrated(url))

    def later() -> None:
        nonlocal done, last
        if done or time.monotonic() - last < AWAY_AFTER_S:
            return
        with suppress(DatabaseUnavailable):
            if is_there():
                asyncio.run(migrated(url))
                done = True
        last = time.monotonic()

    return later
