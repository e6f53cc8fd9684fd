"""A process says that it lives: a row in the database that it renews, and takes away at a clean end."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

import structlog
import uuid_utils

from reward_relay import __version__
from reward_relay.db import processes
from reward_relay.db.engine import Database
from reward_relay.errors import DatabaseUnavailable

log = structlog.get_logger()
EVERY_S = 10.0
FAREWELL_S = 2.0
Kind = Literal["api", "worker"]


class Heartbeat:
    """One process's row. `routes` and `trouble` are asked anew at every beat.

    While the database is away the process goes on; one warning says so.
    """

    def __init__(
        self,
        database: Database,
        kind: Kind,
        routes: Callable[[], str],
        trouble: Callable[[], str | None],
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._database = database
        self._routes = routes
        self._trouble = trouble
        self._every_s = every_s
        self._missed = False
        self._id = str(uuid_utils.uuid7())
        self._row = {
            "id": self._id,
            "kind": kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
        }

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """The row lives as long as the block."""
        task = asyncio.create_task(self._beat_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            with suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(FAREWELL_S), self._database.transaction() as connection:
                    await processes.remove(connection, self._id)

    async def _beat_on(self) -> None:
        while True:
            try:
                await self.beat()
                self._missed = False
            except DatabaseUnavailable as error:
                self._miss(str(error))
            except Exception as error:
                self._miss(f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._every_s)

    async def beat(self) -> None:
        """Write or renew the row.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        row = {**self._row, "routes": self._routes(), "trouble": self._trouble()}
        async with self._database.transaction() as connection:
            await processes.beat(connection, row)

    def _miss(self, detail: str) -> None:
        if not self._missed:
            self._missed = True
            log.warning("heartbeat_missed", detail=detail)
