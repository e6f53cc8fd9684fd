"""The sandbox's platforms, and the webhooks they send."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from reward_relay.sandbox import senders
from reward_relay.sandbox.app import create_app

INFLUITIVE = {"Authorization": "Token t", "X_ORG_ID": "org"}
TALKABLE = {"Authorization": "Bearer t"}
VOUCHERIFY = {"X-App-Id": "a", "X-App-Token": "t"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        yield client


async def closings(client: httpx.AsyncClient, party: str) -> Any:
    return (await client.get("/sandbox/state")).json()["counts"]["closings"].get(party)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
async def test_roster_takes_a_status_by_any_likely_verb(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/roster/v2/orders/o-1", json={"status": "fulfilled"})
    assert answer.json() == {"id": "o-1", "status": "fulfilled"}
    assert await closings(client, "roster") == {"o-1": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}'])
async def test_roster_wants_an_object(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.put("/roster/v2/orders/o-1", content=body)).status_code == 400
    assert await closings(client, "roster") is None


async def test_influitive_lists_what_is_owed_until_it_is_decided(client: httpx.AsyncClient) -> None:
    owed = senders.influitive_redemption(41)
    assert (await client.post("/sandbox/redemptions", json=owed)).status_code == 201
    listed = (await client.get("/influitive/reward_redemptions", headers=INFLUITIVE)).json()
    assert listed == {"reward_redemptions": [owed["reward_redemption"]], "contacts": [owed["contact"]]}
    decision = "/influitive/reward_redemptions/41/decision/fulfill"
    assert (await client.post(decision, headers=INFLUITIVE, json={"message": "Enjoy"})).status_code == 200
    assert (await client.get("/influitive/reward_redemptions", headers=INFLUITIVE)).json()["reward_redemptions"] == []
    state = (await client.get("/sandbox/state")).json()
    (told,) = state["closings"]["influitive"]["41"]
    assert (told["decision"], told["body"]) == ("fulfill", {"message": "Enjoy"})


async def test_influitive_refuses_a_second_decision(client: httpx.AsyncClient) -> None:
    path = "/influitive/reward_redemptions/abc/decision/"
    answers = [await client.post(path + word, headers=INFLUITIVE) for word in ("refuse", "fulfill", "dance")]
    assert [answer.status_code for answer in answers] == [200, 422, 404]
    assert await closings(client, "influitive") == {"abc": 1}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Token t"}, {**INFLUITIVE, "Authorization": "Bearer t"}])
async def test_influitive_wants_token_and_organisation(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.get("/influitive/reward_redemptions", headers=headers)).status_code == 401
    path = "/influitive/reward_redemptions/1/decision/fulfill"
    assert (await client.post(path, headers=headers)).status_code == 401
    assert await closings(client, "influitive") is None


async def test_talkable_takes_custom_properties(client: httpx.AsyncClient) -> None:
    body = {"site_slug": "shop", "data": {"custom_properties": {"reward": "sent"}}}
    path = "/talkable/api/v2/people/ann%2Bx@example.com"
    assert (await client.put(path, json=body)).status_code == 401
    assert (await client.put(path, json={"data": {}}, headers=TALKABLE)).status_code == 400
    assert (await client.put(path, json=body, headers=TALKABLE)).json()["ok"] is True
    assert await closings(client, "talkable") == {"ann+x@example.com": 1}


async def test_voucherify_makes_up_the_same_customer_every_time(client: httpx.AsyncClient) -> None:
    path = "/voucherify/v1/customers/cust_A%2Brefuse"
    customers = [(await client.get(path, headers=VOUCHERIFY)).json() for _ in range(2)]
    assert customers[0] == customers[1]
    assert customers[0]["email"] == "cust_a+refuse@example.com"
    assert customers[0]["address"]["country"] == "US"


async def test_voucherify_remembers_a_changed_customer(client: httpx.AsyncClient) -> None:
    await client.put("/voucherify/v1/customers/c1", headers=VOUCHERIFY, json={"metadata": {"reward": "sent"}})
    customer = (await client.get("/voucherify/v1/customers/c1", headers=VOUCHERIFY)).json()
    assert (customer["metadata"], customer["email"]) == ({"reward": "sent"}, "c1@example.com")


@pytest.mark.parametrize(
    ("method", "path", "body", "key"),
    [
        ("PUT", "orders/ord_1", {"status": "FULFILLED"}, "ord_1"),
        ("POST", "events", {"event": "reward_sent", "customer": {"source_id": "jack"}}, "jack"),
        ("PUT", "customers/cust_1", {"metadata": {"a": "b"}}, "cust_1"),
        ("POST", "redemptions/r_1/rollback?reason=out+of+stock", None, "r_1"),
    ],
)
async def test_voucherify_can_be_told_in_four_ways(
    client: httpx.AsyncClient, method: str, path: str, body: Any, key: str
) -> None:
    url = f"/voucherify/v1/{path}"
    assert (await client.request(method, url, json=body)).status_code == 401
    assert (await client.request(method, url, json=body, headers=VOUCHERIFY)).status_code == 200
    assert await closings(client, "voucherify") == {key: 1}


@pytest.mark.parametrize(
    ("method", "path", "body"), [("PUT", "orders/o", {"status": "SENT"}), ("POST", "events", {"event": "x"})]
)
async def test_voucherify_wants_its_own_words(client: httpx.AsyncClient, method: str, path: str, body: Any) -> None:
    answer = await client.request(method, f"/voucherify/v1/{path}", json=body, headers=VOUCHERIFY)
    assert answer.status_code == 400


async def test_voucherify_gives_points_back_once(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/voucherify/v1/redemptions/r/rollback", headers=VOUCHERIFY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 400]


async def test_a_platform_can_lose_its_answer_after_the_work(client: httpx.AsyncClient) -> None:
    rule = {"party": "voucherify", "operation": "close", "mode": "error_504", "match": "ord_9", "times": 1}
    await client.post("/sandbox/rules", json=rule)
    body = {"status": "FULFILLED"}
    answers = [await client.put("/voucherify/v1/orders/ord_9", json=body, headers=VOUCHERIFY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [504, 200]
    assert await closings(client, "voucherify") == {"ord_9": 2}


# --- webhooks --------------------------------------------------------------------------------------------


def test_talkables_form_carries_its_payload_as_text() -> None:
    payload = senders.sample("talkable_referrer")
    webhook = senders.talkable_form(payload, "the-key")
    fields = {name: values[0] for name, values in parse_qs(webhook.body.decode()).items()}
    assert webhook.headers == {"Content-Type": "application/x-www-form-urlencoded"}
    assert (fields["key"], fields["type"], fields["extras"]) == ("the-key", "reward_web_hook", "{}")
    assert json.loads(fields["payload"]) == payload


def test_talkables_json_carries_its_payload_as_an_object() -> None:
    webhook = senders.talkable_json({"reward": {"id": 1}}, "the-key", "shop")
    fields = json.loads(webhook.body)
    assert (fields["key"], fields["site"], fields["payload"]) == ("the-key", "shop", {"reward": {"id": 1}})


def test_talkables_custom_app_signs_as_documented() -> None:
    webhook = senders.talkable_custom_app({"a": 1}, "my_webhook_secret")
    assert webhook.headers["x-talkable-signature"] == (
        "YjgxZGI4ZjdkYmIyOGU1MWNhY2M3OGUwMmMyNjE4NWYzYTAxY2I5OWU5ZGZjMWYxNzU3MTBiMmJmNjFkYTk1ZQ=="
    )


@pytest.mark.parametrize(
    ("payload", "signature"),
    [
        ({"a": 1}, "a17d2ac229d1ebbb5f10e839c7985c4818e5986eab297f7e5979196d4d7d3ed2"),
        ({'a"b': 1}, "f7cf97814a03146abedb9793f56e1dec34f618f82d10395310d053f749483ffb"),
    ],
)
def test_voucherify_signs_as_documented(payload: Any, signature: str) -> None:
    webhook = senders.voucherify(payload, "secretKey", enveloped=False)
    assert webhook.headers["x-voucherify-signature"] == signature


def test_voucherify_puts_the_payload_into_its_envelope() -> None:
    payload = senders.sample("voucherify_customer_rewarded")
    body = json.loads(senders.voucherify(payload, "secretKey").body)
    assert set(body) == {"id", "project_id", "created_at", "type", "data", "source", "event"}
    assert (body["type"], body["data"]) == ("customer.rewarded", payload)


def test_the_shared_token_travels_in_a_header_or_in_the_address() -> None:
    assert senders.roster({"a": 1}, "tok").headers["X-Webhook-Token"] == "tok"
    assert senders.influitive({}, "t&k").url("http://r/webhooks/i") == "http://r/webhooks/i?token=t%26k"
    assert senders.roster({}, "tok").url("http://r/webhooks/r") == "http://r/webhooks/r"


def test_a_sample_is_yours_to_change() -> None:
    senders.sample("talkable_click")["reward"]["id"] = 1
    assert senders.sample("talkable_click")["reward"]["id"] == 8261304
