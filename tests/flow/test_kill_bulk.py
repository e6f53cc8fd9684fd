"""Bulk work and repairs as real processes, killed by SIGKILL at any moment: they did what they say they did."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from reward_relay.contracts import InboundRequest
from reward_relay.errors import NotAllowed
from reward_relay.wiring import Relay
from support.commands import PATIENCE_S, Start, commands, free_port, ready
from support.relays import CONFIGURATION, OPERATOR, relay_of, settings, until
from support.steered import roster, unreachable

MANY, KILLS = 450, 2
ONLY_OTHERS = CONFIGURATION.replace('name = "gift cards"', 'name = "gift cards"\nsources = ["talkable"]')
PLACED = text("""
INSERT INTO orders (id, po_number, source, external_id, delivery_id, state, step, reward, vendor, plan,
  vendor_order_id, party, due_at, callback_token, created_at, updated_at)
SELECT gen_random_uuid(), 'RR-' || lpad(CAST(n AS text), 16, '0'), 'roster', CAST(n AS text), gen_random_uuid(),
  'placed', 'check', '{"source": "roster", "external_id": "1", "items": [{"name": "x"}]}', 'gcp',
  '{"lines": [{"product": "CVS", "value": "20", "quantity": 1}]}', 'G' || n, 'vendor:gcp', now() + interval '1 day',
  't', now() - interval '2 days', now() - interval '2 days'
FROM generate_series(1, :count) AS n
""")
Plan = dict[str, Any]


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    """A relay of which no route takes Roster's rewards."""
    async with relay_of(settings(tmp_path, ONLY_OTHERS), database_url, unreachable) as found:
        yield found


async def rows(relay: Relay, query: str, **values: Any) -> list[dict[str, Any]]:
    async with relay.database.transaction() as connection:
        return [dict(row) for row in (await connection.execute(text(query), values)).mappings()]


async def plans(relay: Relay) -> list[Plan]:
    """Every plan that was made, oldest first."""
    return await rows(relay, "SELECT * FROM plans ORDER BY made_at, id")


async def noted(relay: Relay, said: str) -> Counter[str]:
    """How often each order's events say so."""
    found = await rows(relay, "SELECT order_id FROM order_events WHERE strpos(reason, :said) > 0", said=said)
    return Counter(str(each["order_id"]) for each in found)


async def killed_while_it_acts(relay: Relay, start: Callable[[], Any], chance: random.Random) -> None:
    """Start it, and kill it a moment after it has begun to act; it may also come to its end."""
    before = sum(plan["used_at"] is not None for plan in await plans(relay))
    command = start()

    async def acts() -> bool:
        return sum(plan["used_at"] is not None for plan in await plans(relay)) > before or command.poll() is not None

    await until(acts, PATIENCE_S)
    await asyncio.sleep(chance.uniform(0, 0.15))
    command.kill()
    await asyncio.to_thread(command.wait)


async def held_orders(relay: Relay) -> None:
    async def one(number: int) -> None:
        hook = roster(f"R-{number}")
        headers = {name.lower(): value for name, value in hook.headers.items()}
        await relay.intake.receive("roster", InboundRequest(hook.body, headers, hook.query))

    await asyncio.gather(*(one(number) for number in range(MANY)))


async def test_a_killed_bulk_release_has_done_what_it_says(relay: Relay, database_url: str, tmp_path: Path) -> None:
    await held_orders(relay)
    chance = random.Random(4)
    with commands(tmp_path, database_url) as start:

        def release(number: int) -> Any:
            return start("orders", "bulk", "release", "--yes", "--json", "--note", f"try {number}").process

        for number in range(KILLS):
            await killed_while_it_acts(relay, partial(release, number), chance)
        last = release(KILLS)
        assert await asyncio.to_thread(last.wait, PATIENCE_S) == 0
    broken_off = 0
    for plan in await plans(relay):
        done = [each["id"] for each in (plan["result"] or {"done": []})["done"]]
        told = await noted(relay, f"released: {plan['note']};")
        assert told == Counter(done), "what the plan says, and what happened"
        found = await relay.bulk.find(str(plan["id"]))
        broken_off += found["left"] > 0
        assert found["left"] == found["count"] - len(done) - len(found["skipped"])
        if plan["used_at"]:
            with pytest.raises(NotAllowed, match="carried out already, or was broken off"):
                await relay.bulk.act(str(plan["id"]), plan["actor"])
    assert broken_off, "no kill came in the middle"
    assert set((await noted(relay, "released: ")).values()) == {1}
    assert len(await noted(relay, "released: ")) == MANY


