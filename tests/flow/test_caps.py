"""Caps hold instead of send: counted at the far side, under workers that crash, and past them by release."""

import asyncio
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from reward_relay import steps
from reward_relay.admission import Admission
from reward_relay.contracts import OutboundRequest, Placement, Progress, VendorOrder
from reward_relay.errors import NotAllowed, Rejected, Unknown
from reward_relay.jobs import Job, Result
from reward_relay.wiring import Relay, build, configured
from reward_relay.worker import Timing, Worker
from support.relays import CONFIGURATION, client_of, relay_of, settings, until, working
from support.rows import run
from support.steered import Steered, post, roster

SUM = "SELECT scope, value, number FROM cap_usage ORDER BY scope"


class Died(BaseException):
    """The process is gone: nothing after this line happens."""


class Counting:
    """A vendor that takes no keys, can be asked, and keeps what it took by key; often it loses the answer."""

    takes_key, can_find = False, True

    def __init__(self, chance: random.Random | None = None) -> None:
        self.made: list[tuple[str, Decimal]] = []
        self._chance = chance

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        return OutboundRequest("POST", f"http://far.test/{key}")

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        await asyncio.sleep(self._chance.uniform(0, 0.01) if self._chance else 0)
        self.made.append((key, sum((line.value * line.quantity for line in placement.plan.lines), Decimal())))
        if self._chance and self._chance.random() < 0.3:
            raise Unknown("the answer was lost")
        return VendorOrder(f"V-{key}", Progress.PENDING)

    async def find(self, key: str) -> VendorOrder | None:
        known = key in [each for each, _ in self.made]
        return VendorOrder(f"V-{key}", Progress.PENDING, existed=True) if known else None

    async def check(self, vendor_order_id: str) -> VendorOrder:
        return VendorOrder(vendor_order_id, Progress.FULFILLED, "Completed")


def capped(caps: str, more: str = "") -> str:
    """The usual configuration with caps of its route "gift cards"."""
    return f"{more}\n{CONFIGURATION}\n[routes.caps]\n{caps}\n"


async def take(relay: Relay, count: int, first: int = 0, sku: str = "any") -> list[str]:
    """As many rewards of Roster's, all at once; the ids of their orders."""
    async with client_of(relay, key=None) as client:
        webhooks = [roster(f"R-{number}", sku=sku) for number in range(first, first + count)]
        answers = await asyncio.gather(*(post(client, "roster", each) for each in webhooks))
    return [str(answer.json()["order_id"]) for answer in answers]


async def resting(relay: Relay, count: int) -> dict[str, int]:
    """The states once no order of `count` is on its way."""

    async def check() -> Any:
        states = (await relay.ops.summary())["states"]
        return states if states["closed"] + states["on_hold"] == count else None

    found: dict[str, int] = await until(check, 60)
    return found


