"""The second trigger: the platform's open list, asked by one process at a time, into the same intake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from reward_relay.errors import CallFailed
from reward_relay.polling import Poller
from reward_relay.sandbox import senders
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, INFLUITIVE_TOKEN, client_of, ended, relay_of, settings, until, working
from support.steered import Steered, accepted, post, unreachable

POLLED = CONFIGURATION.replace('platform = "influitive"', 'platform = "influitive"\npoll_every_s = 10')


def redemption(number: int) -> dict[str, object]:
    """An entry of the open list, with its contact inside."""
    found = senders.influitive_redemption(number)
    return {**found["reward_redemption"], "contact": found["contact"]}


@pytest.fixture
def far() -> Steered:
    far = Steered()
    far.redemptions = [redemption(901), redemption(902)]
    return far


@pytest.fixture
async def relay(database_url: str, tmp_path: Path, far: Steered) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path, POLLED), database_url, far.transport) as found:
        yield found


@asynccontextmanager
async def running(*pollers: Poller) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(poller.run()) for poller in pollers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def keys(relay: Relay) -> list[str]:
    return sorted(order["external_id"] for order in (await relay.ops.orders({}))["items"])


async def test_the_open_list_becomes_orders_once(relay: Relay) -> None:
    assert await relay.poller().poll_once("influitive") == 2
    assert await relay.poller().poll_once("influitive") == 0
    assert await keys(relay) == ["901", "902"]


@pytest.mark.parametrize("first", ["webhook", "poll"])
async def test_a_polled_redemption_and_its_webhook_are_one_order(relay: Relay, far: Steered, first: str) -> None:
    far.redemptions = [redemption(901)]
    webhook = senders.influitive(senders.influitive_redemption(901), INFLUITIVE_TOKEN)
    async with client_of(relay) as client:
        if first == "webhook":
            await accepted(client, "influitive", webhook)
            assert await relay.poller().poll_once("influitive") == 0
        else:
            assert await relay.poller().poll_once("influitive") == 1
            assert (await post(client, "influitive", webhook)).json()["verdict"] == "duplicate"
        async with working(relay):
            await ended(relay, "901", "placed")
    assert len(far.placed) == 1


async def test_of_two_pollers_one_takes_the_turn(relay: Relay, far: Steered, database_url: str, tmp_path: Path) -> None:
    async with (
        relay_of(settings(tmp_path, POLLED), database_url, far.transport) as other,
        running(relay.poller(), relay.poller(), other.poller(), other.poller()),
    ):
        assert await until(lambda: keys(relay)) == ["901", "902"]
    assert far.listed == 1


async def test_sources_without_an_interval_are_not_polled(database_url: str, tmp_path: Path, far: Steered) -> None:
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay:
        async with running(relay.poller()):

            async def upkeep_had_its_turn() -> bool:
                async with relay.database.transaction() as connection:
                    found = await connection.exec_driver_sql("SELECT 1 FROM party_health WHERE party = 'poll:_upkeep'")
                    return found.first() is not None

            await until(upkeep_had_its_turn)
        assert "poll:_upkeep" not in [party["party"] for party in (await relay.ops.summary())["parties"]]
    assert far.listed == 0


async def test_a_platform_that_does_not_answer_is_a_failed_call_and_stores_nothing(
    database_url: str, tmp_path: Path
) -> None:
    async with relay_of(settings(tmp_path, POLLED), database_url, unreachable) as relay:
        with pytest.raises(CallFailed):
            await relay.poller().poll_once("influitive")
        assert (await relay.ops.deliveries({}))["items"] == []
