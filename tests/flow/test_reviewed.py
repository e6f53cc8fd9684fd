"""What a review found broken, each as the scenario that showed it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reward_relay.contracts import Placement, VendorOrder
from reward_relay.db import orders, parties, steering
from reward_relay.errors import Unknown
from reward_relay.jobs import Job, Result, Trial
from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import sample
from reward_relay.states import State, Step
from reward_relay.wiring import Relay
from reward_relay.worker import Timing, Worker
from support.far_side import Far, far_side, send
from support.relays import TALKABLE_KEY, client_of, ended, relay_of, settings, until, working


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_side() as found:
        yield found


@pytest.fixture
async def relay(far: Far, database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, far.transport) as found:
        far.calls_back(found)
        yield found


async def post(relay: Relay, **reward: Any) -> dict[str, Any]:
    payload = sample("talkable_referrer")
    payload["person"]["email"] = reward.pop("email", payload["person"]["email"])
    payload["reward"] |= reward
    async with client_of(relay, key=None) as client:
        answer = await send(client, "talkable", senders.talkable_form(payload, TALKABLE_KEY))
    found: dict[str, Any] = answer.json()
    return found


async def claim(relay: Relay, lease_s: float = 30) -> list[Job]:
    async with relay.database.transaction() as connection:
        return await orders.claim(connection, {"vendor:gcp": 5}, lease_s)


async def lease_ends(relay: Relay) -> None:
    async with relay.database.transaction() as connection:
        await connection.exec_driver_sql("UPDATE orders SET due_at = now(), claim_until = now()")


async def test_a_withdrawal_that_waits_for_a_dead_worker_is_carried_out_by_the_next(relay: Relay, far: Far) -> None:
    order_id = (await post(relay))["order_id"]
    await claim(relay)
    assert (await post(relay, status="Voided"))["verdict"] == "accepted"
    await lease_ends(relay)
    async with working(relay):
        order = await ended(relay, order_id, "on_hold")
    assert "the vendor may have it" in order["hold_reason"]
    assert await far.orders_per_key() == {}


async def test_a_hold_after_the_lease_does_not_lose_the_withdrawal(relay: Relay) -> None:
    order_id = (await post(relay))["order_id"]
    await claim(relay)
    await post(relay, status="Voided")
    await lease_ends(relay)
    async with relay.database.transaction() as connection:
        assert not await steering.hold(connection, order_id, "ann", "wait")
    assert await claim(relay) == []
    assert (await relay.ops.order(order_id))["state"] == "on_hold"


async def test_simultaneous_failures_open_the_breaker_once_and_for_its_own_time(relay: Relay) -> None:
    gate = asyncio.Event()

    async def fails(job: Job) -> Result:
        await gate.wait()
        raise Unknown("away")

    for number in range(16):
        await post(relay, id=number + 1)
    worker = Worker(relay.database, {"vendor:gcp": 16}, fails, Timing(breaker_open_s=15))
    task = asyncio.create_task(worker.run())

    async def all_claimed() -> bool:
        return len(worker._running) == 16

    await until(all_claimed)
    gate.set()

    async def breaker() -> Any:
        async with relay.database.transaction() as connection:
            found = await connection.exec_driver_sql(
                "SELECT EXTRACT(epoch FROM open_until - since) AS s, failures FROM party_health WHERE breaker = 'open'"
            )
            return found.first()

    found = await until(breaker)
    worker.stop()
    await task
    assert (float(found.s), found.failures) == (15.0, 0)
    assert tuple(await breaker()) == tuple(found)


async def test_each_probe_that_fails_doubles_the_wait_up_to_five_minutes(relay: Relay) -> None:
    waits = []
    for number in range(7):
        async with relay.database.transaction() as connection:
            trial = Trial.PROBE if number else None
            await parties.failed(connection, "vendor:gcp", "away", open_s=15, trial=trial)
            found = await connection.exec_driver_sql("SELECT EXTRACT(epoch FROM open_until - now()) FROM party_health")
            waits.append(round(float(found.scalar_one())))
    assert waits == [15, 30, 60, 120, 240, 300, 300]


async def test_one_unreadable_order_is_held_and_all_others_go_on(relay: Relay) -> None:
    broken, whole = (await post(relay, id=1))["order_id"], (await post(relay, id=2))["order_id"]
    async with relay.database.transaction() as connection:
        await connection.exec_driver_sql(
            f"UPDATE orders SET reward = reward || '{{\"items\": \"changed\"}}' WHERE id = '{broken}'"
        )
    async with working(relay):
        assert (await ended(relay, whole))["outcome"] == "fulfilled"
    async with relay.database.transaction() as connection:
        found = await connection.exec_driver_sql(f"SELECT state, hold_reason FROM orders WHERE id = '{broken}'")
        row = found.one()
    assert row.state == "on_hold"
    assert "cannot read the stored order (items)" in row.hold_reason
    assert (await post(relay, id=1))["verdict"] == "duplicate"


async def test_a_contradiction_during_the_call_is_only_noted_once_the_vendor_has_the_order(relay: Relay) -> None:
    order_id = (await post(relay))["order_id"]
    (job,) = await claim(relay)
    await post(relay, amount=99)
    placed = Result(State.PLACED, Step.CHECK, "vendor:gcp", "ok", wait_s=60, vendor_order_id="G1")
    async with relay.database.transaction() as connection:
        wishes = await orders.record(connection, [(job, placed)])
        wish = wishes[order_id, job.claim]
        assert wish is not None
        await steering.carry_out(connection, order_id, wish)
    order = await relay.ops.order(order_id)
    assert order["state"] == "placed"
    assert "says otherwise: items" in order["events"][-1]["reason"]


async def test_a_contradiction_takes_a_held_order_out_of_the_vendor_s_resumption(relay: Relay, far: Far) -> None:
    await far.rule(party="gcp", operation="place", mode="insufficient_funds", times=1)
    order_id = (await post(relay))["order_id"]
    async with working(relay):
        await ended(relay, order_id, "on_hold")
        await post(relay, email="other@example.com")
        assert (await relay.ops.resume("vendor:gcp", "ann", "topped up"))["released"] == []
    order = await relay.ops.order(order_id)
    assert "says otherwise: recipient.email" in order["hold_reason"]


async def test_a_bare_withdrawal_keeps_a_late_reward_from_being_placed(relay: Relay, far: Far) -> None:
    bare = {"reward": {"id": 8261305, "status": "Voided", "incentive_type": "rebate"}}
    async with client_of(relay, key=None) as client:
        first = await send(client, "talkable", senders.talkable_json(bare, TALKABLE_KEY))
    assert first.json()["verdict"] == "accepted"
    assert (await post(relay))["verdict"] == "duplicate"
    async with working(relay):
        order = await ended(relay, first.json()["order_id"])
    assert order["outcome"] == "cancelled"
    assert await far.orders_per_key() == {}


class Pending:
    """A vendor whose order never ends, and whose words PostgreSQL cannot store."""

    takes_key, can_find = True, False

    def __init__(self, inner: Any) -> None:
        self.preview, self.find, self.check = inner.preview, inner.find, inner.check

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        raise Unknown("a lone surrogate \ud800 and a \x00")


async def test_words_that_cannot_be_stored_are_cleaned_and_the_attempt_counts(relay: Relay) -> None:
    relay.parties.vendors["gcp"] = Pending(relay.parties.vendors["gcp"])  # type: ignore[index]
    order_id = (await post(relay))["order_id"]

    async def tried() -> Any:
        order = await relay.ops.order(order_id)
        return order if order["attempts"] else None

    async with working(relay):
        order = await until(tried)
    assert order["last_error"] == "a lone surrogate ? and a"
