"""Turns among processes, and what was told: nothing is passed over, nothing told twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reward_relay.alerting import Alerting
from reward_relay.db.engine import Database
from reward_relay.wiring import Relay
from support.alerts import NO_ROUTE, Receiver, configured, later, look
from support.relays import relay_of
from support.rows import delivery, held, run


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def relay(database_url: str, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Relay]:
    async with relay_of(configured(tmp_path), database_url, receiver.transport) as found:
        yield found


async def test_what_commits_after_the_look_that_it_began_before_is_told(relay: Relay, receiver: Receiver) -> None:
    async with relay.database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO deliveries (id, source, received_at, via, content_type, headers, body, verdict) "
            "VALUES (gen_random_uuid(), 'talkable', now(), 'webhook', '', '{}', '', 'quarantined')"
        )
        await connection.exec_driver_sql(
            "UPDATE deliveries SET id = CAST('ffffffff' || right(CAST(id AS text), 28) AS uuid)"
        )
        await delivery(relay.database, "roster", "quarantined")
        await look(relay)
        await look(relay)
    assert "talkable" not in receiver.texts[0]
    await look(relay)
    assert "talkable: 1 webhook quarantined" in receiver.texts[1]


async def test_news_from_before_a_long_silence_is_told_after_it(
    relay: Relay, receiver: Receiver, database: Database
) -> None:
    await look(relay)
    receiver.status = None
    await delivery(database, "roster", "quarantined")
    await look(relay)
    await run(database, "UPDATE deliveries SET received_at = received_at - interval '3 days'")
    await run(database, "UPDATE alert_looks SET told_to = told_to - interval '3 days'")
    receiver.status = 200
    await look(relay, 3 * 86_400)
    assert "1 webhook quarantined" in receiver.texts[0]
    await look(relay, 3600)
    await look(relay, 86_400)
    assert [("Over" in each) for each in receiver.texts] == [False, True]


async def test_of_many_processes_one_looks_and_nobody_does_while_it_sends(
    relay: Relay, receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    await held(relay.database, NO_ROUTE)
    sending, answer = asyncio.Event(), asyncio.Event()
    inner = receiver._answer

    async def slow(request: object) -> object:
        sending.set()
        await answer.wait()
        return await inner(request)  # type: ignore[arg-type]

    receiver._answer = slow  # type: ignore[method-assign, assignment]
    async with relay_of(configured(tmp_path), database_url, receiver.transport) as other:
        lookers: list[Alerting] = [each.alerting() for each in (relay, relay, other, other)]
        looks = [asyncio.create_task(each.look()) for each in lookers]
        await sending.wait()
        await later(relay.database, 40)
        assert not await other.alerting().look()
        answer.set()
        assert sorted(await asyncio.gather(*looks)) == [False, False, False, True]
    assert len(receiver.texts) == 1


async def test_a_look_that_died_is_taken_over(relay: Relay, receiver: Receiver) -> None:
    await held(relay.database, NO_ROUTE)
    await look(relay)
    await run(relay.database, "UPDATE alert_looks SET busy_until = now() + interval '60 s'")
    await later(relay.database, 31)
    assert not await relay.alerting().look()
    await run(relay.database, "UPDATE alert_looks SET busy_until = now()")
    await look(relay)


async def test_an_order_held_a_second_time_is_news(relay: Relay, receiver: Receiver) -> None:
    number = await held(relay.database, NO_ROUTE)
    await held(relay.database, NO_ROUTE)
    await look(relay)
    await run(relay.database, f"UPDATE orders SET updated_at = now() WHERE po_number = '{number}'")
    await look(relay, 301)
    assert f"2 orders of roster (1 new), no route matches. {number}" in receiver.texts[1]
