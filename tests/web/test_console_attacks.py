"""What the console is not told by its own pages: odd characters, other sites, files with secrets, bombs."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from reward_relay.web.app import create_app
from reward_relay.web.console.views import MOST_INDENTED, pretty_body
from reward_relay.wiring import Relay
from support.relays import OPERATOR, ROSTER_TOKEN, client_of, relay_of, settings
from support.steered import Steered, accepted, roster

SAME_SITE = {"sec-fetch-site": "same-origin"}
JSON = {"X-Webhook-Token": ROSTER_TOKEN, "Content-Type": "application/json"}


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, Steered().transport) as found:
        yield found


@pytest.fixture
async def console(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that an operator has signed in with, and that says where its forms are from."""
    transport = httpx.ASGITransport(app=create_app(relay), raise_app_exceptions=False)
    headers = {"accept": "text/html", **SAME_SITE}
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.test", headers=headers) as client:
        assert (await client.post("/login", data={"key": OPERATOR})).status_code == 303
        yield client


@pytest.fixture
async def order_id(relay: Relay) -> str:
    async with client_of(relay) as client:
        return await accepted(client, "roster", roster())


# --- odd words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/orders/{}/hold", "/orders/{}/retry", "/parties/vendor:gcp/pause", "/bulk/plan", "/reconcile"]
)
async def test_a_note_may_hold_anything_that_can_be_typed(console: httpx.AsyncClient, order_id: str, path: str) -> None:
    form = {"note": "O'Brien\x00 <b>\u202e", "action": "retry", "q": "an\x00a"}
    answer = await console.post(path.format(order_id), data=form)
    assert answer.status_code in (200, 303), answer.text


async def test_an_unknown_outcome_is_refused_and_not_taken_for_another(
    console: httpx.AsyncClient, relay: Relay, order_id: str
) -> None:
    await relay.ops.hold(order_id, "alice", "")
    answer = await console.post(f"/orders/{order_id}/close", data={"outcome": "fulfiled"})
    assert answer.status_code == 422
    assert (await relay.ops.order(order_id))["state"] == "on_hold"


@pytest.mark.parametrize("time", ["0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "soon"])
async def test_a_time_that_cannot_be_compared_is_named(console: httpx.AsyncClient, relay: Relay, time: str) -> None:
    page = await console.get("/orders", params={"created_after": time})
    assert (page.status_code, "write 2026-01-31" in page.text) == (422, True)
    async with client_of(relay) as client:
        answer = await client.get("/api/v1/orders", params={"created_after": time})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


async def test_half_a_character_in_a_body_does_not_break_its_page(console: httpx.AsyncClient) -> None:
    answer = await console.post("/webhooks/roster", content=b'{"id": "\\ud800"}', headers=JSON)
    page = await console.get(f"/deliveries/{answer.json()['delivery_id']}")
    assert (page.status_code, "&#34;id&#34;: &#34;?&#34;" in page.text) == (200, True)


async def test_an_open_page_follows_what_no_event_tells(
    console: httpx.AsyncClient, relay: Relay, order_id: str
) -> None:
    found = re.search(r'hx-get="([^"]+)"', (await console.get(f"/orders/{order_id}")).text)
    assert found is not None
    assert (await console.get(found[1])).status_code == 204
    async with relay.database.transaction() as connection:
        await connection.execute(text("UPDATE orders SET reward = reward - 'recipient', purged_at = now()"))
    anew = await console.get(found[1])
    assert (anew.status_code, "personal data removed on" in anew.text) == (200, True)


# --- secrets and bombs -----------------------------------------------------------------------------------


async def test_a_file_to_compare_is_not_shown_again(console: httpx.AsyncClient) -> None:
    toml = b'[api_keys.eve]\nrole = "operator"\nkey = "a-key-that-nobody-may-see"\n'
    answer = await console.post("/routes/diff", files={"file": ("new.toml", toml)})
    assert "a-key-that-nobody-may-see" not in answer.text


def test_nesting_does_not_become_hundreds_of_megabytes() -> None:
    block = "[" * 900 + "1" + "]" * 900
    assert len(pretty_body(f"[{','.join([block] * 500)}]")) < MOST_INDENTED
    assert pretty_body('{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
