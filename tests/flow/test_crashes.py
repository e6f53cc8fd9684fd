"""Workers that die at each gap of claim, call, record: no order is lost, none is placed twice."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import pytest

from reward_relay import steps
from reward_relay.contracts import OutboundRequest, Placement, Progress, VendorOrder
from reward_relay.errors import Unknown
from reward_relay.jobs import Job, Result
from reward_relay.sandbox.senders import sample
from reward_relay.wiring import Relay
from reward_relay.worker import Timing, Worker
from support.relays import TALKABLE_KEY, client_of, ended, relay_of, settings, until, working

ORDERS, WORKERS = 100, 6


class Crash(BaseException):
    """The process is gone: nothing after this line happens."""


class Ledger:
    """A vendor that counts. It may take keys, or only be asked; often it does the work and loses the answer."""

    def __init__(self, *, takes_key: bool, can_find: bool, chance: random.Random) -> None:
        self.takes_key = takes_key
        self.can_find = can_find
        self.made: list[str] = []
        self._chance = chance

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        return OutboundRequest("POST", f"http://far.test/{key}", json={"lines": len(placement.plan.lines)})

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        await asyncio.sleep(self._chance.uniform(0, 0.02))
        if not (self.takes_key and key in self.made):
            self.made.append(key)
        if self._chance.random() < 0.3:
            raise Unknown("the answer was lost")
        return VendorOrder(f"V-{key}", Progress.PENDING)

    async def find(self, key: str) -> VendorOrder | None:
        await asyncio.sleep(0.001)
        return VendorOrder(f"V-{key}", Progress.PENDING, existed=True) if key in self.made else None

    async def check(self, vendor_order_id: str) -> VendorOrder:
        await asyncio.sleep(0.001)
        return VendorOrder(vendor_order_id, Progress.FULFILLED, "Completed")


async def accept_many(relay: Relay, count: int) -> set[str]:
    async def one(number: int) -> str:
        payload = sample("talkable_referrer")
        payload["reward"]["id"] = number
        form = {"key": TALKABLE_KEY, "type": "reward_web_hook", "payload": json.dumps(payload)}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await client.post("/webhooks/talkable", content=urlencode(form), headers=headers)
        assert answer.status_code == 202, answer.text
        order_id: str = answer.json()["order_id"]
        return order_id

    async with client_of(relay, key=None) as client:
        return set(await asyncio.gather(*(one(number) for number in range(count))))


def crashing(relay: Relay, chance: random.Random, crashes: Counter[str]) -> Worker:
    async def step(job: Job) -> Result:
        if chance.random() < 0.15:
            crashes["claimed, not called"] += 1
            raise Crash
        result = await steps.run(job, relay.parties)
        if chance.random() < 0.15:
            crashes["called, not recorded"] += 1
            raise Crash
        return result

    slots = {"vendor:gcp": 8, "source:talkable": 8}
    return Worker(relay.database, slots, step, Timing(lease_s=0.6, call_deadline_s=0.3, breaker_failures=10_000))


@pytest.mark.parametrize(("takes_key", "can_find"), [(True, False), (False, True)], ids=["takes keys", "can be asked"])
async def test_every_order_is_placed_once_and_closed(
    takes_key: bool, can_find: bool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RETRY_DELAYS_S", (0.05,) * 50)
    chance, crashes = random.Random(7), Counter[str]()
    vendor = Ledger(takes_key=takes_key, can_find=can_find, chance=chance)
    async with relay_of(settings(tmp_path), database_url) as relay:
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]
        accepted = await accept_many(relay, ORDERS)
        workers = [crashing(relay, chance, crashes) for _ in range(WORKERS)]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]

        async def all_closed() -> bool:
            states = (await relay.ops.summary())["states"]
            return bool(states["closed"] == ORDERS)

        await until(all_closed, seconds=60)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*tasks)
        keys = {(await relay.ops.order(order_id))["po_number"] for order_id in accepted}
    assert Counter(vendor.made) == dict.fromkeys(keys, 1)
    assert crashes["claimed, not called"] > 10
    assert crashes["called, not recorded"] > 10


async def test_a_vendor_that_takes_no_key_and_cannot_be_asked_is_left_to_a_person(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RETRY_DELAYS_S", (0.05,) * 50)
    vendor = Ledger(takes_key=False, can_find=False, chance=random.Random(3))
    async with relay_of(settings(tmp_path), database_url) as relay:
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]
        await accept_many(relay, 30)
        worker = relay.worker()
        task = asyncio.create_task(worker.run())

        async def settled_down() -> bool:
            states = (await relay.ops.summary())["states"]
            return bool(states["closed"] + states["on_hold"] == 30)

        await until(settled_down)
        worker.stop()
        await task
        held = await relay.ops.orders({"state": "on_hold"}, 50)
    assert max(Counter(vendor.made).values()) == 1
    assert held["items"]
    assert all("neither be asked nor take a key" in order["hold_reason"] for order in held["items"])


async def test_a_person_who_has_looked_ends_the_doubt_by_a_release(database_url: str, tmp_path: Path) -> None:
    async def lost(placement: Placement, key: str) -> VendorOrder:
        raise Unknown("the connection broke")

    vendor = Ledger(takes_key=False, can_find=False, chance=random.Random(1))
    vendor._chance.random = lambda: 1.0  # type: ignore[method-assign]
    works, vendor.place = vendor.place, lost  # type: ignore[method-assign]
    async with relay_of(settings(tmp_path), database_url) as relay:
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]
        order_id = (await accept_many(relay, 1)).pop()
        async with working(relay):
            order = await ended(relay, order_id, "received")
            await until(lambda: attempted(relay, order_id))
            await relay.ops.retry(order_id, "alice", "")
            await ended(relay, order_id, "on_hold")
            plan = await relay.bulk.plan("release", {}, "alice")
            assert (plan["count"], plan["refused"]) == (0, 1)
            assert "look for it there, then release it by itself" in plan["wont"][0]["why"]
            vendor.place = works  # type: ignore[method-assign]
            await relay.ops.release(order_id, "alice", "it is not there")
            await ended(relay, order_id)
    assert vendor.made == [order["po_number"]]


async def attempted(relay: Relay, order_id: str) -> bool:
    return bool((await relay.ops.order(order_id))["attempts"])


async def test_a_worker_that_lost_its_claim_writes_nothing(database_url: str, tmp_path: Path) -> None:
    gate, called = asyncio.Event(), asyncio.Event()

    async def slow(job: Job) -> Result:
        called.set()
        await gate.wait()
        return await steps.run(job, relay.parties)

    async with relay_of(settings(tmp_path), database_url) as relay:
        vendor = Ledger(takes_key=True, can_find=False, chance=random.Random(1))
        vendor._chance.random = lambda: 1.0  # type: ignore[method-assign]
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]
        order_id = (await accept_many(relay, 1)).pop()
        sleeper = Worker(relay.database, {"vendor:gcp": 1}, slow, Timing(lease_s=0.3, call_deadline_s=5))
        sleeper._timing = Timing(lease_s=6, call_deadline_s=5)
        async with relay.database.transaction() as connection:
            await connection.exec_driver_sql("UPDATE orders SET due_at = now()")
        first = asyncio.create_task(sleeper.run())
        await called.wait()
        async with relay.database.transaction() as connection:
            await connection.exec_driver_sql("UPDATE orders SET due_at = now(), claim_until = now()")
        other = relay.worker()
        second = asyncio.create_task(other.run())

        async def closed() -> bool:
            return bool((await relay.ops.order(order_id))["state"] == "closed")

        await until(closed)
        before = await relay.ops.order(order_id)
        gate.set()
        for worker in (sleeper, other):
            worker.stop()
        await asyncio.gather(first, second)
        after = await relay.ops.order(order_id)
    assert len(vendor.made) == 1
    assert after["events"] == before["events"]
    assert after["updated_at"] == before["updated_at"]
