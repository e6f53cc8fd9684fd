"""The way to PostgreSQL: one pool, one commit (`Database.transaction`), and LISTEN."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from reward_relay.errors import ConfigurationError, DatabaseUnavailable

CHANNEL = "reward_relay"
"""Every commit that makes an order due sends a NOTIFY here; the payload is empty."""
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30.0
PARAMETERS = frozenset({"host", "port", "ssl", "passfile", "target_session_attrs"})
"""What may follow the `?` of a URL, under the driver's names."""


def database_address(url: str) -> URL:
    """The URL for our driver, from what providers hand out (`postgres://…?sslmode=require`).

    Raises:
        ConfigurationError: it is not a PostgreSQL URL.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            ["database_url: not a URL; it looks like postgresql://user:password@host/name"]
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigurationError([f"database_url: {parsed.get_backend_name()} is not PostgreSQL; use postgresql://…"])
    query = dict(parsed.query)
    query.pop("channel_binding", None)  # the driver settles that itself
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    if unknown := query.keys() - PARAMETERS:
        raise ConfigurationError([f"database_url: the parameter {', '.join(sorted(unknown))} is unknown; take it out"])
    return parsed.set(drivername="postgresql+asyncpg", query=query)


class Database:
    """A process's `pool_size` connections, and one more for LISTEN; a statement may take `timeout_s` seconds."""

    def __init__(self, url: str, *, pool_size: int = 8, timeout_s: float | None = STATEMENT_TIMEOUT_S) -> None:
        self.address = database_address(url)
        self.engine = create_async_engine(
            self.address,
            pool_size=pool_size,
            max_overflow=2,
            pool_timeout=CONNECT_TIMEOUT_S,
            pool_pre_ping=False,
            hide_parameters=True,  # an error's text goes to the log, and the parameters hold personal data
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": timeout_s,
                "server_settings": {"application_name": "reward-relay", "jit": "off"},
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction: committed at the end of the block, rolled back where it raises.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached, or went away; nothing of the block is known to be kept.
        """
        try:
            async with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated or _is_outage(error.orig):
                raise DatabaseUnavailable(_outage(error.orig)) from error
            raise
        except PoolTimeout as error:
            raise DatabaseUnavailable("every connection to PostgreSQL is busy; try again in a few seconds") from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if _is_outage(error):
                raise DatabaseUnavailable(_outage(error)) from error
            raise

    async def ping(self) -> None:
        """One round trip.

        Raises:
            DatabaseUnavailable: it failed.
        """
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))

    async def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` at every NOTIFY, for ever; a lost connection is made again, and then `wake` is called too."""
        while True:
            with suppress(DatabaseUnavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._listen_once(wake)
            await asyncio.sleep(1)

    async def _listen_once(self, wake: Callable[[], None]) -> None:
        lost = asyncio.Event()
        arguments = self.address.translate_connect_args(username="user")
        options: dict[str, Any] = {**dict(self.address.query), **arguments}
        connection = await asyncpg.connect(**options, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: wake())
            wake()
            await lost.wait()
        finally:
            connection.terminate()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


async def notify(connection: AsyncConnection) -> None:
    """Wake the workers when this transaction commits."""
    await connection.execute(_NOTIFY)


_NOTIFY = text(f"NOTIFY {CHANNEL}")


OUTAGE_CLASSES = ("08", "28", "3D", "53", "57", "58")
"""SQLSTATE classes that say "not now": connection, login, no such database, resources (disk full), operator, system."""
READ_ONLY = "25006"
"""A failover in progress: we talk to a standby."""


def _is_outage(error: BaseException | None) -> bool:
    """Whether the error says that the server is away or cannot, rather than that a statement was wrong."""
    while error is not None:
        state = getattr(error, "sqlstate", None)
        if isinstance(state, str) and (state[:2] in OUTAGE_CLASSES or state == READ_ONLY):
            return True
        if isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError):
            return not _is_refused_value(error)
        error = error.__cause__
    return False


def _is_refused_value(error: BaseException) -> bool:
    """Whether the driver could not encode a value; its class shares a base with those of lost connections."""
    return isinstance(error, ValueError) and not isinstance(error, OSError | asyncpg.ClientConfigurationError)


def _outage(error: BaseException | None) -> str:
    return f"PostgreSQL is not available ({type(error).__name__}: {error}); check that it is up and database_url"
