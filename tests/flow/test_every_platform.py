"""Each platform's reward from webhook to closing call, against the sandbox."""

from pathlib import Path
from typing import Any

import pytest

from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import Webhook, sample
from support.far_side import Far, far_side, send
from support.relays import (
    INFLUITIVE_TOKEN,
    ROSTER_TOKEN,
    TALKABLE_KEY,
    VOUCHERIFY_KEY,
    client_of,
    ended,
    relay_of,
    settings,
    working,
)

BOTTLE = sample("voucherify_customer_rewarded")
CASES: dict[str, tuple[Webhook, str, str, dict[str, int]]] = {
    "talkable": (senders.talkable_form(sample("talkable_referrer"), TALKABLE_KEY), "8261305", "DigitalDelivery", {}),
    "voucherify": (
        senders.voucherify(BOTTLE, VOUCHERIFY_KEY),
        "r_0e2907cc52498573ee",
        "PhysicalShipment",
        {"ord_8GGVSci7FUPX1UX94qBHQPSE": 1},
    ),
    "roster": (
        senders.roster(sample("roster_reward_redeemed"), ROSTER_TOKEN),
        "480217",
        "DigitalDelivery",
        {"480217": 1},
    ),
    "influitive": (
        senders.influitive(sample("influitive_redemption_requested"), INFLUITIVE_TOKEN),
        "771204",
        "DigitalDelivery",
        {"771204": 1},
    ),
}


async def run_one(far: Far, database_url: str, tmp_path: Path, source: str, webhook: Webhook) -> dict[str, Any]:
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay:
        far.calls_back(relay)
        async with client_of(relay, key=None) as client, working(relay):
            answers = [await send(client, source, webhook) for _ in range(5)]
            assert [answer.json()["verdict"] for answer in answers] == ["accepted"] + ["duplicate"] * 4
            return await ended(relay, answers[0].json()["order_id"])


@pytest.mark.parametrize("source", CASES)
async def test_five_deliveries_are_one_order_and_one_closing_call(
    source: str, database_url: str, tmp_path: Path
) -> None:
    webhook, external_id, kind, closings = CASES[source]
    async with far_side() as far:
        order = await run_one(far, database_url, tmp_path, source, webhook)
        state = await far.state()
        assert await far.closings(source) == closings
    assert (order["external_id"], order["outcome"]) == (external_id, "fulfilled")
    assert state["counts"]["orders"] == {order["po_number"]: 1}
    placed = state["orders"][0]
    assert placed["Type"] == kind


async def test_voucherify_s_bottle_goes_to_the_address_that_voucherify_knows(database_url: str, tmp_path: Path) -> None:
    async with far_side() as far:
        order = await run_one(far, database_url, tmp_path, "voucherify", CASES["voucherify"][0])
        lines = (await far.state())["orders"][0]["LineItems"]
    assert [call["purpose"] for call in order["calls"]][:2] == ["enrich", "place"]
    assert lines[0]["ProductId"] == "TUMBLER"
    assert lines[0]["Value"] == 25
    assert lines[0]["PhysicalDeliveryAddress"]["AddressLine1"] == order["recipient"]["address"]["line1"]


async def test_a_refused_order_is_refused_at_the_platform(database_url: str, tmp_path: Path) -> None:
    webhook = senders.influitive(senders.influitive_redemption(41, email="rita+refuse@example.com"), INFLUITIVE_TOKEN)
    async with far_side() as far:
        order = await run_one(far, database_url, tmp_path, "influitive", webhook)
        told = (await far.state())["closings"]["influitive"]["41"]
    assert order["outcome"] == "refused"
    assert [each["decision"] for each in told] == ["refuse"]
    assert "The address says +refuse" in told[0]["body"]["message"]
