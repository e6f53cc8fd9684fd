"""What a queue would really cost the relay: PgQueuer hands out the jobs, and the orders' record is kept beside it.

A queue's own table knows that a job is done. The relay must also know, before the call, that it is about to make one
(or a crash would place an order twice), and after it, what came of it, in the order's history. Here the job writes
both into the relay's real tables: the intention before its work, `orders.record` after it. Both go in natural groups
(`db.groups`), as in the relay.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import text

from bench.load import Load, Work
from bench.pgqueuer_engine import Close, HandleJob, PgQueuerEngine
from bench.row_as_job import POOL_SIZE, SOURCE, RowAsJob
from reward_relay.contracts import Item, RewardOrder
from reward_relay.db import orders
from reward_relay.db.engine import Database
from reward_relay.db.groups import Groups
from reward_relay.jobs import Job, Result, source_party
from reward_relay.states import State, Step

INTEND = text("""
WITH meant AS (
  UPDATE orders SET claim = CAST(:claim AS uuid), in_doubt = true, claim_until = now() + interval '1 minute'
  WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING *
)
INSERT INTO calls (order_id, claim, party, purpose, key, started_at)
SELECT id, claim, party, step, po_number, now() FROM meant
""")
CLOSED = Result(State.CLOSED, None, None, "ok", reason="the platform has been told", status=200)


class Ledger:
    """Keeps the orders' record for jobs that somebody else hands out."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, pool_size=POOL_SIZE)
        self._intended: Groups[str, str] = Groups(self._intend)
        self._recorded: Groups[tuple[Job, Result], None] = Groups(self._record)

    async def work(self, order_id: str, work: Work) -> None:
        """Intention, work, record."""
        claim = await self._intended.submit(order_id)
        await work.run(counted=False)
        await self._recorded.submit((_job(order_id, claim), CLOSED))
        work.count()

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def _intend(self, ids: Sequence[str]) -> list[str]:
        claim = str(uuid.uuid4())
        async with self._database.transaction() as connection:
            await connection.execute(INTEND, {"claim": claim, "ids": list(ids)})
        return [claim] * len(ids)

    async def _record(self, results: Sequence[tuple[Job, Result]]) -> list[None]:
        async with self._database.transaction() as connection:
            await orders.record(connection, results)
        return [None] * len(results)


def _job(order_id: str, claim: str) -> Job:
    return Job(
        id=order_id,
        po_number="",
        source=SOURCE,
        state=State.SETTLED,
        step=Step.CLOSE,
        party=source_party(SOURCE),
        reward=RewardOrder(source=SOURCE, external_id=order_id, items=(Item(),)),
        plan=None,
        callback_token="",
        vendor_order_id=None,
        vendor_status=None,
        ending=None,
        attempts=0,
        polls=0,
        in_doubt=False,
        claim=claim,
    )


class QueueBesideOrders(PgQueuerEngine):
    """PgQueuer, whose jobs carry an order's id and keep its record."""

    async def prepare(self, url: str, load: Load) -> None:
        """Both sets of tables; one job an order."""
        await RowAsJob("orders").prepare(url, load)
        await super().prepare(url, load)

    async def payloads(self, connection: asyncpg.Connection, count: int) -> list[bytes]:
        """The ids of the orders that are due."""
        rows = await connection.fetch("SELECT id FROM orders WHERE due_at <= now() LIMIT $1", count)
        return [str(row["id"]).encode() for row in rows]

    def handler(self, url: str, work: Work) -> tuple[HandleJob, Close]:
        """Intention, work, record for the order of the job."""
        ledger = Ledger(url)

        async def job(found: Any) -> None:
            await ledger.work(found.payload.decode(), work)

        return job, ledger.close
