"""A database that goes away for a while."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import make_url

from reward_relay.db.embedded import Embedded


@asynccontextmanager
async def outage(server: Embedded, database_url: str) -> AsyncIterator[None]:
    """During the block the database is gone under its name, and every connection to it is cut."""
    name = make_url(database_url).database
    admin = await asyncpg.connect(server.url("postgres"))
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
        await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
        yield
        await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await admin.close()
