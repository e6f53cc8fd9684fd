"""Callback tokens: one for each order, not to be guessed, and nowhere to be found but where they belong."""

import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from sqlalchemy import text

from reward_relay import logs
from reward_relay.wiring import Relay
from support.far_side import Far, far_side, send
from support.relays import OPERATOR, client_of, ended, relay_of, settings, until, working
from support.steered import Steered, accepted, every_platform, roster

API = ("orders?limit=200", "deliveries?limit=200", "summary", "alerts", "parties", "processes")
CONSOLE = ("/", "/orders", "/deliveries", "/routes", "/parties", "/reconcile")


@pytest.fixture
async def vendor() -> AsyncIterator[Far]:
    """The sandbox, which calls back."""
    async with far_side() as found:
        yield found


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged, as a production process writes it."""
    root, found = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    with contextlib.redirect_stderr(found):
        logs.configure("debug", "json")
    structlog.configure(cache_logger_on_first_use=False)  # or later tests would write here too
    yield found
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def tokens(relay: Relay) -> dict[str, str]:
    """Every order's secret by its PO number, as the database has it."""
    async with relay.database.transaction() as connection:
        rows = await connection.execute(text("SELECT po_number, callback_token FROM orders"))
        return {row.po_number: row.callback_token for row in rows}


async def stored(relay: Relay) -> str:
    """All tables as text, without the one column that the tokens live in."""
    found = []
    async with relay.database.transaction() as connection:
        names = (await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).all()
        for (name,) in names:
            rows = await connection.execute(text(f"SELECT to_jsonb(t) - 'callback_token' AS row FROM \"{name}\" t"))
            found += [json.dumps(row.row, default=str) for row in rows]
    return "\n".join(found)


async def told(relay: Relay, order_ids: list[str]) -> str:
    """What the API, its metrics, the console and the evidence files say of the orders."""
    found = [json.dumps(await relay.evidence.of(each), default=str) for each in order_ids]
    paths = [f"/api/v1/{each}" for each in API] + [f"/api/v1/orders/{each}" for each in order_ids]
    async with client_of(relay) as client:
        found += [(await client.get(path)).text for path in [*paths, "/metrics", "/readyz"]]
        payload = {"source": "roster", "payload": json.loads(roster("R-8").body)}
        found.append((await client.post("/api/v1/routes/explain", json=payload)).text)
    async with client_of(relay, key=None) as browser:
        browser.headers.update({"Origin": "http://relay.test", "Accept": "text/html"})
        assert (await browser.post("/login", data={"key": OPERATOR, "to": "/"})).status_code == 303
        pages = [await browser.get(each) for each in (*CONSOLE, *(f"/orders/{each}" for each in order_ids))]
        assert {each.status_code for each in pages} == {200}
    return "\n".join([*found, *(each.text for each in pages)])


async def test_a_token_is_in_its_order_and_at_the_vendor_and_nowhere_else(
    database_url: str, tmp_path: Path, vendor: Far, logged: io.StringIO
) -> None:
    async with relay_of(settings(tmp_path), database_url, vendor.transport) as relay, working(relay, 2):
        vendor.calls_back(relay)
        async with client_of(relay) as client:
            ids = [(await send(client, *each)).json()["order_id"] for each in every_platform().items()]
            for each in ids:
                await ended(relay, each)
            await vendor.rule(party="gcp", operation="place", mode="insufficient_funds", times=1)
            ids.append(await accepted(client, "roster", roster("R-9")))
            await ended(relay, ids[-1], "on_hold")
            known = await tokens(relay)
            for number, secret in known.items():
                wrong = await client.post(f"/vendor-webhooks/gcp/{number}.{secret}x")
                assert (wrong.status_code, secret in wrong.text) == (404, False)
        found = {"stored": await stored(relay), "told": await told(relay, ids), "logged": logged.getvalue()}
    assert len(set(known.values())) == len(ids) == len(every_platform()) + 1
    assert all(len(secret) == 32 for secret in known.values())
    assert "/vendor-webhooks/gcp/RR-0000000000000000.***" in found["told"]
    assert '"event": "step"' in found["logged"] and all(number in found["stored"] for number in known)
    assert {(where, secret in all_of_it) for where, all_of_it in found.items() for secret in known.values()} == {
        (where, False) for where in found
    }


async def test_a_vendor_that_repeats_our_request_in_its_error_does_not_get_the_token_into_the_record(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    async def repeats(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/Orders"):
            return await Steered._answer(far, request)
        address = json.loads(request.content)["WebhookSettings"]["FulfillmentComplete"]
        path = address.partition("relay.test")[2]
        return httpx.Response(400, json={"Message": f"cannot call {address} nor {path} nor x{path}", "Echo": address})

    far._answer = repeats  # type: ignore[method-assign]
    async with working(relay):
        order_id = await accepted(client, "roster", roster("R-1"))
        held = await ended(relay, order_id, "on_hold")
    ((_, secret),) = (await tokens(relay)).items()
    assert "cannot call [link removed] nor [link removed]" in held["last_error"]
    assert secret not in await stored(relay) + await told(relay, [order_id])


async def test_a_token_opens_its_own_order_only(relay: Relay, client: httpx.AsyncClient) -> None:
    ids = [await accepted(client, "roster", roster(f"R-{number}")) for number in range(2)]
    (first, one), (second, two) = (await tokens(relay)).items()
    for wrong in (
        f"gcp/{first}.{two}",
        f"gcp/{second}.{one}",
        f"other/{first}.{one}",
        f"gcp/{first}.{one}.",
        f"gcp/.{one}",
    ):
        assert (await client.post(f"/vendor-webhooks/{wrong}")).status_code == 404
    assert (await client.post(f"/vendor-webhooks/gcp/{first}.{one}")).status_code == 202

    async def hints() -> list[int]:
        return [sum(event["actor"] == "vendor" for event in (await relay.ops.order(each))["events"]) for each in ids]

    assert sorted(await until(hints)) == [0, 1]
