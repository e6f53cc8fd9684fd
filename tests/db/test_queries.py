"""What lists, searches and counts read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reward_relay.db import orders, overview, queries
from reward_relay.wiring import Relay
from support.relays import client_of, relay_of, settings
from support.steered import TALKABLE_ID, accepted, roster, talkable, unreachable


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


async def fill(relay: Relay, *ids: str) -> list[str]:
    async with client_of(relay) as client:
        return [await accepted(client, "roster", roster(each)) for each in ids]


async def test_no_row_that_is_shown_holds_a_callback_token_or_a_claim(relay: Relay) -> None:
    await fill(relay, "R-1")
    async with relay.database.transaction() as connection:
        (row,) = await queries.list_orders(connection, {}, 10)
    assert set(queries.HIDDEN).isdisjoint(row)
    assert row["claimed"] is False


async def test_an_order_that_is_being_worked_on_is_shown_as_claimed(relay: Relay) -> None:
    await fill(relay, "R-1")
    async with relay.database.transaction() as connection:
        await orders.claim(connection, {"vendor:gcp": 1}, 30)
        (row,) = await queries.list_orders(connection, {}, 10)
        found = await overview.summary(connection)
    assert row["claimed"] is True
    assert found["waiting"]["vendor:gcp"]["claimed"] == 1
    assert found["oldest_due"] is None


async def test_our_own_numbers_go_before_external_ids(relay: Relay) -> None:
    (first,) = await fill(relay, "R-1")
    async with relay.database.transaction() as connection:
        (row,) = await queries.find_orders(connection, first)
    await fill(relay, row["po_number"], first)
    async with relay.database.transaction() as connection:
        for key in (first, row["po_number"], row["po_number"].lower()):
            assert [each["external_id"] for each in await queries.find_orders(connection, key)] == ["R-1"]


async def test_an_external_id_finds_the_orders_of_every_source(relay: Relay) -> None:
    await fill(relay, TALKABLE_ID)
    async with client_of(relay) as client:
        await accepted(client, "talkable", talkable())
    async with relay.database.transaction() as connection:
        found = await queries.find_orders(connection, TALKABLE_ID)
        assert await queries.find_orders(connection, "R-\x00") == []
    assert {each["source"] for each in found} == {"roster", "talkable"}


async def test_the_summary_names_the_order_that_has_waited_longest(relay: Relay) -> None:
    first, _ = await fill(relay, "R-1", "R-2")
    async with relay.database.transaction() as connection:
        found: dict[str, Any] = await overview.summary(connection)
    assert (str(found["oldest_due"]["id"]), found["oldest_due"]["party"]) == (first, "vendor:gcp")
    assert found["oldest_due"]["late_s"] > 0
    assert (found["states"], found["trouble"]) == ({"received": 2, "closed": 0}, {})
    assert found["waiting"]["vendor:gcp"]["due"] == 2


async def test_deliveries_of_one_order_are_found(relay: Relay) -> None:
    first, _ = await fill(relay, "R-1", "R-2")
    async with relay.database.transaction() as connection:
        (row,) = await queries.list_deliveries(connection, {"order_id": first}, 10)
    assert row["external_id"] == "R-1"
    assert "body" not in row


async def test_a_delivery_id_that_is_none_finds_nothing(relay: Relay) -> None:
    async with relay.database.transaction() as connection:
        assert await queries.find_delivery(connection, "'; DROP TABLE orders; --") is None
