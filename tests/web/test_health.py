"""Liveness, readiness and metrics."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from reward_relay.db.embedded import Embedded
from reward_relay.wiring import Relay
from support.outage import outage
from support.relays import relay_of, settings
from support.steered import accepted, post, roster, talkable, unreachable


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


Metrics = dict[tuple[str, tuple[str, ...]], float]


async def scraped(client: httpx.AsyncClient) -> Metrics:
    """Each sample by its name and the values of its labels."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(each.name, tuple(each.labels.values())): each.value for family in families for each in family.samples}


async def test_a_relay_with_its_tables_is_alive_and_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_migrations_that_are_behind_make_it_not_ready_and_name_the_command(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    async with relay.database.transaction() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "reward-relay migrate" in answer.json()["detail"]
    assert (await client.get("/healthz")).status_code == 200


async def test_a_database_without_tables_makes_it_not_ready(relay: Relay, client: httpx.AsyncClient) -> None:
    async with relay.database.transaction() as connection:
        await connection.execute(text("DROP TABLE alembic_version"))
    assert (await client.get("/readyz")).status_code == 503


async def test_while_the_database_is_gone_it_lives_and_is_not_ready(
    client: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    async with outage(postgres, database_url):
        ready, metrics = await client.get("/readyz"), await client.get("/metrics")
        orders = await client.get("/api/v1/orders")
        assert (await client.get("/healthz")).status_code == 200
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert (metrics.status_code, orders.status_code) == (200, 503)
    assert "relay_database_up 0.0" in metrics.text
    assert (await client.get("/readyz")).status_code == 200


async def test_metrics_hold_orders_parties_and_deliveries(client: httpx.AsyncClient) -> None:
    before = await scraped(client)
    await accepted(client, "roster", roster("R-1"))
    held = await accepted(client, "roster", roster("R-2"))
    await client.post(f"/api/v1/orders/{held}/hold", json={})
    await client.post("/api/v1/parties/vendor:gcp/pause", json={})
    await client.post("/webhooks/roster", content=b"not JSON", headers=roster().headers)
    await post(client, "talkable", talkable(key="wrong-secret-0"))
    found = await scraped(client)
    assert found["relay_orders", ("received",)] == found["relay_orders", ("on_hold",)] == 1
    assert found["relay_orders", ("closed",)] == 0
    assert found["relay_oldest_due_seconds", ()] > 0
    assert found["relay_party_waiting", ("vendor:gcp",)] == 1
    assert (found["relay_party_flows", ("vendor:gcp",)], found["relay_party_flows", ("source:roster",)]) == (0, 1)
    assert found["relay_deliveries_in_trouble", ("quarantined",)] == 1

    def counted(*labels: str) -> float:
        return found["relay_deliveries_total", labels] - before.get(("relay_deliveries_total", labels), 0)

    assert (counted("roster", "accepted"), counted("roster", "quarantined")) == (2, 1)
    assert counted("talkable", "unauthenticated") == 1
    assert found["relay_delivery_seconds_count", ()] - before.get(("relay_delivery_seconds_count", ()), 0) == 3


async def test_made_up_sources_make_no_new_metrics(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.post(f"/webhooks/made-up-{number}")
    assert not any("made-up" in label for _, labels in await scraped(client) for label in labels)


async def test_the_root_leads_a_browser_to_sign_in_and_the_api_describes_itself(client: httpx.AsyncClient) -> None:
    page = await client.get("/", headers={"Accept": "text/html"}, follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/login")
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/webhooks/{source}", "/vendor-webhooks/{vendor}/{token}", "/api/v1/orders/{order_id}/refuse"} <= set(paths)
