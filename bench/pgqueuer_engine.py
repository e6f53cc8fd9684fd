"""PgQueuer with what its documentation recommends for throughput (its guide "Performance Tuning").
"""

import asyncio
import os
from datetime import timedelta
from typing import Any

import asyncpg
from asyncpg import Connection

from bench.load import Load, Recorded, Work, chunks

ENTRYPOINT = "bench"
BATCH=int(os.environ.get("B","16"))
CAP=os.environ.get("CAP")
SINGLE=os.environ.get("SINGLE","1")=="1"


class PgQueuerEngine:
    name = "PgQueuer"

    def settings(self, load: Load) -> str:
        return f"batch {BATCH} cap {CAP} single {SINGLE}"

    async def prepare(self, url: str, load: Load) -> None:
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        connection = await asyncpg.connect(url)
        queries: Any = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        for count, delay in ((load.jobs, None), (load.waiting, timedelta(days=1))):
            for size in chunks(count):
                await queries.enqueue([ENTRYPOINT] * size, [b"{}"] * size, [0] * size, [delay] * size)
        await connection.close()

    async def drain(self, url: str, load: Load, work: Work) -> None:
        from pgqueuer import PgQueuer
        from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver

        slots = asyncio.Semaphore(load.concurrency)

        async def job(_: Any) -> None:
            async with slots:
                await work()

        if SINGLE:
            connection = await asyncpg.connect(url)
            pgq: Any = PgQueuer(AsyncpgDriver(connection))
        else:
            connection = await asyncpg.create_pool(url, min_size=8,max_size=8)
            pgq: Any = PgQueuer(AsyncpgPoolDriver(connection))
        pgq.entrypoint(ENTRYPOINT)(job)
        task = asyncio.create_task(pgq.run(batch_size=BATCH, max_concurrent_tasks=int(CAP) if CAP else None))
        await work.all_done.wait()
        pgq.shutdown.set()
        await task
        await connection.close()

    async def recorded(self, connection: Connection) -> Recorded:
        row = await connection.fetchrow(
            "SELECT count(*) AS jobs, max(created) AS last_at FROM pgqueuer_log WHERE status = 'successful'"
        )
        assert row is not None
        return Recorded(row["jobs"], row["last_at"])
