"""Procrastinate, on the one asynchronous connector it recommends.

- `PsycopgConnector` (psycopg 3); psycopg uses its C implementation where one is installed, else its Python one: the
  report says which.
- One worker with `concurrency`, as its documentation has it. It fetches one job a query; there is no batch to set.
- A pool of 10 connections instead of psycopg's default of 4: the fetch and every finished job take one each.
- Finished jobs are kept, its default, as the relay keeps its orders.
"""

import importlib.util
from typing import Any

from asyncpg import Connection

from bench.load import Load, Recorded, Work, chunks, until_done

POOL_SIZE = 10


class ProcrastinateEngine:
    """One `App` with one worker."""

    name = "Procrastinate"

    def missing(self) -> str | None:
        """The package, or the client library that psycopg needs."""
        if not importlib.util.find_spec("procrastinate"):
            return "procrastinate is not installed; run: make bench"
        try:
            import psycopg  # noqa: F401
        except ImportError:
            return "psycopg finds no libpq; install it (Debian: apt-get install libpq5)"
        return None

    def settings(self, load: Load) -> str:
        """Its driver, pool and concurrency."""
        from psycopg import pq

        return f"psycopg ({pq.__impl__}), pool of {POOL_SIZE}; one worker with concurrency {load.concurrency}"

    async def prepare(self, url: str, load: Load) -> None:
        """Apply its schema and defer in batches."""
        app, task = _app(url, Work(load))
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            for size in chunks(load.jobs):
                await task.batch_defer_async(*[{}] * size)
            for size in chunks(load.waiting):
                await task.configure(schedule_in={"days": 1}).batch_defer_async(*[{}] * size)

    async def drain(self, url: str, load: Load, work: Work) -> None:
        """Run one worker; `wait=False` ends it when no job is due."""
        app, _ = _app(url, work)
        async with app.open_async():
            running = app.run_worker_async(concurrency=load.concurrency, wait=False, install_signal_handlers=False)
            await until_done(running, work, lambda: None)

    async def recorded(self, connection: Connection) -> Recorded:
        """What its events say."""
        row = await connection.fetchrow(
            "SELECT count(*) AS jobs, max(at) AS last_at FROM procrastinate_events WHERE type = 'succeeded'"
        )
        assert row is not None
        return Recorded(row["jobs"], row["last_at"])


def _app(url: str, work: Work) -> tuple[Any, Any]:
    from procrastinate import App, PsycopgConnector

    async def job() -> None:
        await work.run()

    app: Any = App(connector=PsycopgConnector(conninfo=url, min_size=POOL_SIZE, max_size=POOL_SIZE))
    return app, app.task(name="bench")(job)