async def test_a_cap_on_the_day_lets_just_so_many_through_whoever_dies(
    database_url: str, tmp_path: Path, far: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RETRY_DELAYS_S", (0.05,) * 50)
    chance, vendor, crashes = random.Random(11), Counting(random.Random(5)), Counter[str]()
    async with relay_of(settings(tmp_path, capped("day_count = 37")), database_url, far.transport) as relay:
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]

        async def step(job: Job) -> Result:
            before = chance.random() < 0.15
            result = None if before else await steps.run(job, relay.parties)
            if result is None or chance.random() < 0.15:
                crashes["before the call" if before else "after it"] += 1
                raise Died
            return result

        await take(relay, 120)
        slots = {"vendor:gcp": 8, "source:roster": 8}
        timing = Timing(lease_s=0.8, call_deadline_s=0.4, breaker_failures=10_000)
        admission = Admission(lambda: relay.reloading.guards)
        workers = [Worker(relay.database, slots, step, timing, admission=admission) for _ in range(8)]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        states = await resting(relay, 120)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*tasks)
        (used,) = await run(relay.database, "SELECT number, held FROM cap_usage")
    assert (states["closed"], states["on_hold"]) == (37, 83)
    assert Counter(key for key, _ in vendor.made) == dict.fromkeys({key for key, _ in vendor.made}, 1)
    assert len(vendor.made) == 37
    assert tuple(used) == (37, 83)
    assert min(crashes.values()) > 5, crashes


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_sent_of_a_scope_never_exceeds_its_cap(
    seed: int, database_url: str, tmp_path: Path, far: Steered
) -> None:
    chance, vendor = random.Random(seed), Counting()
    prices = ["5", "19.99", "40", "75", "90", "90.01", "300"]
    products = "".join(f'"{price}" = {{ value = {price} }}\n' for price in prices)
    text = f"{CONFIGURATION}\n[routes.products]\n{products}\n[routes.caps]\nday_value = 500\norder_value = 90\n"
    text = text.replace("[vendors.gcp]", "[sources.roster.caps]\nday_count = 9\n[vendors.gcp]")
    async with relay_of(settings(tmp_path, f"caps.day_value = 400\n{text}"), database_url, far.transport) as relay:
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]
        for number in range(40):
            await take(relay, 1, number, sku=chance.choice(prices))
        async with working(relay, 4):
            await resting(relay, 40)
        sums = {row.scope: row for row in await run(relay.database, SUM)}
        held = (await relay.ops.orders({"state": "on_hold"}, 50))["items"]
    total = sum((value for _, value in vendor.made), Decimal())
    assert total <= 400
    assert len(vendor.made) <= 9
    assert max(value for _, value in vendor.made) <= 90
    assert sums["caps"].value == total == sums['routes."gift cards".caps'].value
    assert sums["sources.roster.caps"].number == len(vendor.made)
    assert all(order["cap"] and order["hold_reason"].startswith("held by a cap: ") for order in held)


async def test_a_wrong_decimal_point_sends_nothing(database_url: str, tmp_path: Path, far: Steered) -> None:
    text = capped("order_value = 100").replace("value = 20\n", "value = 2000\n")
    async with relay_of(settings(tmp_path, text), database_url, far.transport) as relay:
        assert [each for each in relay.reloading.summary()["warnings"] if "over its caps.order_value" in each]
        (order_id,) = await take(relay, 1)
        order = await relay.ops.order(order_id)
        assert order["state"] == "on_hold"
        assert 'it is worth 2,000.00, and routes."gift cards".caps.order_value is 100.00' in order["hold_reason"]
        async with working(relay):
            await asyncio.sleep(0.3)
        assert not far.placed


async def test_a_release_goes_past_the_cap_and_is_counted(database_url: str, tmp_path: Path, far: Steered) -> None:
    far.word = "Completed"
    async with relay_of(settings(tmp_path, capped("day_value = 50")), database_url, far.transport) as relay:
        async with working(relay, 2):
            ids = await take(relay, 4)
            assert (await resting(relay, 4))["on_hold"] == 2
            await take(relay, 4)  # the same rewards again: nothing is counted twice
            (held, other) = [each for each in ids if (await relay.ops.order(each))["cap"]]
            told = {each["action"]: each for each in (await relay.ops.order(held))["actions"]}
            assert "past the cap" in told["release"]["does"]
            await relay.ops.release(held, "alice", "checked")
            await resting(relay, 4)
        order = await relay.ops.order(held)
        (used,) = await run(relay.database, SUM)
        (summary,) = (await relay.ops.summary())["caps"]
        assert order["state"] == "closed"
        assert any("goes beyond" in each["reason"] for each in order["events"] if each["reason"])
        assert (await relay.ops.order(other))["state"] == "on_hold"
    assert len(far.placed) == 3
    assert (used.value, used.number) == (60, 3)
    assert (summary["used"], summary["limit"], summary["part"], summary["held"]) == (60, 50, 1.2, 2)


