"""Procrastinate."""

import asyncio
import os
from typing import Any

from asyncpg import Connection

from bench.load import Load, Recorded, Work, chunks

P=int(os.environ.get("P","10"))
W=int(os.environ.get("W","1"))

class ProcrastinateEngine:
    name = "Procrastinate"

    def settings(self, load: Load) -> str:
        return f"psycopg, pool of {P}, workers {W}, concurrency {load.concurrency}"

    async def prepare(self, url: str, load: Load) -> None:
        app, task = _app(url, _nothing)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            for size in chunks(load.jobs, 1000):
                await task.batch_defer_async(*[{}] * size)
            for size in chunks(load.waiting):
                await task.configure(schedule_in={"days": 1}).batch_defer_async(*[{}] * size)

    async def drain(self, url: str, load: Load, work: Work) -> None:
        app, _ = _app(url, work.__call__)
        async with app.open_async():
            workers = [app._worker(concurrency=load.concurrency//W, install_signal_handlers=False) for _ in range(W)]
            tasks = [asyncio.create_task(w.run()) for w in workers]
            await work.all_done.wait()
            for w in workers: w.stop()
            await asyncio.gather(*tasks)

    async def recorded(self, connection: Connection) -> Recorded:
        row = await connection.fetchrow(
            "SELECT count(*) AS jobs, max(at) AS last_at FROM procrastinate_events WHERE type = 'succeeded'"
        )
        assert row is not None
        return Recorded(row["jobs"], row["last_at"])

async def _nothing() -> None: ...

def _app(url: str, job: Any) -> Any:
    from procrastinate import App, PsycopgConnector
    app = App(connector=PsycopgConnector(conninfo=url, min_size=P, max_size=P))
    return app, app.task(name="bench")(job)
