"""The way to PostgreSQL: addresses as providers give them, outages, and the wake-up by LISTEN."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Integer, bindparam, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from reward_relay.db import engine
from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import CHANNEL, Database, database_address, notify
from reward_relay.errors import ConfigurationError, DatabaseUnavailable
from support.outage import outage
from support.relays import until

TERMINATE_LISTENER = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'LISTEN%'
"""


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("postgresql://u:p@db/relay", "postgresql+asyncpg://u:p@db/relay"),
        ("postgres://u:p@db:5433/relay", "postgresql+asyncpg://u:p@db:5433/relay"),
        ("postgresql+psycopg://u@db/relay", "postgresql+asyncpg://u@db/relay"),
        ("postgresql://u:p@db/relay?sslmode=require", "postgresql+asyncpg://u:p@db/relay?ssl=require"),
        (
            "postgresql://u:p@db/relay?sslmode=require&channel_binding=require",
            "postgresql+asyncpg://u:p@db/relay?ssl=require",
        ),
        ("postgresql://postgres@/relay?host=/tmp/run", "postgresql+asyncpg://postgres@/relay?host=%2Ftmp%2Frun"),
        ("postgresql://u:p%40ss@db/relay", "postgresql+asyncpg://u:p%40ss@db/relay"),
    ],
)
def test_an_address_is_taken_as_providers_give_it(given: str, address: str) -> None:
    assert database_address(given).render_as_string(hide_password=False) == address


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "not a URL"),
        ("relay", "not a URL"),
        ("mysql://u:hidden@db/relay", "mysql is not PostgreSQL"),
        ("postgresql://u:hidden@db:port/relay", "not a URL"),
        ("postgresql://u:hidden@db/relay?pool_mode=session", "pool_mode"),
    ],
)
def test_what_is_no_address_is_a_mistake_of_the_configuration(given: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as error:
        database_address(given)
    assert str(error.value).startswith("database_url: ")
    assert "hidden" not in str(error.value)


async def count(database: Database) -> int:
    """How many rows `party_health` has."""
    async with database.transaction() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM party_health"))).scalar_one())


ROW = text("INSERT INTO party_health (party, since) VALUES ('a', now())")


async def test_a_transaction_is_kept_where_its_block_ends_and_undone_where_it_raises(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as connection:
            await connection.execute(ROW)
            raise KeyError
    assert await count(database) == 0
    async with database.transaction() as connection:
        await connection.execute(ROW)
    assert await count(database) == 1


async def test_a_wrong_statement_is_no_outage(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as connection:
            await connection.execute(ROW)
            await connection.execute(ROW)
    for statement in ("SELECT CAST('x' AS uuid)", "SELEC", "SELECT 1 / 0"):
        with pytest.raises(DBAPIError):
            async with database.transaction() as connection:
                await connection.execute(text(statement))


async def test_a_value_that_the_driver_refuses_is_no_outage(database: Database) -> None:
    statement = text("SELECT :x").bindparams(bindparam("x", type_=Integer))
    with pytest.raises(DBAPIError):
        async with database.transaction() as connection:
            await connection.execute(statement, {"x": 2**40})


async def test_a_cut_connection_is_an_outage_and_the_next_one_works(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL is not available"):
        async with database.transaction() as connection:
            own = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            async with database.transaction() as other:
                await other.execute(text("SELECT pg_terminate_backend(:own, 5000)"), {"own": own})
            await connection.execute(text("SELECT 1"))
    await database.ping()


async def test_a_database_that_is_away_is_an_outage_and_comes_back(
    postgres: Embedded, database_url: str, database: Database
) -> None:
    await database.ping()
    async with outage(postgres, database_url):
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
    await database.ping()


@pytest.mark.parametrize(
    "url",
    ["postgresql://u@/x?host=/nonexistent", "postgresql://u@127.0.0.1:1/x", "postgresql://u@127.0.0.1/x?sslmode=maybe"],
)
async def test_a_server_that_is_not_there_is_an_outage(url: str) -> None:
    away = Database(url, pool_size=1)
    with pytest.raises(DatabaseUnavailable, match="check that it is up and database_url"):
        await away.ping()
    await away.close()


async def test_a_statement_that_takes_too_long_is_an_outage(database_url: str) -> None:
    hasty = Database(database_url, pool_size=1, timeout_s=0.1)
    with pytest.raises(DatabaseUnavailable):
        async with hasty.transaction() as connection:
            await connection.execute(text("SELECT pg_sleep(60)"))
    await hasty.close()


async def test_too_few_connections_are_an_outage_that_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_S", 0.5)
    small = Database(database_url, pool_size=1)
    free = asyncio.Event()

    async def hold() -> None:
        async with small.transaction():
            await free.wait()

    async def busy() -> bool:
        return small.engine.pool.status().endswith("Current Checked out connections: 3")

    held = [asyncio.create_task(hold()) for _ in range(3)]
    await until(busy)
    with pytest.raises(DatabaseUnavailable, match="busy"):
        await small.ping()
    free.set()
    await asyncio.gather(*held)
    await small.close()


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[asyncio.Event]:
    """An event that every wake-up sets, during the block."""
    woken = asyncio.Event()
    task = asyncio.create_task(database.listen(woken.set))
    try:
        yield woken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wakes(woken: asyncio.Event) -> None:
    """Wait for a wake-up."""
    async with asyncio.timeout(20):
        await woken.wait()
    woken.clear()


async def test_a_commit_wakes_whoever_listens(database: Database) -> None:
    async with listening(database) as woken:
        await wakes(woken)  # it listens now: what came before may have been missed
        async with database.transaction() as connection:
            await notify(connection)
        await wakes(woken)


async def test_a_lost_listener_comes_back_and_wakes_for_what_it_may_have_missed(database: Database) -> None:
    async with listening(database) as woken:
        for _ in range(2):
            await wakes(woken)
            async with database.transaction() as connection:
                assert (await connection.execute(text(TERMINATE_LISTENER))).scalar() == 1
        await wakes(woken)
        async with database.transaction() as connection:
            await connection.execute(text(f"NOTIFY {CHANNEL}"))
        await wakes(woken)


async def test_a_listener_waits_for_a_database_that_is_away(
    postgres: Embedded, database_url: str, database: Database
) -> None:
    async with listening(database) as woken:
        await wakes(woken)
        async with outage(postgres, database_url):
            pass
        await wakes(woken)
