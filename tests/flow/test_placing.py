"""The switch that stops placing: at once and everywhere, while everything else goes on; and on again."""

import asyncio
from pathlib import Path

import httpx
import pytest

from reward_relay.db import orders
from reward_relay.errors import NotAllowed
from reward_relay.metrics import exposition
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, OPERATOR, VIEWER, client_of, relay_of, settings, until, working
from support.rows import run
from support.steered import Steered, accepted, post, roster


async def test_after_the_pause_and_the_calls_under_way_nothing_is_placed(relay: Relay, far: Steered) -> None:
    far.word = "Completed"
    async with client_of(relay) as client, working(relay, 4):

        async def accept(first: int, last: int) -> None:
            for number in range(first, last):
                await accepted(client, "roster", roster(f"R-{number}"))

        await accept(0, 20)
        more = asyncio.create_task(accept(20, 80))
        await until(lambda: _placed(far, 15))
        await relay.ops.placing.pause("alice", "values look wrong")
        ((paused_at,),) = await run(relay.database, "SELECT clock_timestamp()")
        await more
        late = {str(row.id) for row in await run(relay.database, LATE, at=paused_at)}
        await until(lambda: _none(relay, CLAIMED), 60)
        placed = len(far.placed)
        await asyncio.sleep(1.2)
        assert len(far.placed) == placed < 80
        assert not await run(relay.database, CALLED_LATE, at=paused_at)
        waiting = await run(relay.database, WAITING)
        assert late <= {str(row.id) for row in waiting}
        assert {tuple(row)[1:] for row in waiting if str(row.id) in late} == {(0, True, False)}
        assert not [each for each in (await relay.ops.summary())["parties"] if each["breaker"] == "open"]
        assert (await relay.ops.placing.status())["waiting"] == len(waiting)
        await relay.ops.placing.resume("bob", "all right")
        await until(lambda: _none(relay, "SELECT 1 FROM orders WHERE state <> 'closed'"), 60)
    assert len(far.placed) == 80


LATE = "SELECT id FROM orders WHERE created_at > :at"
CLAIMED = "SELECT 1 FROM orders WHERE step = 'place' AND claim_until > now()"
CALLED_LATE = "SELECT 1 FROM calls WHERE purpose = 'place' AND started_at > :at"
WAITING = "SELECT id, attempts, due_at <= now(), in_doubt FROM orders WHERE step = 'place'"


async def _placed(far: Steered, number: int) -> bool:
    return len(far.placed) >= number


async def _none(relay: Relay, query: str) -> bool:
    return not await run(relay.database, query)


async def test_checks_and_closing_calls_go_on(relay: Relay, far: Steered) -> None:
    async with client_of(relay) as client, working(relay):
        order_id = await accepted(client, "roster", roster())

        async def placed() -> bool:
            return bool((await relay.ops.order(order_id))["state"] == "placed")

        await until(placed)
        await relay.ops.placing.pause("alice", "")
        far.word = "Completed"

        async def closed() -> bool:
            return bool((await relay.ops.order(order_id))["state"] == "closed")

        await until(closed)


async def test_api_console_metrics_and_the_order_say_so(relay: Relay) -> None:
    async with client_of(relay) as client, client_of(relay, VIEWER) as viewer:
        order_id = await accepted(client, "roster", roster())
        assert (await viewer.post("/api/v1/placing/pause", json={})).status_code == 403
        answer = await client.post("/api/v1/placing/pause", json={"note": "three in the morning"})
        assert answer.json() | {"since": ""} == {
            "paused": True,
            "by": "alice",
            "note": "three in the morning",
            "since": "",
            "waiting": 1,
        }
        assert (await client.post("/api/v1/placing/pause", json={})).status_code == 409
        order = (await viewer.get(f"/api/v1/orders/{order_id}")).json()
        assert order["waits_for"] == "placing is paused by alice: three in the morning"
        assert (await viewer.get("/api/v1/summary")).json()["placing"]["paused"]
        needs = (await relay.glance.look())["needs"]
        assert needs[0]["text"].startswith("placing is paused by alice")
        summary = await relay.ops.summary()
        assert b"relay_placing_paused 1.0" in exposition(summary, summary["spool"])
        await sign_in(client)
        for path in ("/", "/orders", "/routes", "/parties", f"/orders/{order_id}"):
            page = await client.get(path, headers={"accept": "text/html"})
            assert "<b>Nothing is placed:</b> placing is paused by alice" in page.text, path
        done = await client.post("/placing/resume", headers={"sec-fetch-site": "same-origin"})
        assert done.status_code == 303
        assert "Nothing is placed" not in (await client.get("/", headers={"accept": "text/html"})).text
        assert (await client.post("/api/v1/placing/resume", json={})).status_code == 409


async def sign_in(client: httpx.AsyncClient) -> None:
    """A session of alice's."""
    await client.post("/login", data={"key": OPERATOR}, headers={"sec-fetch-site": "same-origin"})


async def test_the_configuration_goes_before_the_switch(database_url: str, tmp_path: Path, far: Steered) -> None:
    found = settings(tmp_path, CONFIGURATION, {"RELAY_PLACING": "paused"})
    async with relay_of(found, database_url, far.transport) as relay, client_of(relay) as client:
        await accepted(client, "roster", roster())
        with pytest.raises(NotAllowed, match="goes before this switch"):
            await relay.ops.placing.resume("alice", "")
        async with working(relay):
            await asyncio.sleep(1.2)
        assert not far.placed
        assert (await relay.ops.placing.status())["by"] == 'the configuration (placing = "paused")'
        answer = await post(client, "roster", roster("R-2"))
        assert answer.status_code == 202


async def test_two_who_pause_at_once_make_one_pause(relay: Relay) -> None:
    async def pause(name: str) -> bool:
        try:
            await relay.ops.placing.pause(name, "")
        except NotAllowed:
            return False
        return True

    assert sorted(await asyncio.gather(*(pause(name) for name in "abcdef"))) == [False] * 5 + [True]


async def test_a_probe_is_not_spent_on_orders_that_may_not_be_placed(relay: Relay) -> None:
    async with client_of(relay) as client:
        await accepted(client, "roster", roster())
    await run(
        relay.database,
        "INSERT INTO party_health (party, breaker, open_until, since) VALUES ('vendor:gcp', 'open', now(), now())",
    )
    await relay.ops.placing.pause("alice", "")
    async with relay.database.transaction() as connection:
        assert await orders.claim(connection, {"vendor:gcp": 4}, 60) == []
    await relay.ops.placing.resume("alice", "")
    async with relay.database.transaction() as connection:
        (job,) = await orders.claim(connection, {"vendor:gcp": 4}, 60)
    assert job.probe
