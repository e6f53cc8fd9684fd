"""The relay's own way: the order row is the job. Its real tables, claim, record and worker; only the step is made up.

Each job is an order whose outcome is decided and whose platform is still to be told. One claim and one record take it
from `settled` to `closed`, and write its row in `calls` and its event, as in production.
"""

import secrets

from asyncpg import Connection
from sqlalchemy import text

from bench.load import Load, Recorded, Work, chunks, until_done
from reward_relay.contracts import Item, Recipient, RewardOrder
from reward_relay.db import migrate
from reward_relay.db.deliveries import Arrival, NewOrder, store
from reward_relay.db.engine import Database
from reward_relay.intake import new_id, po_number
from reward_relay.jobs import Job, Result, source_party
from reward_relay.sealing import Stored
from reward_relay.states import Outcome, State, Step
from reward_relay.worker import Worker

SOURCE = "bench"
POOL_SIZE = 8
COPY_AS_WAITING = text("""
INSERT INTO orders (id, po_number, callback_token, source, external_id, delivery_id, state, step, party, due_at,
  outcome, reward, created_at, updated_at)
SELECT gen_random_uuid(), 'RR-LATER-' || n, o.callback_token, o.source, 'later-' || n, o.delivery_id, o.state, o.step,
  o.party, now() + interval '1 day', o.outcome, o.reward, now(), now()
FROM (SELECT * FROM orders LIMIT 1) o CROSS JOIN generate_series(1, CAST(:count AS int)) n
""")


class RowAsJob:
    """The relay's worker on its usual pool, with `ahead` times as many slots as orders may be at work.

    1 is what the relay does: it claims what it can call. More shows what the tables can do when claims run ahead.
    """

    def __init__(self, name: str, ahead: int = 1) -> None:
        self.name = name
        self._ahead = ahead

    def missing(self) -> str | None:
        """Nothing: it is the relay itself."""
        return None

    def settings(self, load: Load) -> str:
        """Its driver, pool and slots."""
        return f"asyncpg, pool of {POOL_SIZE}; at most {load.concurrency * self._ahead} claimed"

    async def prepare(self, url: str, load: Load) -> None:
        """Migrate, and store the orders as intake does."""
        database = Database(url, pool_size=1)
        await migrate.migrate(database)
        for size in chunks(load.jobs, 1000):
            async with database.transaction() as connection:
                await store(connection, [_arrival() for _ in range(size)])
        if load.waiting:
            async with database.transaction() as connection:
                await connection.execute(COPY_AS_WAITING, {"count": load.waiting})
        await database.close()

    async def drain(self, url: str, load: Load, work: Work) -> None:
        """Run one worker until all orders are closed."""

        async def step(job: Job) -> Result:
            await work.run()
            return Result(State.CLOSED, None, None, "ok", reason="the platform has been told", status=200)

        database = Database(url, pool_size=POOL_SIZE)
        worker = Worker(database, {source_party(SOURCE): load.concurrency * self._ahead}, step)
        await until_done(worker.run(), work, worker.stop)
        await database.close()

    async def recorded(self, connection: Connection) -> Recorded:
        """Closed orders whose event and call are written too."""
        row = await connection.fetchrow("""
            SELECT count(*) AS jobs, max(o.updated_at) AS last_at FROM orders o
            JOIN order_events e ON e.order_id = o.id AND e.to_state = 'closed'
            JOIN calls c ON c.order_id = o.id AND c.finished_at IS NOT NULL
            WHERE o.state = 'closed'
        """)
        assert row is not None
        return Recorded(row["jobs"], row["last_at"])


def _arrival() -> Arrival:
    order_id, delivery_id = new_id(), new_id()
    reward = RewardOrder(
        source=SOURCE,
        external_id=order_id,
        recipient=Recipient(name="Ada Lovelace", email="ada@example.com"),
        items=(Item(sku="card-20", name="Gift card"),),
        reference={"id": order_id},
    )
    order = NewOrder(
        id=order_id,
        po_number=po_number(order_id),
        callback_token=secrets.token_urlsafe(24),
        reward=reward,
        state=State.SETTLED,
        step=Step.CLOSE,
        party=source_party(SOURCE),
        outcome=Outcome.FULFILLED,
        event="made by the benchmark",
    )
    return Arrival(
        delivery_id,
        SOURCE,
        "webhook",
        "application/json",
        {},
        Stored(b"{}"),
        "accepted",
        external_id=order_id,
        order=order,
    )