async def test_only_what_the_cap_held_goes_past_it(database_url: str, tmp_path: Path, far: Steered) -> None:
    """An order held for another reason, or with another plan by now, is judged anew."""
    far.word = "Completed"
    before = capped("order_value = 100").replace("value = 20\n", "value = 2000\n")
    async with relay_of(settings(tmp_path, before), database_url, far.transport) as relay:
        (first,) = await take(relay, 1)
        (second,) = await take(relay, 1, 1)
    dearer = before.replace("value = 2000\n", "value = 3000\n")
    async with relay_of(settings(tmp_path, dearer), database_url, far.transport) as relay, working(relay):
        await relay.ops.release(first, "alice", "")
        order = await until(lambda: _held_for(relay, first, "3,000.00"))
        assert not far.placed
        await relay.ops.release(first, "alice", "yes, three thousand")
        await until(lambda: _in_state(relay, first, "closed"))
        assert order["counted_on"] is None
    cheaper = before.replace("value = 2000\n", "value = 20\n")
    async with relay_of(settings(tmp_path, cheaper), database_url, far.transport) as relay, working(relay):
        await relay.ops.release(second, "alice", "mended")
        await until(lambda: _in_state(relay, second, "closed"))
    assert len(far.placed) == 2


async def _held_for(relay: Relay, order_id: str, words: str) -> Any:
    order = await relay.ops.order(order_id)
    return order if words in (order["hold_reason"] or "") else None


async def _in_state(relay: Relay, order_id: str, state: str) -> bool:
    return bool((await relay.ops.order(order_id))["state"] == state)


async def test_a_refused_order_keeps_its_count_and_is_not_counted_again(
    database_url: str, tmp_path: Path, far: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Counting()
    async with relay_of(settings(tmp_path, capped("day_count = 1")), database_url, far.transport) as relay:
        relay.parties.vendors["gcp"] = vendor  # type: ignore[index]
        monkeypatch.setattr(vendor, "place", _refuse)
        (order_id,) = await take(relay, 1)
        async with working(relay):
            await until(lambda: _in_state(relay, order_id, "on_hold"))
            monkeypatch.undo()
            await relay.ops.release(order_id, "alice", "mended")
            await until(lambda: _in_state(relay, order_id, "closed"))
        (used,) = await run(relay.database, SUM)
    assert (used.number, len(vendor.made)) == (1, 1)


async def _refuse(placement: Placement, key: str) -> VendorOrder:
    raise Rejected("no such product")


async def test_a_bulk_release_says_what_it_goes_beyond(database_url: str, tmp_path: Path, far: Steered) -> None:
    far.word = "Completed"
    async with relay_of(settings(tmp_path, capped("day_value = 50")), database_url, far.transport) as relay:
        async with working(relay, 2):
            await take(relay, 6)
            assert (await resting(relay, 6))["on_hold"] == 4
            plan = await relay.bulk.plan("release", {}, "alice", "all right")
            assert plan["value"] == 80
            assert plan["beyond"] == {'routes."gift cards".caps.day_value': 70}
            result = await relay.bulk.act(plan["token"], "alice")
            assert len(result["done"]) == 4
            await resting(relay, 6)
        (used,) = await run(relay.database, SUM)
    assert (used.value, len(far.placed)) == (120, 6)


async def test_caps_are_taken_from_the_file_while_the_relay_runs(
    database_url: str, tmp_path: Path, far: Steered
) -> None:
    path = tmp_path / "relay.toml"
    found = settings(tmp_path)
    relay = build(found, database_url, source=configured(path, {}), transport=far.transport)
    try:
        before = relay.reloading.digest
        path.write_text("placing = 'paused'\nsecond_person_above = 5\n" + capped("order_value = 10"))
        relay.reloading.look(at_once=True)
        guards = relay.reloading.guards
        assert guards.paused
        assert guards.second_person_above == 5
        assert not relay.reloading.summary()["restart_needed"]
        assert relay.reloading.digest != before
        (order_id,) = await take(relay, 1)
        assert (await relay.ops.order(order_id))["cap"] == 'routes."gift cards".caps.order_value'
        with pytest.raises(NotAllowed, match="goes before this switch"):
            await relay.ops.placing.resume("alice", "")
    finally:
        await relay.close()
