"""What a platform that posts a webhook is answered, and what is kept of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from reward_relay import rejecting
from reward_relay.db.embedded import Embedded
from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import Webhook
from reward_relay.wiring import Relay
from support.outage import outage
from support.relays import (
    CONFIGURATION,
    ROSTER_TOKEN,
    TALKABLE_KEY,
    VOUCHERIFY_KEY,
    client_of,
    ended,
    relay_of,
    settings,
    working,
)
from support.steered import Steered, accepted, every_platform, post, roster, talkable, unreachable

SECRETS = (TALKABLE_KEY, VOUCHERIFY_KEY, ROSTER_TOKEN, "influitive-token-1", "talkable-key-0", "wrong-secret-0")
LIMIT = 1 << 20


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(relay, key=None) as found:
        yield found


async def stored(relay: Relay, delivery_id: str) -> str:
    return str((await relay.ops.delivery(delivery_id))["body"])


# --- the answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["talkable", "voucherify", "roster", "influitive"])
async def test_a_real_reward_of_each_platform_is_accepted(relay: Relay, client: httpx.AsyncClient, source: str) -> None:
    answer = await post(client, source, every_platform()[source])
    assert answer.status_code == 202
    assert set(answer.json()) == {"delivery_id", "order_id", "verdict"}
    order = await relay.ops.order(answer.json()["order_id"])
    assert (answer.json()["verdict"], order["source"], order["state"]) == ("accepted", source, "received")
    assert str(order["delivery_id"]) == answer.json()["delivery_id"]


def _wrongly_signed() -> dict[str, Webhook]:
    wrong = "wrong-secret-0"
    return {
        "talkable": talkable(key=wrong),
        "voucherify": senders.voucherify(senders.sample("voucherify_customer_rewarded"), wrong),
        "roster": senders.roster(senders.roster_order("R-1"), wrong),
        "influitive": senders.influitive(senders.influitive_redemption(901), wrong),
    }


@pytest.mark.parametrize("source", ["talkable", "voucherify", "roster", "influitive"])
async def test_a_wrong_secret_is_401_with_the_likely_cause_and_no_secret(
    relay: Relay, client: httpx.AsyncClient, source: str
) -> None:
    answer = await post(client, source, _wrongly_signed()[source])
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthenticated")
    assert f"sources.{source}.secrets" in answer.json()["detail"]
    assert not any(secret in answer.text for secret in SECRETS)
    assert (await relay.ops.orders({}))["items"] == []


async def test_an_unsigned_webhook_is_401_and_says_what_is_missing(client: httpx.AsyncClient) -> None:
    answer = await client.post("/webhooks/voucherify", json=senders.sample("voucherify_customer_rewarded"))
    assert answer.status_code == 401
    assert "no header x-voucherify-signature" in answer.json()["detail"]


async def test_an_unknown_source_is_404_and_names_the_known_ones(client: httpx.AsyncClient) -> None:
    answer = await client.post("/webhooks/tlkable", json={})
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_source")
    assert "talkable" in answer.json()["detail"]


async def test_a_body_announced_over_1_mib_is_413(client: httpx.AsyncClient) -> None:
    answer = await client.post("/webhooks/roster", content=b" " * (LIMIT + 1), headers=roster().headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")


async def test_a_chunked_body_over_1_mib_is_413_without_reading_it_to_its_end(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * (LIMIT // 8)

    answer = await client.post("/webhooks/roster", content=endless(), headers=roster().headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert sent < 64


async def test_a_body_of_exactly_1_mib_is_taken(client: httpx.AsyncClient) -> None:
    body = roster().body.ljust(LIMIT)
    answer = await client.post("/webhooks/roster", content=body, headers=roster().headers)
    assert (answer.status_code, answer.json()["verdict"]) == (202, "accepted")


async def test_a_coupon_that_talkable_gives_itself_is_informational(client: httpx.AsyncClient) -> None:
    answer = await post(client, "talkable", talkable(incentive_type="discount_coupon"))
    assert (answer.status_code, answer.json()["verdict"], answer.json()["order_id"]) == (202, "informational", None)


# --- what cannot be read ---------------------------------------------------------------------------------


async def test_what_is_not_json_is_quarantined_with_its_bytes(relay: Relay, client: httpx.AsyncClient) -> None:
    answer = await client.post("/webhooks/roster", content=b"<xml>\xff", headers=roster().headers)
    assert (answer.status_code, answer.json()["verdict"], answer.json()["order_id"]) == (202, "quarantined", None)
    assert "not JSON" in answer.json()["reason"]
    assert (await stored(relay, answer.json()["delivery_id"])).startswith("<xml>")


async def test_a_quarantined_delivery_becomes_an_order_by_replay_after_the_configuration_is_mended(
    relay: Relay, database_url: str, tmp_path: Path
) -> None:
    payload = senders.roster_order("R-9")
    payload["order"]["ticket"] = payload["order"].pop("id")
    async with client_of(relay) as client:
        first = (await post(client, "roster", senders.roster(payload, ROSTER_TOKEN))).json()
        assert (first["verdict"], first["order_id"]) == ("quarantined", None)
        again = await client.post(f"/api/v1/deliveries/{first['delivery_id']}/replay", json={})
        assert again.json()["verdict"] == "quarantined"
    mended = CONFIGURATION.replace(
        'api_token = "roster-api-token"', 'api_token = "roster-api-token"\nfields = { external_id = "order.ticket" }'
    )
    async with relay_of(settings(tmp_path, mended), database_url, unreachable) as other, client_of(other) as client:
        url, why = f"/api/v1/deliveries/{first['delivery_id']}/replay", {"note": "fields mended"}
        replayed = (await client.post(url, json=why)).json()
        delivery = await other.ops.delivery(first["delivery_id"])
        order = await other.ops.order(replayed["order_id"])
        third = await client.post(f"/api/v1/deliveries/{first['delivery_id']}/replay", json={})
    assert (order["events"][-1]["actor"], order["events"][-1]["reason"]) == (
        "alice",
        f"delivery {first['delivery_id']} replayed: fields mended",
    )
    assert (replayed["verdict"], replayed["delivery_id"]) == ("accepted", first["delivery_id"])
    assert (delivery["via"], str(delivery["order_id"])) == ("replay", replayed["order_id"])
    assert order["external_id"] == "R-9"
    assert third.status_code == 409


async def test_a_nul_in_a_name_is_no_obstacle_to_placing(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    far.word = "Completed"
    async with (
        relay_of(settings(tmp_path), database_url, far.transport) as relay,
        client_of(relay, key=None) as client,
        working(relay),
    ):
        order_id = await accepted(client, "talkable", talkable(lambda p: p["person"].update(first_name="B\x00ob")))
        order = await ended(relay, order_id)
    assert order["recipient"]["name"] == "Bob Smith"
    assert "\\u0000" not in json.dumps(far.placed)


async def test_a_lone_surrogate_in_a_name_is_accepted(relay: Relay, client: httpx.AsyncClient) -> None:
    body = roster().body.replace(b'"Ann Sandbox"', b'"Ann \\ud800"')
    answer = await client.post("/webhooks/roster", content=body, headers=roster().headers)
    order = await relay.ops.order(answer.json()["order_id"])
    assert order["recipient"]["name"] == "Ann ?"


HOSTILE = {
    "deep list": b"[" * 200_000,
    "deep object": b'{"order":' * 100_000,
    "huge exponent": b'{"id": 1e999999}',
    "endless integer": b'{"id": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"id": NaN}',
    "empty": b"",
    "null": b"null",
    "list": b"[]",
}


async def test_hostile_json_is_quarantined_and_the_next_reward_is_taken(client: httpx.AsyncClient) -> None:
    for name, body in HOSTILE.items():
        answer = await client.post("/webhooks/roster", content=body, headers=roster().headers)
        assert (name, answer.status_code, answer.json()["verdict"]) == (name, 202, "quarantined")
    await accepted(client, "roster", roster())


async def test_hostile_json_in_a_form_is_quarantined(client: httpx.AsyncClient) -> None:
    body = urlencode({"key": TALKABLE_KEY, "type": "reward_web_hook", "payload": "[" * 100_000})
    answer = await client.post("/webhooks/talkable", content=body, headers=talkable().headers)
    assert (answer.status_code, answer.json()["verdict"]) == (202, "quarantined")


# --- secrets ---------------------------------------------------------------------------------------------


async def test_the_previous_secret_is_still_accepted_during_a_rotation(client: httpx.AsyncClient) -> None:
    await accepted(client, "talkable", talkable(key="talkable-key-0"))
    assert (await post(client, "talkable", talkable(key="talkable-key-2"))).status_code == 401


@pytest.mark.parametrize("sender", [senders.talkable_form, senders.talkable_json])
@pytest.mark.parametrize("secret", [TALKABLE_KEY, "talkable-key-0"])
async def test_the_key_in_talkables_body_is_not_stored(
    relay: Relay, client: httpx.AsyncClient, sender: Callable[..., Webhook], secret: str
) -> None:
    answer = await post(client, "talkable", sender(senders.sample("talkable_referrer"), secret))
    body = await stored(relay, answer.json()["delivery_id"])
    assert answer.json()["verdict"] == "accepted"
    assert secret not in body
    assert "8261305" in body


# --- what is not authenticated ---------------------------------------------------------------------------


async def rejected(relay: Relay) -> list[dict[str, object]]:
    await relay.intake.close()
    return list((await relay.ops.deliveries({"verdict": "rejected"}, 200))["items"])


async def test_a_rejected_delivery_is_remembered_without_its_body(relay: Relay, client: httpx.AsyncClient) -> None:
    detail = (await post(client, "talkable", talkable(key="wrong-secret-0"))).json()["detail"]
    (row,) = await rejected(relay)
    delivery = await relay.ops.delivery(str(row["id"]))
    assert (row["source"], row["reason"], delivery["body"]) == ("talkable", detail, "")
    assert not any(secret in str(delivery) for secret in SECRETS)
    async with client_of(relay) as operator:
        replayed = await operator.post(f"/api/v1/deliveries/{row['id']}/replay", json={})
    assert (replayed.status_code, replayed.json()["error"]) == (409, "not_allowed")


async def test_a_flood_of_rejected_deliveries_is_answered_and_not_remembered(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    most = rejecting.REJECTED_PER_MINUTE
    flood = [post(client, "talkable", talkable(key="wrong-secret-0")) for _ in range(most + 15)]
    assert {answer.status_code for answer in await asyncio.gather(*flood)} == {401}
    assert len(await rejected(relay)) == most
    await accepted(client, "talkable", talkable())


# --- the database is away --------------------------------------------------------------------------------


async def test_without_a_database_a_webhook_is_503_and_asks_to_come_again(tmp_path: Path) -> None:
    url = f"postgresql://postgres@/relay?host={tmp_path}"
    async with relay_of(settings(tmp_path), url, unreachable) as relay, client_of(relay, key=None) as client:
        answer = await post(client, "talkable", talkable())
        wrong = await post(client, "talkable", talkable(key="wrong-secret-0"))
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert str(tmp_path) not in answer.text
    assert wrong.status_code == 401


async def test_while_the_database_is_gone_webhooks_are_503_and_afterwards_202(
    database_url: str, postgres: Embedded, tmp_path: Path
) -> None:
    async with relay_of(settings(tmp_path), database_url, unreachable) as relay, client_of(relay, key=None) as client:
        await accepted(client, "talkable", talkable())
        async with outage(postgres, database_url):
            lost = [(await post(client, "roster", roster(f"R-{number}"))).status_code for number in range(3)]
        found = await post(client, "roster", roster("R-0"))
    assert lost == [503] * 3
    assert (found.status_code, found.json()["verdict"]) == (202, "accepted")
