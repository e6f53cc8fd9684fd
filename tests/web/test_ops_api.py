"""The operators' API: finding and reading orders and deliveries, explain, summary, and the shape of its errors."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from reward_relay.sandbox import senders
from reward_relay.wiring import Relay
from support.relays import (
    INFLUITIVE_TOKEN,
    OPERATOR,
    ROSTER_TOKEN,
    TALKABLE_KEY,
    VIEWER,
    VOUCHERIFY_KEY,
    client_of,
    ended,
    relay_of,
    settings,
    working,
)
from support.steered import TALKABLE_ID, Steered, accepted, every_platform, post, roster, talkable, unreachable

ORDER_FIELDS = {
    *("id", "po_number", "source", "external_id", "state", "outcome", "hold_reason", "route", "vendor"),
    *("vendor_order_id", "recipient", "items", "attempts", "next_step", "due_at", "in_doubt", "last_error"),
    *("created_at", "updated_at"),
}
SECRETS = (TALKABLE_KEY, VOUCHERIFY_KEY, ROSTER_TOKEN, INFLUITIVE_TOKEN, OPERATOR, VIEWER)
API_SECRETS = ("gcp-access-token", "roster-api-token", "influitive-api-token", "app-token")


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


async def listed(client: httpx.AsyncClient, **query: Any) -> list[str]:
    """The external ids on the first page of the answer to a query."""
    answer = await client.get("/api/v1/orders", params=query)
    assert answer.status_code == 200, answer.text
    return [order["external_id"] for order in answer.json()["items"]]


# --- lists -----------------------------------------------------------------------------------------------


async def test_orders_are_listed_newest_first_with_every_promised_field(client: httpx.AsyncClient) -> None:
    await accepted(client, "talkable", talkable())
    await accepted(client, "roster", roster("R-1"))
    page = (await client.get("/api/v1/orders")).json()
    assert set(page) == {"items", "next_cursor"}
    assert [order["external_id"] for order in page["items"]] == ["R-1", TALKABLE_ID]
    assert set(page["items"][0]) >= ORDER_FIELDS
    assert "callback_token" not in json.dumps(page)
    assert page["items"][0]["items"][0]["sku"] == "star-th-bottle"


async def test_filters_narrow_the_list_together(client: httpx.AsyncClient) -> None:
    for source, webhook in every_platform().items():
        await accepted(client, source, webhook)
    held = (await client.get("/api/v1/orders", params={"source": "roster"})).json()["items"][0]["id"]
    await client.post(f"/api/v1/orders/{held}/hold", json={})
    assert await listed(client, source="roster") == ["R-1"]
    assert await listed(client, source="roster", state="received") == []
    assert await listed(client, state="on_hold") == ["R-1"]
    assert len(await listed(client, vendor="gcp")) == 4
    assert await listed(client, vendor="tremendous") == []
    assert len(await listed(client, limit=3)) == 3


async def test_created_after_takes_any_iso_time(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster())
    now = datetime.now(UTC)
    assert await listed(client, created_after=(now - timedelta(hours=1)).isoformat()) == ["R-1"]
    assert await listed(client, created_after=(now + timedelta(hours=1)).isoformat()) == []
    assert await listed(client, created_after="2026-01-01T00:00:00") == ["R-1"]
    assert await listed(client, created_after="2026-01-01") == ["R-1"]


async def test_search_finds_name_mail_and_every_key(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay, client_of(relay) as client:
        async with working(relay):
            order = await ended(relay, await accepted(client, "talkable", talkable()), "placed")
        await accepted(client, "roster", roster("R-2"))
        for words in ("smith", "REFERRER@example", TALKABLE_ID, order["po_number"].lower(), "G1", str(order["id"])):
            assert (words, await listed(client, q=words)) == (words, [TALKABLE_ID])
        assert await listed(client, q="sandbox") == ["R-2"]
        assert await listed(client, q="nobody") == []


async def test_signs_in_a_search_part_words_and_are_no_wildcards(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster("R-1", email="100%_sure@example.com"))
    await accepted(client, "roster", roster("R-2", email="100x5sure@example.com"))
    assert await listed(client, q="100%_sure") == ["R-1"]
    assert await listed(client, q="100 sure") == ["R-1"]
    for words in ("10%x5sure", "100_5", "%", "_", "\\", "'", "' | 'zz", "zz:*", "& |", "!zz", "*", "@"):
        assert (words, await listed(client, q=words)) == (words, [])


async def test_a_search_takes_beginnings_of_words_with_or_without_accents(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster("R-1", name="José Ñandú-Pérez", email="jose.p@example.com"))
    await accepted(client, "roster", roster("R-2", name="Жанна О'Хара", email="zh@example.com"))
    for words in ("jose", "JOSÉ nandu", "per", "nandu-perez", "jose.p@ex", "jose p", "josé ñandú-pérez"):
        assert (words, await listed(client, q=words)) == (words, ["R-1"])
    assert await listed(client, q="жан о'х") == ["R-2"]
    assert await listed(client, q="ose") == []
    assert await listed(client, q="example") == ["R-2", "R-1"]


async def test_a_nul_in_a_query_finds_nothing_and_breaks_nothing(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster())
    for name in ("q", "source", "vendor"):
        assert (await client.get("/api/v1/orders", params={name: "a\x00b"})).json()["items"] == []
    assert (await client.get("/api/v1/deliveries", params={"source": "a\x00b"})).json()["items"] == []
    assert (await client.get("/api/v1/orders/a%00b")).status_code == 404


async def test_pages_stay_right_while_orders_arrive(client: httpx.AsyncClient) -> None:
    for number in range(7):
        await accepted(client, "roster", roster(f"R-{number}"))
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for late in range(10):
        page = (await client.get("/api/v1/orders", params={"limit": 3, **cursor})).json()
        seen += [order["external_id"] for order in page["items"]]
        await accepted(client, "roster", roster(f"late-{late}"))
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"R-{number}" for number in range(6, -1, -1)]


async def test_a_page_that_holds_everything_has_no_next(client: httpx.AsyncClient) -> None:
    for number in range(2):
        await accepted(client, "roster", roster(f"R-{number}"))
    assert (await client.get("/api/v1/orders", params={"limit": 2})).json()["next_cursor"] is None


# --- one order -------------------------------------------------------------------------------------------


async def test_one_order_has_its_whole_history(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    far.word = "Completed"
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay, client_of(relay) as client:
        async with working(relay):
            order_id = await accepted(client, "roster", roster())
            await ended(relay, order_id)
        order = (await client.get(f"/api/v1/orders/{order_id}")).json()
        by_number = (await client.get(f"/api/v1/orders/{order['po_number']}")).json()
        by_external_id = (await client.get("/api/v1/orders/R-1")).json()
    assert order == by_number == by_external_id
    assert set(order) >= ORDER_FIELDS | {"events", "calls"}
    assert [(e["from_state"], e["to_state"]) for e in order["events"]] == [
        (None, "received"),
        ("received", "settled"),
        ("settled", "closed"),
    ]
    assert [(c["purpose"], c["verdict"], c["party"]) for c in order["calls"]] == [
        ("place", "ok", "vendor:gcp"),
        ("close", "ok", "source:roster"),
    ]
    assert {call["key"] for call in order["calls"]} == {order["po_number"]}
    assert (order["state"], order["outcome"], order["next_step"], order["due_at"]) == (
        "closed",
        "fulfilled",
        None,
        None,
    )


async def test_an_order_is_found_by_an_external_id_that_is_a_uuid(client: httpx.AsyncClient) -> None:
    redemption = "0b9d9d0e-7a44-4e39-9c55-0d2f8f6f8a11"
    webhook = senders.influitive(senders.influitive_redemption(redemption), INFLUITIVE_TOKEN)
    order_id = await accepted(client, "influitive", webhook)
    assert (await client.get(f"/api/v1/orders/{redemption}")).json()["id"] == order_id


async def test_an_external_id_that_two_orders_have_is_no_name_for_one_of_them(client: httpx.AsyncClient) -> None:
    await accepted(client, "talkable", talkable())
    second = await accepted(client, "roster", roster(TALKABLE_ID))
    answer = await client.post(f"/api/v1/orders/{TALKABLE_ID}/hold", json={})
    assert (answer.status_code, answer.json()["error"]) == (409, "not_allowed")
    assert "roster" in answer.json()["detail"]
    assert "talkable" in answer.json()["detail"]
    assert (await client.get(f"/api/v1/orders/{second}")).json()["state"] == "received"


# --- deliveries ------------------------------------------------------------------------------------------


async def test_deliveries_are_listed_shown_and_filtered(client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster("R-1"))
    await post(client, "roster", roster("R-1"))
    await client.post("/webhooks/roster", content=b"not JSON", headers=roster().headers)
    page = (await client.get("/api/v1/deliveries")).json()
    assert [row["verdict"] for row in page["items"]] == ["quarantined", "duplicate", "accepted"]
    only = (await client.get("/api/v1/deliveries", params={"verdict": "quarantined", "source": "roster"})).json()
    assert [row["bytes"] for row in only["items"]] == [len(b"not JSON")]
    first = page["items"][2]
    shown = (await client.get(f"/api/v1/deliveries/{first['id']}")).json()
    assert json.loads(shown["body"]) == senders.roster_order("R-1")
    assert (shown["order_id"], shown["via"], shown["external_id"]) == (order_id, "webhook", "R-1")
    assert not any(secret in json.dumps(shown) for secret in SECRETS)


async def test_deliveries_have_pages(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await accepted(client, "roster", roster(f"R-{number}"))
    first = (await client.get("/api/v1/deliveries", params={"limit": 3})).json()
    second = (await client.get("/api/v1/deliveries", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    found = [row["external_id"] for row in first["items"] + second["items"]]
    assert found == ["R-4", "R-3", "R-2", "R-1", "R-0"]
    assert second["next_cursor"] is None


async def test_an_informational_delivery_can_be_replayed_and_stays_informational(client: httpx.AsyncClient) -> None:
    unpaid = (await post(client, "talkable", talkable(status="Unpaid"))).json()
    replayed = await client.post(f"/api/v1/deliveries/{unpaid['delivery_id']}/replay", json={"note": "again"})
    assert (replayed.status_code, replayed.json()["verdict"]) == (200, "informational")
    assert len((await client.get("/api/v1/deliveries")).json()["items"]) == 1


# --- explain ---------------------------------------------------------------------------------------------

PAYLOADS = {
    "talkable": senders.sample("talkable_referrer"),
    "voucherify": senders.sample("voucherify_customer_rewarded"),
    "roster": senders.roster_order("R-1"),
    "influitive": senders.influitive_redemption(901),
}


async def test_explain_shows_route_vendor_request_and_closing_call_of_every_platform(client: httpx.AsyncClient) -> None:
    expected = {
        "talkable": ("gift cards", "place", "nothing"),
        "voucherify": ("bottles", "enrich", "call"),
        "roster": ("gift cards", "place", "call"),
        "influitive": ("gift cards", "place", "call"),
    }
    for source, (route, step, closing) in expected.items():
        answer = await client.post("/api/v1/routes/explain", json={"source": source, "payload": PAYLOADS[source]})
        found = answer.json()
        assert (source, found["verdict"], found["route"], found["vendor"]) == (source, "accepted", route, "gcp")
        assert (found["next_step"], found["closing_call"]["does"]) == (step, closing)
        assert found["hold_reason"] is None
        assert not any(secret in answer.text for secret in (*SECRETS, *API_SECRETS))


async def test_explain_shows_the_request_as_it_is_later_sent(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay, client_of(relay) as client:
        answer = await client.post("/api/v1/routes/explain", json={"source": "roster", "payload": PAYLOADS["roster"]})
        shown = answer.json()["vendor_request"]
        async with working(relay):
            order = await ended(relay, await accepted(client, "roster", roster()), "placed")
    (sent,) = far.placed
    assert shown["method"] == "POST"
    assert shown["headers"]["Authorization"] == "***"
    assert shown["json"]["LineItems"] == sent["LineItems"]
    assert shown["json"]["Type"] == sent["Type"]
    assert sent["PONumber"] == order["po_number"]
    assert Decimal(str(sent["LineItems"][0]["Value"])) == 20


async def test_explain_stores_and_sends_nothing(database_url: str, tmp_path: Path) -> None:
    asked: list[httpx.Request] = []

    def remember(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(500)

    transport = httpx.MockTransport(remember)
    async with relay_of(settings(tmp_path), database_url, lambda: transport) as relay, client_of(relay) as client:
        for source, payload in PAYLOADS.items():
            await client.post("/api/v1/routes/explain", json={"source": source, "payload": payload})
        assert (await client.get("/api/v1/orders")).json()["items"] == []
        assert (await client.get("/api/v1/deliveries")).json()["items"] == []
    assert asked == []


async def test_explain_takes_a_form_as_text_and_says_what_cannot_be_read(client: httpx.AsyncClient) -> None:
    form = talkable().body.decode()
    found = (await client.post("/api/v1/routes/explain", json={"source": "talkable", "payload": form})).json()
    assert (found["verdict"], found["external_id"]) == ("accepted", TALKABLE_ID)
    found = (await client.post("/api/v1/routes/explain", json={"source": "roster", "payload": "<xml>"})).json()
    assert (found["verdict"], found["route"]) == ("quarantined", None)
    assert "not JSON" in found["reason"]
    found = (await client.post("/api/v1/routes/explain", json={"source": "nope", "payload": {}})).json()
    assert found["error"] == "unknown_source"


# --- summary and errors ----------------------------------------------------------------------------------


async def test_the_summary_counts_states_and_shows_every_party(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster("R-1"))
    order_id = await accepted(client, "roster", roster("R-2"))
    await client.post(f"/api/v1/orders/{order_id}/hold", json={})
    await client.post("/webhooks/roster", content=b"not JSON", headers=roster().headers)
    found = (await client.get("/api/v1/summary")).json()
    assert found["states"] == {"received": 1, "placed": 0, "settled": 0, "closed": 0, "on_hold": 1}
    assert found["oldest_due"]["party"] == "vendor:gcp"
    assert found["trouble"] == {"quarantined": 1}
    parties = {party["party"]: party for party in found["parties"]}
    assert set(parties) == {"vendor:gcp", "source:talkable", "source:voucherify", "source:roster", "source:influitive"}
    assert (parties["vendor:gcp"]["waiting"], parties["vendor:gcp"]["due"]) == (1, 1)
    assert (parties["vendor:gcp"]["breaker"], parties["vendor:gcp"]["paused"]) == ("closed", False)


async def test_every_error_has_a_code_and_a_sentence(client: httpx.AsyncClient) -> None:
    missing = "01890000-0000-7000-8000-000000000000"
    calls: list[tuple[str, str, Any, int, str]] = [
        ("GET", "/api/v1/orders/nope", None, 404, "not_found"),
        ("GET", f"/api/v1/deliveries/{missing}", None, 404, "not_found"),
        ("POST", f"/api/v1/deliveries/{missing}/replay", {}, 404, "not_found"),
        ("POST", "/api/v1/orders/nope/retry", {}, 404, "not_found"),
        ("GET", "/api/v1/orders?state=lost", None, 422, "invalid"),
        ("GET", "/api/v1/orders?limit=0", None, 422, "invalid"),
        ("GET", "/api/v1/orders?limit=201", None, 422, "invalid"),
        ("GET", "/api/v1/orders?cursor=zzz", None, 422, "invalid"),
        ("GET", "/api/v1/orders?created_after=soon", None, 422, "invalid"),
        ("POST", "/api/v1/orders/nope/hold", {"nota": "typo"}, 422, "invalid"),
        ("POST", "/api/v1/orders/nope/hold", {"note": "x" * 1001}, 422, "invalid"),
        ("POST", "/api/v1/orders/nope/hold", ["not", "an", "object"], 422, "invalid"),
        ("POST", "/api/v1/parties/vendor:nope/pause", {}, 404, "not_found"),
        ("GET", "/api/v1/nothing", None, 404, "not_found"),
        ("DELETE", "/api/v1/orders", None, 405, "method_not_allowed"),
    ]
    for method, path, body, status, code in calls:
        answer = (
            await client.request(method, path, json=body) if body is not None else await client.request(method, path)
        )
        assert (path, answer.status_code, answer.json().get("error")) == (path, status, code)
        assert set(answer.json()) == {"error", "detail"}
        assert len(answer.json()["detail"]) > 10
