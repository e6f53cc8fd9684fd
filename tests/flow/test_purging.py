"""Forgetting a person on request: what goes, what stays, what cannot go yet, and that nothing brings it back."""

import json
from pathlib import Path

import httpx
import pytest
from bench.filling import fill

from reward_relay.db.engine import Database
from reward_relay.errors import Invalid, NotAllowed, NotFound
from reward_relay.sealing import new_key
from reward_relay.wiring import Relay
from support.canaries import everything
from support.relays import CONFIGURATION, OPERATOR, VIEWER, client_of, ended, relay_of, settings, working
from support.rows import run
from support.steered import Steered, accepted, post, roster, talkable

ANN = "ann@example.com"


async def finished(relay: Relay, client: httpx.AsyncClient, number: str, email: str = ANN) -> str:
    """A reward of Roster's that has ended; returns its order's id."""
    async with working(relay):
        order_id = await accepted(client, "roster", roster(number, email=email))
        await ended(relay, order_id)
    return order_id


@pytest.fixture
def far() -> Steered:
    found = Steered()
    found.word = "Completed"
    return found


async def test_an_order_forgets_field_by_field_and_says_when(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await finished(relay, client, "R-1")
    before = await relay.ops.order(order_id)
    assert (await client.get("/api/v1/orders", params={"q": "ann sandbox"})).json()["items"]
    answer = await client.post(f"/api/v1/orders/{order_id}/purge", json={"note": "asked on the phone"})
    after = answer.json()
    assert answer.status_code == 200
    assert after["purged_at"] is not None
    assert after["recipient"] == {"name": None, "email": None, "phone": None, "address": None}
    for name in ("external_id", "po_number", "items", "plan", "outcome", "vendor_order_id"):
        assert after[name] == json.loads(json.dumps(before[name], default=str))
    assert [call["answer"] for call in after["calls"]] == [None] * len(before["calls"])
    assert [set(each) for call in after["calls"] for each in call["exchanges"] or []]
    assert not [each for call in after["calls"] for each in call["exchanges"] or [] if "url" in each]
    last = after["events"][-1]
    assert (last["actor"], last["reason"]) == ("alice", "personal data removed on request: asked on the phone")
    assert (await client.get("/api/v1/orders", params={"q": "ann sandbox"})).json()["items"] == []
    assert (await client.get("/api/v1/orders", params={"q": "R-1"})).json()["items"]
    told = await everything(relay.database)
    assert [each for each in (ANN, "Ann Sandbox", "12 Main Street") if each in told] == []


async def test_only_an_order_that_has_ended_can_forget(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster())
    answer = await client.post(f"/api/v1/orders/{order_id}/purge", json={})
    assert answer.status_code == 409
    assert "it has not ended (received); refuse or close it first" in answer.json()["detail"]
    assert (await client.post("/api/v1/orders/none/purge", json={})).status_code == 404
    async with client_of(relay, VIEWER) as viewer:
        assert (await viewer.post(f"/api/v1/orders/{order_id}/purge", json={})).status_code == 403
    with pytest.raises(NotFound):
        await relay.purging.about_order("none")
    with pytest.raises(NotAllowed):
        await relay.purging.about_order(order_id)


@pytest.mark.parametrize("what", ["the same", "other", "withdrawn"])
async def test_nothing_that_comes_later_brings_the_person_back(
    relay: Relay, client: httpx.AsyncClient, what: str
) -> None:
    order_id = await finished(relay, client, "R-1")
    await client.post(f"/api/v1/orders/{order_id}/purge", json={})
    webhook = roster("R-1", email=ANN if what == "the same" else "other@example.com")
    if what == "withdrawn":
        cancelled = json.loads(webhook.body) | {"event": "order_cancelled"}
        webhook = type(webhook)(webhook.headers, json.dumps(cancelled).encode(), webhook.query)
    answer = await post(client, "roster", webhook)
    assert (answer.status_code, answer.json()["order_id"]) == (202, order_id)
    shown = (await client.get(f"/api/v1/deliveries/{answer.json()['delivery_id']}")).json()
    assert (shown["body"], shown["headers"]) == ("", {})
    assert "personal data was removed" in shown["no_body"]
    assert "example.com" not in (await everything(relay.database)).replace("orders@example.com", "")


async def test_a_second_purge_is_no_second_event(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await finished(relay, client, "R-1")
    first = (await client.post(f"/api/v1/orders/{order_id}/purge", json={})).json()
    again = (await client.post(f"/api/v1/orders/{order_id}/purge", json={})).json()
    assert again["events"] == first["events"]


async def test_by_address_all_that_names_it_is_found_sealed_or_not(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    far.word = "Completed"
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay, client_of(relay) as client:
        first = await finished(relay, client, "R-1", "Ann@Example.com")
    text = f"encryption_keys = ['{new_key()}']\n{CONFIGURATION}"
    async with relay_of(settings(tmp_path, text), database_url, far.transport) as relay, client_of(relay) as client:
        second = await finished(relay, client, "R-2")
        other = await finished(relay, client, "R-3", "joann@example.com")
        unread = await client.post("/webhooks/roster", content=b"to ANN%40example.com", headers=roster().headers)
        waiting = await accepted(client, "roster", roster("R-4"))
        await relay.ops.hold(waiting, "alice", "")
        names_her = await accepted(client, "talkable", talkable(lambda payload: payload.update(note=ANN), id=77))
        async with working(relay):
            await ended(relay, names_her)
        found = await relay.purging.about_email("ANN@example.com ")
        assert sorted(each["id"] for each in found.orders) == sorted([first, second])
        about = {each["id"]: each["order_id"] for each in found.deliveries}
        assert about[unread.json()["delivery_id"]] is None
        assert set(about.values()) == {None, names_her}
        assert len(found.kept) == 2
        assert all("refuse or close it first" in each["why"] for each in found.kept)
        assert found.sealed == 0
        before = await everything(relay.database)
        await relay.purging.about_email(ANN)
        assert await everything(relay.database) == before, "looking changes nothing"
        done = await relay.purging.forget(found, "alice", "", ANN)
        assert done["orders"] == 2
        assert (await relay.ops.order(other))["recipient"]["email"] == "joann@example.com"
        assert (await relay.ops.order(names_her))["recipient"]["email"] == "referrer@example.com"
        left = await relay.purging.about_email(ANN)
        assert (left.orders, left.deliveries, len(left.kept)) == ([], [], 2)
        await relay.ops.close(waiting, "alice", "")
        await relay.purging.forget(await relay.purging.about_email(ANN), "alice", "", ANN)
        told = await everything(relay.database)
    assert [line for line in told.lower().splitlines() if ANN in line.replace("joann", "")] == []


async def test_what_a_reward_sent_before_and_after_its_order_is_forgotten_with_it(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    await post(client, "talkable", talkable(status="Unpaid"))
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await ended(relay, order_id)
    found = await relay.purging.about_order(order_id)
    assert len(found.deliveries) == 2
    await relay.purging.forget(found, "alice", "")
    assert "referrer@example.com" not in await everything(relay.database)


async def test_searches_for_the_address_are_forgotten_too(relay: Relay, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/bulk/plan", json={"action": "release", "filters": {"q": ANN}})
    assert ANN in await everything(relay.database)
    found = await relay.purging.about_email(ANN)
    await relay.purging.forget(found, "alice", "", ANN)
    assert ANN not in await everything(relay.database)


@pytest.mark.parametrize("email", ["", "ann", "@", "ann lee@example.com"])
async def test_half_an_address_is_none(relay: Relay, email: str) -> None:
    with pytest.raises(Invalid, match="no e-mail address"):
        await relay.purging.about_email(email)


async def test_an_order_s_page_stays_fine(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await finished(relay, client, "R-1")
    await client.post(f"/api/v1/orders/{order_id}/purge", json={})

    await client.post("/login", data={"key": OPERATOR}, headers={"Origin": "http://relay.test"})
    page = await client.get(f"/orders/{order_id}")
    assert page.status_code == 200
    assert "personal data removed on" in page.text


async def test_a_backlog_of_years_goes_in_one_run(relay: Relay, database: Database, database_url: str) -> None:

    await fill(database_url, 3_000, 50)
    await run(database, "UPDATE orders SET updated_at = updated_at - interval '3 years'")
    await run(database, "UPDATE deliveries SET received_at = received_at - interval '3 years'")
    await relay.poller().purge()
    (left,) = await run(database, "SELECT count(*) AS n FROM orders WHERE state = 'closed' AND purged_at IS NULL")
    (still,) = await run(
        database,
        "SELECT count(*) AS n FROM deliveries d JOIN orders o ON o.id = d.order_id WHERE d.body = '' "
        "AND o.state <> 'closed'",
    )
    (words,) = await run(
        database, "SELECT count(*) AS n FROM order_search WHERE words @@ CAST('''example'':*' AS tsquery)"
    )
    (events,) = await run(database, "SELECT count(*) AS n FROM order_events WHERE actor = 'upkeep'")
    assert (left.n, still.n, words.n, events.n) == (0, 0, 50, 3_000)
