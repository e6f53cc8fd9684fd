"""The sandbox's weather, and its vendor that knows no order again."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from reward_relay.sandbox.app import create_app
from reward_relay.sandbox.senders import sample

HALF = {"seed": 3, "reward": "r-[0-9]+", "gusts": {"roster.close": [{"mode": "error_504", "chance": 0.5}]}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sandbox") as client:
        yield client
        await app.close()


async def statuses(client: httpx.AsyncClient, weather: Any, keys: list[str]) -> dict[str, list[int]]:
    await client.post("/sandbox/reset")
    assert (await client.put("/sandbox/weather", json=weather)).status_code == 200
    found: dict[str, list[int]] = {}
    for key in keys:
        answer = await client.put(f"/roster/v2/orders/{key}", json={"status": "fulfilled"})
        found.setdefault(key, []).append(answer.status_code)
    return found


async def test_the_same_seed_treats_the_same_reward_alike_in_whatever_order(client: httpx.AsyncClient) -> None:
    keys = [f"r-{number}" for number in range(40)] * 3
    first = await statuses(client, HALF, keys)
    assert await statuses(client, HALF, sorted(keys, reverse=True)) == first
    assert await statuses(client, {**HALF, "seed": 4}, keys) != first
    struck = sum(each == 504 for answers in first.values() for each in answers)
    assert 30 < struck < 90
    counted = (await client.get("/sandbox/state")).json()["counts"]["weather"]
    assert list(counted) == ["roster.close: error_504"]


async def test_a_reward_is_struck_only_so_often(client: httpx.AsyncClient) -> None:
    always = {**HALF, "most": 2, "gusts": {"roster.close": [{"mode": "error_500", "chance": 1}]}}
    assert await statuses(client, always, ["r-1", "r-1", "r-1", "r-2"]) == {"r-1": [500, 500, 200], "r-2": [500]}


async def test_the_weather_can_be_fair_again_and_rules_go_before_it(client: httpx.AsyncClient) -> None:
    always = {**HALF, "gusts": {"roster.close": [{"mode": "error_500", "chance": 1}]}}
    await client.put("/sandbox/weather", json=always)
    await client.post("/sandbox/rules", json={"party": "roster", "mode": "unavailable", "times": 1})
    answers = [await client.put("/roster/v2/orders/r-1", json={"status": "x"}) for _ in range(2)]
    await client.delete("/sandbox/weather")
    answers.append(await client.put("/roster/v2/orders/r-1", json={"status": "x"}))
    assert [answer.status_code for answer in answers] == [503, 500, 200]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward": "("}, "no pattern"),
        ({"gusts": {"gcp.nothing": []}}, "party.operation"),
        ({"gusts": {"roster.close": [{"mode": "lost", "chance": 0.1}]}}, "means nothing"),
        ({"gusts": {"roster.close": [{"mode": "drop", "chance": 0.6}, {"mode": "garbage", "chance": 0.6}]}}, "than 1"),
    ],
)
async def test_weather_that_makes_no_sense_is_refused(client: httpx.AsyncClient, change: Any, said: str) -> None:
    answer = await client.put("/sandbox/weather", json={**HALF, **change})
    assert answer.status_code == 422
    assert said in answer.text


async def test_the_second_vendor_takes_a_repeat_as_another_order_and_can_be_asked(client: httpx.AsyncClient) -> None:
    issued = await client.post("/keyless/v1/Tokens", headers={"Email": "a@b.example", "AccessToken": "any"})
    client.headers["Authorization"] = f"Bearer {issued.json()['Value']}"
    body = {**sample("giftcard_partners_order"), "PONumber": "PO-1", "WebhookSettings": {}}
    placed = [(await client.post("/keyless/v1/Orders", json=body)).json()["Id"] for _ in range(2)]
    found = (await client.get("/keyless/v1/Orders", params={"PONumber": "PO-1"})).json()["Orders"]
    assert [order["Id"] for order in found] == placed
    assert (await client.get("/keyless/v1/Orders", params={"PONumber": "PO-2"})).json() == {"Orders": []}
    state = (await client.get("/sandbox/state")).json()
    assert state["counts"]["orders"] == {"PO-1": 2}
    assert {order["Vendor"] for order in state["orders"]} == {"keyless"}