async def test_a_killed_repair_has_done_what_it_says(relay: Relay, database_url: str, tmp_path: Path) -> None:
    async with relay.database.transaction() as connection:
        await connection.execute(PLACED, {"count": MANY})
    statement = tmp_path / "statement.csv"
    lines = [f"RR-{number:016},Completed,2026-01-01" for number in range(1, MANY + 1)]
    statement.write_text("\n".join(["PO,Status,Date", *lines]))
    chance = random.Random(5)
    with commands(tmp_path, database_url) as start:

        def repair(number: int) -> Any:
            asked = ("--statement", str(statement), "--repair", "--yes", "--note", f"try {number}")
            return start("reconcile", *asked).process

        for number in range(KILLS):
            await killed_while_it_acts(relay, partial(repair, number), chance)
    broken_off = 0
    for plan in [plan for plan in await plans(relay) if plan["used_at"]]:
        results = plan["result"]["results"]
        assert plan["result"]["done"] + plan["result"]["skipped"] + plan["result"]["left"] == MANY
        broken_off += plan["result"]["left"] > 0
        told = await rows(
            relay,
            "SELECT order_id FROM order_events WHERE at BETWEEN :since AND :until_ AND strpos(reason, 'reconcile') > 0",
            since=plan["used_at"],
            until_=await end_of(relay, plan),
        )
        assert sorted(str(each["order_id"]) for each in told) == sorted(each["order_id"] for each in results)
        with pytest.raises(NotAllowed, match="carried out already, or was broken off"):
            await relay.reconciliation.repair(str(plan["id"]), plan["actor"], "")
    assert broken_off, "no kill came in the middle"


async def end_of(relay: Relay, plan: Plan) -> Any:
    """When the next plan was begun; for ever after the last."""
    (row,) = await rows(
        relay,
        "SELECT COALESCE(min(used_at), now() + interval '1 day') AS ends FROM plans WHERE used_at > :used_at",
        used_at=plan["used_at"],
    )
    return row["ends"]


async def test_a_killed_request_has_done_what_its_plan_says(relay: Relay, database_url: str, tmp_path: Path) -> None:
    await held_orders(relay)
    with commands(tmp_path, database_url) as start:
        done: list[str] = []
        for number in range(2):
            done += await request_killed(relay, start, number)
    assert set((await noted(relay, "released: ")).values()) <= {1}
    assert set(await noted(relay, "released: ")) == set(done)


async def request_killed(relay: Relay, start: Start, number: int) -> list[str]:
    """Ask the API to act on a plan, kill it meanwhile, and return what the plan says."""
    with free_port() as port:
        address = f"http://127.0.0.1:{port}"
    serve = start("serve", "--port", str(port))
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as client:
        await ready(client, address)
        made = await client.post("/api/v1/bulk/plan", json={"action": "release", "note": f"try {number}"})
        token = made.json()["token"]
        acting = asyncio.create_task(client.post("/api/v1/bulk/act", json={"token": token}))

        async def begun() -> bool:
            return (await relay.bulk.find(token))["used_at"] is not None

        await until(begun, PATIENCE_S)
        children = serve.children()
        serve.process.kill()
        for child in children:
            child.kill()
        await asyncio.gather(acting, return_exceptions=True)
        serve.process.wait()
    return [each["id"] for each in (await relay.bulk.find(token))["done"]]
