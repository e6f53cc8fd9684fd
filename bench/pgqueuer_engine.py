"""PgQueuer, set up as its guide "Performance Tuning" advises.

- One asyncpg connection for the queue manager, not a pool ("a single connection for QueueManager").
- Larger batches than the default of 10, for short jobs. The most it allows under a cap is half the cap; without a cap
  twice the jobs at work was the fastest of 10, 16, 32 and 64.
- Its autovacuum settings (`pgq autovac`), and its default durability, which loses no job in a crash.

`max_concurrent_tasks` caps the jobs that are picked and not yet recorded, as the relay's slots do. Without the cap, its
default, it picks ahead of what is at work; all that it picked is picked again elsewhere only after `heartbeat_timeout`.
"""

import importlib.util
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
from asyncpg import Connection

from bench.load import Load, Recorded, Work, chunks, until_done

ENTRYPOINT = "bench"
HandleJob = Callable[[Any], Awaitable[None]]
Close = Callable[[], Awaitable[None]]


class PgQueuerEngine:
    """One `PgQueuer`; `capped` says whether it may pick more jobs than may be at work."""

    def __init__(self, name: str, *, capped: bool) -> None:
        self.name = name
        self._capped = capped

    def missing(self) -> str | None:
        """The package, if it is not installed."""
        return None if importlib.util.find_spec("pgqueuer") else "pgqueuer is not installed; run: make bench"

    def settings(self, load: Load) -> str:
        """Its driver, batch and cap."""
        claimed = f"at most {load.concurrency} claimed" if self._capped else "no limit on claims"
        return f"asyncpg, one connection; batches of {self._batch(load)}; {claimed}"

    def _batch(self, load: Load) -> int:
        return max(1, load.concurrency // 2) if self._capped else load.concurrency * 2

    async def prepare(self, url: str, load: Load) -> None:
        """Install its tables and enqueue in bulk."""
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        connection = await asyncpg.connect(url)
        queries: Any = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        payloads = await self.payloads(connection, load.jobs)
        await queries.enqueue([ENTRYPOINT] * load.jobs, payloads, [0] * load.jobs)
        for size in chunks(load.waiting):
            await queries.enqueue([ENTRYPOINT] * size, [b"{}"] * size, [0] * size, [timedelta(days=1)] * size)
        await connection.close()

    async def payloads(self, connection: Connection, count: int) -> list[bytes]:
        """What the due jobs carry."""
        return [b"{}"] * count

    def handler(self, url: str, work: Work) -> tuple[HandleJob, Close]:
        """What PgQueuer calls for each job, and what to call at the end."""

        async def job(_: Any) -> None:
            await work.run()

        async def close() -> None:
            return None

        return job, close

    async def drain(self, url: str, load: Load, work: Work) -> None:
        """Run one queue manager until the queue is empty."""
        from pgqueuer import PgQueuer
        from pgqueuer.db import AsyncpgDriver

        connection = await asyncpg.connect(url)
        job, close = self.handler(url, work)
        queue: Any = PgQueuer(AsyncpgDriver(connection))
        queue.entrypoint(ENTRYPOINT)(job)
        cap = load.concurrency if self._capped else None
        running = queue.run(batch_size=self._batch(load), max_concurrent_tasks=cap)
        await until_done(running, work, queue.shutdown.set)
        await close()
        await connection.close()

    async def recorded(self, connection: Connection) -> Recorded:
        """What its log says."""
        row = await connection.fetchrow(
            "SELECT count(*) AS jobs, max(created) AS last_at FROM pgqueuer_log WHERE status = 'successful'"
        )
        assert row is not None
        return Recorded(row["jobs"], row["last_at"])
