"""Releases that need two persons: the first asks, another's key does it; every way around it is closed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reward_relay.errors import NotAllowed
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, client_of, relay_of, settings, until
from support.rows import run
from support.steered import Steered, accepted, roster

BOB, ALICE_2 = "bobs-key-0123456789", "alices-second-key-01"
TEXT = f"""
second_person_above = 100
{CONFIGURATION.replace("value = 20", "value = 2000")}
[routes.caps]
order_value = 50
[api_keys.bob]
role = "operator"
key = "{BOB}"
[api_keys.alice_2]
role = "operator"
key = "{ALICE_2}"
person = "alice"
"""
HTML = {"accept": "text/html", "sec-fetch-site": "same-origin"}


@pytest.fixture
async def guarded(database_url: str, tmp_path: Path, far: Steered) -> AsyncIterator[Relay]:
    """A relay whose orders are worth 2,000, are held by a cap, and need two persons."""
    async with relay_of(settings(tmp_path, TEXT), database_url, far.transport) as found:
        yield found


@pytest.fixture
async def order_id(guarded: Relay) -> str:
    """One such order."""
    async with client_of(guarded, None) as client:
        return await accepted(client, "roster", roster())


async def state(relay: Relay, order_id: str) -> str:
    """Where the order stands."""
    return str((await relay.ops.order(order_id))["state"])


async def test_the_first_asks_and_another_does_it(guarded: Relay, order_id: str) -> None:
    async with client_of(guarded) as alice, client_of(guarded, BOB) as bob, client_of(guarded, ALICE_2) as again:
        release = f"/api/v1/orders/{order_id}/release"
        first = (await alice.post(release, json={"note": "big customer"})).json()
        assert (first["state"], first["asked"]["by"]) == ("on_hold", "alice")
        assert "pin" not in first["asked"]
        told = next(each for each in first["actions"] if each["action"] == "release")
        assert "waits for a second person; asked by alice" in told["does"]
        assert told["asked_by"] == "alice"
        for client in (alice, again):
            same = await client.post(release, json={})
            assert (same.status_code, "another's key must release it" in same.json()["detail"]) == (409, True)
        done = (await bob.post(release, json={"note": "checked"})).json()
        assert (done["state"], done["asked"]) == ("received", None)
        events = [(each["actor"], each["reason"]) for each in done["events"]]
        assert events[-2][0] == "alice"
        assert "it needs a second person" in events[-2][1]
        assert events[-1][0] == "bob"
        assert "released: checked; asked for by alice: big customer" in events[-1][1]
        assert "goes beyond" in events[-1][1]
        assert (await bob.post(release, json={})).status_code == 409  # replayed


async def test_a_viewer_and_the_bare_command_line_are_nobody(guarded: Relay, order_id: str) -> None:
    for actor in ("cli:root", "vera", "reconcile"):
        with pytest.raises(NotAllowed, match="has shown no operator's key"):
            await guarded.ops.release(order_id, actor, "")
    await guarded.ops.release(order_id, "alice", "")
    with pytest.raises(NotAllowed, match="has shown no operator's key"):
        await guarded.ops.release(order_id, "cli:bob", "")
    assert await state(guarded, order_id) == "on_hold"


async def test_both_at_once_release_it_once(guarded: Relay, order_id: str) -> None:
    await asyncio.gather(*(guarded.ops.release(order_id, name, "") for name in ("alice", "bob")))
    order = await guarded.ops.order(order_id)
    assert order["state"] == "received"
    assert len([each for each in order["events"] if each["to_state"] == "received"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE orders SET asked = asked || jsonb_build_object('at', now() - interval '25 hours')",
        'UPDATE orders SET reward = reward || \'{"message": "changed"}\'',
        "UPDATE orders SET hold_reason = 'another delivery says otherwise', cap = NULL",
        'UPDATE orders SET asked = asked || \'{"by": "mallory"}\'',
    ],
)
async def test_a_request_lapses(change: str, guarded: Relay, order_id: str) -> None:
    await guarded.ops.release(order_id, "alice", "")
    await run(guarded.database, change)
    order = await guarded.ops.release(order_id, "bob", "")
    assert (order["state"], order["asked"]["by"]) == ("on_hold", "bob")


async def test_a_request_for_another_value_lapses(
    database_url: str, guarded: Relay, order_id: str, tmp_path: Path
) -> None:
    await guarded.ops.release(order_id, "alice", "two thousand is right")
    dearer = settings(tmp_path, TEXT.replace("value = 2000", "value = 9000"))
    async with relay_of(dearer, database_url) as relay:
        assert (await relay.ops.release(order_id, "bob", ""))["state"] == "on_hold"


async def test_it_can_be_withdrawn_and_refused(guarded: Relay, order_id: str) -> None:
    await guarded.ops.release(order_id, "alice", "")
    assert (await guarded.ops.summary())["asked"] == 1
    order = await guarded.ops.withdraw(order_id, "bob", "no")
    assert (order["state"], order["asked"]) == ("on_hold", None)
    with pytest.raises(NotAllowed, match="waits for no second person"):
        await guarded.ops.withdraw(order_id, "bob", "")
    await guarded.ops.release(order_id, "alice", "")
    order = await guarded.ops.refuse(order_id, "alice", "")
    assert (order["state"], order["asked"]) == ("settled", None)


async def test_a_plan_of_many_is_carried_out_by_another(guarded: Relay, order_id: str) -> None:
    plan = await guarded.bulk.plan("release", {}, "alice", "all good")
    assert plan["second_person"].startswith("an order: it is worth 2,000.00")
    for actor in ("alice", "alice_2", "cli:bob"):
        with pytest.raises(NotAllowed):
            await guarded.bulk.act(plan["token"], actor)
    result = await guarded.bulk.act(plan["token"], "bob")
    assert len(result["done"]) == 1
    last = (await guarded.ops.order(order_id))["events"][-1]
    assert last["actor"] == "bob"
    assert "all good; planned by alice" in last["reason"]
    with pytest.raises(NotAllowed):
        await guarded.bulk.act(plan["token"], "bob")


async def test_small_releases_add_up(database_url: str, tmp_path: Path, far: Steered) -> None:
    """Ten orders of 20 past a cap of nothing: from 100 beyond it on, two persons are needed."""
    text = TEXT.replace("value = 2000", "value = 20").replace("order_value = 50", "day_value = 0")
    async with relay_of(settings(tmp_path, text), database_url, far.transport) as relay:
        async with client_of(relay, None) as client:
            ids = [await accepted(client, "roster", roster(f"R-{number}")) for number in range(10)]
        worker = relay.worker()
        task = asyncio.create_task(worker.run())

        async def all_held() -> bool:
            return bool((await relay.ops.summary())["states"]["on_hold"] == 10)

        await until(all_held, 60)
        worker.stop()
        await task
        states = [(await relay.ops.release(each, "alice", ""))["state"] for each in ids]
    assert states == ["received"] * 5 + ["on_hold"] * 5


ANOTHER = """
UPDATE deliveries SET order_id = NULL, verdict = 'quarantined',
  body = convert_to(replace(convert_from(body, 'UTF8'), 'R-1', 'R-2'), 'UTF8')
