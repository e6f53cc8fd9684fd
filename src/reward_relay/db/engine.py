"""The way to PostgreSQL: one pool, one commit (`Database.transaction`), and LISTEN."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import URL, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from reward_relay.errors import ConfigurationError, DatabaseUnavailable

CHANNEL = "reward_relay"
"""Every commit that makes an order due sends a NOTIFY here; the payload is empty."""
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30.0
CLOSE_S = 3.0
Answer = TypeVar("Answer")
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
    """A process's `pool_size` connections, and one more for LISTEN; a statement may take `timeout_s` seconds.

    Connections heal: one that is closed, or that is older than the last outage, is made anew before it is used.

    Attributes:
        away: why every transaction fails at once; only where somebody `watch`es, who says when it is over.
    """

    def __init__(self, url: str, *, pool_size: int = 8, timeout_s: float | None = STATEMENT_TIMEOUT_S) -> None:
        self.address = database_address(url)
        self.away: str | None = None
        self._noticed: Callable[[], None] | None = None
        self._doubted_at = 0.0
        self._born: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
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
        event.listen(self.engine.sync_engine, "connect", self._made)
        event.listen(self.engine.sync_engine, "checkout", self._taken)

    def fresh(self) -> "Database":
        """The same database over a connection of its own, for a look that nothing else can hold up."""
        return Database(self.address.render_as_string(hide_password=False), pool_size=1, timeout_s=CONNECT_TIMEOUT_S)

    def watch(self, noticed: Callable[[], None]) -> None:
        """From now on an outage is remembered in `away`, and `noticed` is called, until `back`."""
        self._noticed = noticed

    def suspect(self, why: str) -> None:
        """Let no connection of before be used again; where somebody watches, it counts as away."""
        self._doubted_at = time.monotonic()
        if self._noticed is not None:
            self.away = why
            self._noticed()

    def back(self) -> None:
        """The outage is over; whoever still waits on a connection from before it is told that it is lost."""
        self.away = None
        for connection, born in list(self._born.items()):
            if born < self._doubted_at:
                connection.terminate()

    async def promptly(self, seconds: float, work: Coroutine[Any, Any, Answer]) -> Answer:
        """What `work` gives; after so long it is left to itself, for a server that hangs also hangs its ending.

        Raises:
            DatabaseUnavailable: it took too long. Whether it was committed is not known.
        """
        task = asyncio.create_task(work)
        try:
            done, _ = await asyncio.wait([task], timeout=seconds)
            if done:
                return task.result()
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        why = f"PostgreSQL did not answer within {seconds:g} s; it hangs, or is very busy"
        self.suspect(why)
        raise DatabaseUnavailable(why)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction: committed at the end of the block, rolled back where it raises.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached, or went away; nothing of the block is known to be kept.
        """
        if self.away is not None:
            raise DatabaseUnavailable(self.away)
        try:
            async with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated or _is_outage(error.orig):
                raise self._unavailable(error.orig) from error
            raise
        except PoolTimeout as error:
            raise DatabaseUnavailable("every connection to PostgreSQL is busy; try again in a few seconds") from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if _is_outage(error):
                raise self._unavailable(error) from error
            raise

    def _unavailable(self, error: BaseException | None) -> DatabaseUnavailable:
        why = _outage(error)
        self.suspect(why)
        return DatabaseUnavailable(why)

    def _made(self, connection: Any, record: Any) -> None:
        self._born[connection.driver_connection] = time.monotonic()

    def _taken(self, connection: Any, record: Any, proxy: Any) -> None:
        driver = connection.driver_connection
        if self._born.get(driver, 0.0) < self._doubted_at:
            driver.terminate()
        if driver.is_closed():
            raise DisconnectionError("closed while nobody used it")

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
        """Close every connection, also those that hang."""
        with suppress(DatabaseUnavailable):
            await self.promptly(CLOSE_S, self.engine.dispose())
        for connection in list(self._born):
            connection.terminate()


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
