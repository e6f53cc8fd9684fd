"""What the far side can do to us, one order at a time."""

from pathlib import Path
from typing import Any

import pytest

from reward_relay import steps
from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import sample
from reward_relay.wiring import Relay
from support.far_side import Far, far_side, send
from support.relays import TALKABLE_KEY, client_of, ended, relay_of, settings, until, working

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "RETRY_DELAYS_S", (0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1))


async def accept(relay: Relay, number: int = 8261305) -> str:
    payload = sample("talkable_referrer")
    payload["reward"]["id"] = number
    async with client_of(relay, key=None) as client:
        answer = await send(client, "talkable", senders.talkable_form(payload, TALKABLE_KEY))
    order_id: str = answer.json()["order_id"]
    return order_id


async def play(far: Far, database_url: str, tmp_path: Path, state: str = "closed") -> dict[str, Any]:
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay:
        far.calls_back(relay)
        order_id = await accept(relay)
        async with working(relay):
            return await ended(relay, order_id, state)


@pytest.mark.parametrize(
    "mode", ["lose_answer", "garbage", "error_504", "error_504_before", "error_500", "unavailable", "rate_limit"]
)
async def test_one_order_whatever_becomes_of_the_vendor_s_answer(mode: str, database_url: str, tmp_path: Path) -> None:
    async with far_side() as far:
        await far.rule(party="gcp", operation="place", mode=mode, times=2, retry_after_s=0)
        order = await play(far, database_url, tmp_path)
        assert await far.orders_per_key() == {order["po_number"]: 1}
    assert order["outcome"] == "fulfilled"
    assert [call["verdict"] for call in order["calls"] if call["purpose"] == "place"][:2] != ["ok", "ok"]


async def test_a_vendor_slower_than_the_deadline_gets_one_order(database_url: str, tmp_path: Path) -> None:
    async with far_side() as far:
        await far.rule(party="gcp", operation="place", mode="slow", delay_s=1.5, times=1)
        order = await play(far, database_url, tmp_path)
        assert await far.orders_per_key() == {order["po_number"]: 1}
    assert order["calls"][0]["verdict"] == "unknown"


@pytest.mark.parametrize("mode", ["duplicate", "never_call_back", "call_back_first"])
async def test_callbacks_may_repeat_come_early_or_never(mode: str, database_url: str, tmp_path: Path) -> None:
    async with far_side() as far:
        await far.rule(party="gcp", operation="place", mode=mode)
        order = await play(far, database_url, tmp_path)
        assert await far.orders_per_key() == {order["po_number"]: 1}
    assert order["outcome"] == "fulfilled"


async def test_an_empty_account_holds_the_order_pauses_the_vendor_and_resuming_frees_it(
    database_url: str, tmp_path: Path
) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        far.calls_back(relay)
        await far.rule(party="gcp", operation="place", mode="insufficient_funds", times=1)
        first = await accept(relay)
        async with working(relay):
            held = await ended(relay, first, "on_hold")
            second = await accept(relay, 8261306)
            assert held["outcome"] is None
            assert "resume vendor:gcp" in held["hold_reason"]
            assert (await relay.ops.order(second))["state"] == "received"
            summary = await relay.ops.summary()
            assert next(each for each in summary["parties"] if each["party"] == "vendor:gcp")["paused"]
            done = await relay.ops.resume("vendor:gcp", "alice", "topped up")
            assert done["released"] == [first]
            assert {(await ended(relay, each))["outcome"] for each in (first, second)} == {"fulfilled"}


async def test_a_dead_vendor_opens_its_breaker_and_a_probe_closes_it(database_url: str, tmp_path: Path) -> None:
    slow_probe = settings(tmp_path).model_copy(update={"breaker_open_s": 1.5})
    async with far_side() as far, relay_of(slow_probe, database_url, far.transport) as relay:
        far.calls_back(relay)
        await far.rule(party="gcp", operation="place", mode="unavailable", times=12)
        orders = [await accept(relay, number) for number in range(12)]

        async def breaker() -> Any:
            summary = await relay.ops.summary()
            return next(each["breaker"] for each in summary["parties"] if each["party"] == "vendor:gcp") == "open"

        async with working(relay):
            await until(breaker)
            assert {(await ended(relay, each))["outcome"] for each in orders} == {"fulfilled"}
        assert not await breaker()
        assert set((await far.orders_per_key()).values()) == {1}


async def test_a_platform_that_is_away_is_told_later_and_the_vendor_not_asked_again(
    database_url: str, tmp_path: Path
) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        far.calls_back(relay)
        await far.rule(party="voucherify", operation="close", mode="error_500", times=3)
        async with client_of(relay, key=None) as client:
            hook = senders.voucherify(sample("voucherify_customer_rewarded"), "voucherify-key-1")
            order_id = (await send(client, "voucherify", hook)).json()["order_id"]
        async with working(relay):
            order = await ended(relay, order_id)
        closes = [call["verdict"] for call in order["calls"] if call["purpose"] == "close"]
        assert closes == ["unknown", "unknown", "unknown", "ok"]
        assert len([call for call in order["calls"] if call["purpose"] == "place"]) == 1


async def test_attempts_end_in_a_hold_that_says_what_was_wrong(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RETRY_DELAYS_S", (0.01, 0.01))
    async with far_side() as far:
        await far.rule(party="gcp", operation="place", mode="error_500")
        order = await play(far, database_url, tmp_path, "on_hold")
    assert "gave up after 3 attempts" in order["hold_reason"]
    assert order["in_doubt"]