"""


async def test_what_is_replayed_by_hand_waits_for_two(guarded: Relay, tmp_path: Path, database_url: str) -> None:
    uncapped = TEXT.replace("[routes.caps]\norder_value = 50\n", "")
    async with relay_of(settings(tmp_path, uncapped), database_url) as relay, client_of(relay, None) as client:
        await accepted(client, "roster", roster("R-1"))
        await run(relay.database, ANOTHER)
        ((delivery,),) = await run(relay.database, "SELECT id FROM deliveries")
        receipt = await relay.ops.replay(str(delivery), "alice", "mended")
        order = await relay.ops.order(receipt["order_id"])
        assert order["state"] == "on_hold"
        assert "it needs two persons" in order["hold_reason"]
        assert (await relay.ops.release(receipt["order_id"], "alice", ""))["state"] == "on_hold"
        assert (await relay.ops.release(receipt["order_id"], "bob", ""))["state"] == "received"


async def test_the_console_says_approve(guarded: Relay, order_id: str) -> None:
    async with client_of(guarded, None) as browser:
        await browser.post("/login", data={"key": BOB}, headers=HTML)
        assert ">Approve<" not in (await browser.get(f"/orders/{order_id}", headers=HTML)).text
        await guarded.ops.release(order_id, "alice", "please")
        page = await browser.get(f"/orders/{order_id}", headers=HTML)
        assert ">Approve<" in page.text
        assert "alice has asked to release it: please" in page.text
        await shown_plan(browser, guarded)
        done = await browser.post(f"/orders/{order_id}/release", headers=HTML)
        assert done.status_code == 303
    assert await state(guarded, order_id) == "received"


async def shown_plan(browser: httpx.AsyncClient, relay: Relay) -> Any:
    """A plan of alice's has a button for bob."""
    plan = await relay.bulk.plan("release", {}, "alice", "")
    page = await browser.get(f"/bulk/{plan['token']}", headers=HTML)
    assert "It needs two persons" in page.text
    assert 'action="/bulk/act"' in page.text
