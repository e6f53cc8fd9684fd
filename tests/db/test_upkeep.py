"""Turns among processes, and forgetting personal data when it has had its time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from sqlalchemy import text

from reward_relay.db import purging, upkeep
from reward_relay.db.engine import Database
from reward_relay.intake import new_id
from reward_relay.wiring import Relay
from support.relays import client_of, ended, relay_of, settings, working
from support.steered import TALKABLE_ID, Steered, accepted, roster, talkable

PERSONAL = ("Bob", "Smith", "referrer@example.com", "12025551111")


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    far = Steered()
    far.word = "Completed"
    async with relay_of(settings(tmp_path), database_url, far.transport) as found:
        yield found


async def run(database: Database, sql: str) -> list[Any]:
    async with database.transaction() as connection:
        found = await connection.execute(text(sql))
        return list(found) if found.returns_rows else []


async def age(database: Database, days: int) -> None:
    """Make everything that is there older."""
    await run(database, f"UPDATE orders SET updated_at = updated_at - interval '{days} days'")
    await run(database, f"UPDATE deliveries SET received_at = received_at - interval '{days} days'")


async def purge(database: Database, days: int = 365, batch: int = 500) -> tuple[int, int]:
    return await purging.expired(database, days, batch)


async def closed(relay: Relay) -> str:
    async with client_of(relay) as client, working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await ended(relay, order_id)
    return order_id


async def kept(database: Database) -> str:
    """All rows of all tables and all bodies, as one text."""
    found: list[str] = []
    for name in ("orders", "deliveries", "order_events", "calls"):
        found += [str(row) for row in await run(database, f"SELECT to_jsonb(t) FROM {name} t")]
    found += [unquote_plus(bytes(row.body).decode()) for row in await run(database, "SELECT body FROM deliveries")]
    return "\n".join(found)


async def people_in(database: Database) -> list[str]:
    text_ = await kept(database)
    return [person for person in PERSONAL if person in text_]


async def test_after_its_time_an_order_keeps_key_amounts_and_events_and_no_person(
    relay: Relay, database: Database
) -> None:
    order_id = await closed(relay)
    before = await relay.ops.order(order_id)
    assert await people_in(database) == list(PERSONAL)
    await age(database, 366)
    assert await purge(database) == (1, 0)
    after = await relay.ops.order(order_id)
    assert await people_in(database) == []
    assert (after["external_id"], after["po_number"]) == (TALKABLE_ID, before["po_number"])
    assert (after["outcome"], after["items"], after["plan"]) == ("fulfilled", before["items"], before["plan"])
    assert after["events"][:-1] == before["events"]
    last = after["events"][-1]
    assert (last["actor"], last["reason"]) == ("upkeep", "personal data removed, 365 days after the end")
    assert (last["from_state"], last["to_state"]) == ("closed", "closed")
    assert after["purged_at"] is not None
    assert [call["key"] for call in after["calls"]] == [before["po_number"]] * len(before["calls"])


async def test_the_key_of_a_forgotten_order_still_makes_a_late_copy_a_duplicate(
    relay: Relay, database: Database
) -> None:
    order_id = await closed(relay)
    await age(database, 366)
    await purge(database)
    async with client_of(relay) as client:
        webhook = talkable()
        answer = await client.post("/webhooks/talkable", content=webhook.body, headers=webhook.headers)
    assert (answer.json()["verdict"], answer.json()["order_id"]) == ("duplicate", order_id)
    assert await people_in(database) == []
    assert (await relay.ops.order(order_id))["state"] == "closed"


async def test_purging_again_changes_nothing(relay: Relay, database: Database) -> None:
    await closed(relay)
    await age(database, 366)
    assert await purge(database) == (1, 0)
    assert await purge(database) == (0, 0)


async def test_before_its_time_nothing_is_forgotten(relay: Relay, database: Database) -> None:
    await closed(relay)
    await age(database, 364)
    assert await purge(database) == (0, 0)


async def test_an_open_order_keeps_everything_however_old_it_is(relay: Relay, database: Database) -> None:
    async with client_of(relay) as client:
        await accepted(client, "talkable", talkable())
        held = await accepted(client, "roster", roster())
        await client.post(f"/api/v1/orders/{held}/hold", json={})
    await age(database, 4000)
    assert await purge(database) == (0, 0)
    assert await people_in(database) == list(PERSONAL)


async def test_a_backlog_goes_in_batches_until_nothing_is_left(relay: Relay, database: Database) -> None:
    async with client_of(relay) as client, working(relay):
        for number in range(5):
            await ended(relay, await accepted(client, "roster", roster(f"R-{number}")))
    await age(database, 366)
    assert await purge(database, batch=2) == (5, 0)


async def test_an_old_quarantined_delivery_loses_its_body_and_cannot_be_replayed(
    relay: Relay, database: Database
) -> None:
    async with client_of(relay) as client:
        answer = await client.post("/webhooks/roster", content=b"Bob Smith", headers=roster().headers)
        await age(database, 366)
        assert await purge(database) == (0, 1)
        replay = await client.post(f"/api/v1/deliveries/{answer.json()['delivery_id']}/replay", json={})
    assert replay.status_code == 409
    assert "Bob" not in await kept(database)


async def test_only_the_newest_rejected_deliveries_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "REJECTED_KEPT", 3)
    ids = [new_id() for _ in range(6)]
    for number, each in enumerate(ids):
        verdict = "quarantined" if number == 0 else "rejected"
        await run(
            database,
            "INSERT INTO deliveries (id, source, received_at, via, content_type, headers, body, verdict) "
            f"VALUES ('{each}', 'roster', now(), 'webhook', '', '{{}}', '', '{verdict}')",
        )
    await purge(database)
    assert [str(row.id) for row in await run(database, "SELECT id FROM deliveries ORDER BY id")] == [ids[0], *ids[3:]]


async def turn(database: Database, every_s: float) -> bool:
    async with database.transaction() as connection:
        return await upkeep.take_turn(connection, "influitive", every_s)


async def test_of_many_processes_one_gets_the_turn(database: Database) -> None:
    assert sum(await asyncio.gather(*(turn(database, 60) for _ in range(8)))) == 1
    assert not await turn(database, 60)
    await run(database, "UPDATE party_health SET since = since - interval '61 seconds'")
    assert sum(await asyncio.gather(*(turn(database, 60) for _ in range(8)))) == 1


async def test_parties_that_nobody_knows_any_more_are_found_by_their_due_orders(
    relay: Relay, database: Database
) -> None:
    async with client_of(relay) as client:
        await accepted(client, "roster", roster())
    async with database.transaction() as connection:
        assert await upkeep.orphaned_parties(connection, ["vendor:other"]) == []
        await connection.exec_driver_sql("UPDATE orders SET due_at = now() - interval '11 minutes'")
        assert await upkeep.orphaned_parties(connection, ["vendor:gcp"]) == []
        assert await upkeep.orphaned_parties(connection, ["vendor:other"]) == ["vendor:gcp"]
