"""A server that is killed, or hangs, under a process's connections: noticed quickly, and healed without a restart."""

import asyncio
import time
from collections.abc import Iterator

import psutil
import pytest
from bench.server import go_on, hang, kill, processes, server
from sqlalchemy import text

from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import Database
from reward_relay.errors import DatabaseUnavailable
from support.relays import until


@pytest.fixture(scope="module")
def own() -> Iterator[Embedded]:
    """A server that may be killed."""
    with server() as found:
        yield found


async def several(database: Database, count: int = 4) -> None:
    """Use so many connections at once."""
    await asyncio.gather(*(_sleeping(database) for _ in range(count)))


async def _sleeping(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("SELECT pg_sleep(0.1)"))


async def test_after_a_killed_postmaster_the_first_transaction_works(own: Embedded) -> None:
    database = Database(own.url("postgres"))
    await several(database)
    await asyncio.to_thread(kill, own)
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    await asyncio.to_thread(own.start)
    await several(database)
    await database.close()


async def test_a_server_that_hangs_is_noticed_in_time_and_used_again(own: Embedded) -> None:
    database, noticed = Database(own.url("postgres")), asyncio.Event()
    database.watch(noticed.set)
    await several(database)
    stopped = hang(own)
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="did not answer within 1 s"):
            await database.promptly(1.0, database.ping())
        with pytest.raises(DatabaseUnavailable):  # at once: it is known to be away
            await database.ping()
        assert time.monotonic() - began < 5
        assert noticed.is_set()
        with pytest.raises(DatabaseUnavailable):
            await database.fresh().promptly(1.0, database.fresh().ping())
    finally:
        go_on(stopped)
    database.back()
    await several(database)
    await database.close()


async def test_connections_to_a_server_that_hung_and_died_do_not_hold_anybody_up(own: Embedded) -> None:
    database = Database(own.url("postgres"), pool_size=2, timeout_s=2)
    await several(database)
    held = [asyncio.create_task(_held(database)) for _ in range(2)]
    await asyncio.sleep(0.2)
    stopped = hang(own)
    with pytest.raises(DatabaseUnavailable):
        await database.promptly(1.0, database.ping())
    for each in stopped:
        each.kill()
    await asyncio.to_thread(psutil.wait_procs, stopped, 30)
    await asyncio.gather(*held, return_exceptions=True)
    await asyncio.to_thread(own.start)

    async def heals() -> bool:
        try:
            await several(database, 2)
        except DatabaseUnavailable:
            return False
        return True

    await until(heals)
    await database.close()


async def _held(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("SELECT pg_sleep(30)"))


async def test_a_pool_closes_in_time_though_the_server_hangs(own: Embedded) -> None:
    database = Database(own.url("postgres"))
    await several(database)
    stopped = hang(own)
    try:
        began = time.monotonic()
        await database.close()
        assert time.monotonic() - began < 10
    finally:
        go_on(stopped)


async def test_a_listener_is_back_after_a_killed_postmaster(own: Embedded) -> None:
    database, woken = Database(own.url("postgres")), asyncio.Event()
    task = asyncio.create_task(database.listen(woken.set))
    async with asyncio.timeout(20):
        await woken.wait()
    woken.clear()
    await asyncio.to_thread(kill, own)
    await asyncio.to_thread(own.start)
    async with asyncio.timeout(20):
        await woken.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()
    assert processes(own)
