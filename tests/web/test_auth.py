"""Who may use the ops API."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from reward_relay.web import bulk_api, ops_api
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, OPERATOR, VIEWER, client_of, relay_of, settings
from support.steered import accepted, roster, unreachable

ROUTERS = (*ops_api.routers, bulk_api.router)
ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
BODIES = {"/api/v1/routes/explain": {"source": "roster", "payload": {}}}
ACTING = {"/api/v1/bulk/plan": {"action": "retry"}, "/api/v1/bulk/act": {"token": "none"}}
"""Explain is a POST that changes nothing: viewers may use it."""
VALUES = {
    "token": "none",
    "order_id": "R-1",
    "delivery_id": "01890000-0000-7000-8000-000000000000",
    "party": "vendor:gcp",
}


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


async def statuses(client: httpx.AsyncClient) -> dict[tuple[str, str], httpx.Response]:
    """Every call of the ops API, and its answer."""
    found = {}
    for route in ROUTES:
        for method in route.methods or ():
            body = (BODIES | ACTING).get(route.path, {}) if method == "POST" else None
            found[method, route.path] = await client.request(method, route.path.format(**VALUES), json=body)
    return found


@pytest.mark.parametrize("key", [None, "wrong-key-0123456789", "", OPERATOR[:-1], OPERATOR + "x"])
async def test_without_a_known_key_every_call_is_401(relay: Relay, key: str | None) -> None:
    async with client_of(relay, key=key) as client:
        answers = await statuses(client)
    assert len(answers) >= 13
    for answer in answers.values():
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "[api_keys]" in answer.json()["detail"]
        assert OPERATOR not in answer.text


async def test_a_key_in_another_scheme_or_place_is_none(relay: Relay) -> None:
    async with client_of(relay, key=None) as client:
        for headers in ({"Authorization": OPERATOR}, {"Authorization": f"Basic {OPERATOR}"}, {"X-Api-Key": OPERATOR}):
            assert (await client.get("/api/v1/orders", headers=headers)).status_code == 401
        assert (await client.get("/api/v1/orders", params={"key": OPERATOR})).status_code == 401


async def test_a_viewer_reads_and_acts_nowhere(relay: Relay) -> None:
    async with client_of(relay, key=VIEWER) as client:
        await accepted(client, "roster", roster())
        answers = await statuses(client)
    for (method, path), answer in answers.items():
        if method == "POST" and path not in BODIES:
            assert (path, answer.status_code, answer.json()["error"]) == (path, 403, "forbidden")
            assert "vera is a viewer" in answer.json()["detail"]
        else:
            assert (path, answer.status_code in (200, 404)) == (path, True)
    order = await relay.ops.order("R-1")
    assert (order["state"], len(order["events"])) == ("received", 1)


async def test_an_operator_acts_under_the_keys_name(relay: Relay) -> None:
    async with client_of(relay) as client:
        await accepted(client, "roster", roster())
        order = (await client.post("/api/v1/orders/R-1/hold", json={})).json()
    assert order["events"][-1]["actor"] == "alice"


async def test_without_any_configured_key_the_api_is_closed_and_says_how_to_open_it(
    database_url: str, tmp_path: Path
) -> None:
    start, end = CONFIGURATION.index("[api_keys.alice]"), CONFIGURATION.index("[sources.talkable]")
    keyless = settings(tmp_path, CONFIGURATION[:start] + CONFIGURATION[end:])
    async with relay_of(keyless, database_url, unreachable) as relay, client_of(relay) as client:
        answer = await client.get("/api/v1/orders")
        assert answer.status_code == 401
        assert "no key is configured: add [api_keys.NAME]" in answer.json()["detail"]
        await accepted(client, "roster", roster())


async def test_webhooks_and_health_need_no_ops_key(relay: Relay) -> None:
    async with client_of(relay, key=None) as client:
        await accepted(client, "roster", roster())
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
