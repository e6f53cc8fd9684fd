"""The console in a real browser: every action once, live pages, keyboard, phone and desktop, light and dark."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from reward_relay.sandbox.script import CONFIGURATION, ROSTER
from reward_relay.sandbox.senders import influitive_redemption, roster, roster_order
from support.browser import browser_page
from support.commands import commands, free_port, ready
from support.relays import until

OPERATOR, VIEWER = "demo-operator-key", "demo-viewer-key-01"
VIEWERS_KEY = f'[api_keys.vera]\nrole = "viewer"\nkey = "{VIEWER}"\n'
NEW_ROUTES = """
[[routes]]
name = "everything"
vendor = "gcp"
product = "CVS"
value = 5
"""


@dataclass
class Console:
    """A relay without a worker (nothing moves unless the test does it), the sandbox, and a way to send to both."""

    address: str
    sandbox: str
    client: httpx.AsyncClient

    async def send(self, order_id: str = "R-1", **changes: str) -> str:
        """A reward of Roster's; returns the order's id."""
        hook = roster(roster_order(order_id, **changes), ROSTER)
        answer = await self.client.post(
            hook.url(f"{self.address}/webhooks/roster"), content=hook.body, headers=hook.headers
        )
        return str(answer.json()["order_id"])

    async def order(self, order_id: str) -> dict[str, str]:
        """An order as REST tells it."""
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        found: dict[str, str] = (
            await self.client.get(f"{self.address}/api/v1/orders/{order_id}", headers=headers)
        ).json()
        return found


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[Console]:
    with free_port() as one, free_port() as other:
        relay, sandbox = f"http://127.0.0.1:{one}", f"http://127.0.0.1:{other}"
    text = CONFIGURATION.format(relay=relay, sandbox=sandbox).replace(
        "[sources.talkable]", f"{VIEWERS_KEY}\n[sources.talkable]"
    )
    async with httpx.AsyncClient(timeout=30) as client:
        with commands(tmp_path, database_url, text) as start:
            start("sandbox", "--port", str(other))
            start("serve", "--port", str(one))
            await ready(client, sandbox, "/sandbox/state")
            await ready(client, relay)
            yield Console(relay, sandbox, client)


async def sign_in(page: Page, console: Console, key: str = OPERATOR, to: str = "/") -> None:
    """Sign in, and come out at `to`."""
    await page.goto(f"{console.address}{to}")
    await expect(page).to_have_url(re.compile("/login"))
    await page.get_by_label("Your key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(f"{console.address}{to}")


async def act(page: Page, action: str, **fields: str) -> None:
    """Open an action's form, fill it in, and send it."""
    form = page.locator(
        "details", has=page.locator("summary .button, summary.button", has_text=re.compile(f"^{action}$"))
    )
    await form.locator("summary").click()
    for label, value in fields.items():
        await form.get_by_label(re.compile(label, re.IGNORECASE)).fill(value)
    await form.get_by_role("button", name=action).click()


async def test_every_action_on_an_order(console: Console) -> None:
    order_id = await console.send()
    async with browser_page() as page:
        await sign_in(page, console, to=f"/orders/{order_id}")
        await act(page, "Retry", note="again, please")
        await expect(page.locator(".timeline")).to_contain_text("again, please")
        await act(page, "Hold", note="address looks wrong")
        await expect(page.locator(".banner.warning")).to_contain_text("address looks wrong")
        await expect(page.locator("header .state")).to_have_text("on hold")
        await act(page, "Release", note="customer confirmed")
        await expect(page.locator("header .state")).to_have_text("received")
        await act(page, "Refuse", message="Out of stock", note="none left")
        await expect(page.locator("header .outcome")).to_have_text("refused")
        await act(page, "Close", note="told by phone")
        await expect(page.locator("header .state")).to_have_text("closed")
        await expect(page.locator(".actions")).to_contain_text("an end is final")
    order = await console.order(order_id)
    assert (order["state"], order["outcome"], order["message"]) == ("closed", "refused", "Out of stock")


async def test_what_changes_elsewhere_shows_without_a_reload_and_an_open_form_is_kept(console: Console) -> None:
    order_id = await console.send()
    async with browser_page() as page:
        await sign_in(page, console, to=f"/orders/{order_id}")
        await page.locator("summary", has_text="Refuse").click()
        note = page.locator("details[open]").get_by_label("Note")
        await note.fill("half a senten")
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        held = await console.client.post(
            f"{console.address}/api/v1/orders/{order_id}/hold", json={"note": "elsewhere"}, headers=headers
        )
        assert held.status_code == 200
        await page.wait_for_timeout(5000)
        await expect(note).to_have_value("half a senten")
        await page.locator("summary", has_text="Refuse").click()
        await page.locator("h2").first.click()
        await expect(page.locator("header .state")).to_have_text("on hold")


async def test_what_is_not_allowed_any_more_says_why_on_the_orders_page(console: Console) -> None:
    order_id = await console.send()
    async with browser_page() as page:
        await sign_in(page, console, to=f"/orders/{order_id}")
        await page.locator("summary", has_text="Hold").click()
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        await console.client.post(f"{console.address}/api/v1/orders/{order_id}/hold", json={}, headers=headers)
        await page.locator("details[open]").get_by_role("button", name="Hold").click()
        await expect(page.get_by_role("alert")).to_contain_text("cannot be held: it is on hold")


async def test_orders_are_found_filtered_and_worked_on_together(console: Console) -> None:
    for number, name in enumerate(("Ana Diaz", "Ben Okafor", "Chloé Rossi")):
        await console.send(f"R-{number}", name=name, email=f"{number}@example.com")
    async with browser_page() as page:
        await sign_in(page, console)
        await page.keyboard.press("/")
        await page.keyboard.type("chloe ros")
        await page.keyboard.press("Enter")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody")).to_contain_text("Chloé Rossi")
        await page.get_by_role("link", name="Orders", exact=True).click()
        await page.get_by_label("State").select_option("received")
        await expect(page).to_have_url(re.compile("state=received"))
        await expect(page.locator("tbody tr")).to_have_count(3)
        await page.get_by_label("Note").fill("vendor is back")
        await page.get_by_role("button", name="Plan a retry").click()
        await expect(page.locator("h1")).to_have_text("Plan: retry 3 orders")
        await page.get_by_role("button", name="Retry these 3").click()
        await expect(page.locator("h1")).to_have_text("3 done")


async def test_a_bulk_release(console: Console) -> None:
    order_id = await console.send()
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    await console.client.post(
        f"{console.address}/api/v1/orders/{order_id}/hold", json={"note": "wait"}, headers=headers
    )
    async with browser_page() as page:
        await sign_in(page, console)
        await page.get_by_role("link", name="1 order on hold").click()
        await page.get_by_role("button", name="Plan a release").click()
        await page.get_by_role("button", name="Release these 1").click()
        await expect(page.locator("h1")).to_have_text("1 done")
    assert (await console.order(order_id))["state"] == "received"


async def test_a_quarantined_delivery_is_explained_tried_and_replayed(console: Console) -> None:
    hook = roster({"event": "reward_redeemed"}, ROSTER)
    await console.client.post(hook.url(f"{console.address}/webhooks/roster"), content=hook.body, headers=hook.headers)
    async with browser_page() as page:
        await sign_in(page, console)
        await page.get_by_role("link", name="1 delivery not understood").click()
        await page.locator("tbody a").first.click()
        await expect(page.locator(".banner.warning")).to_contain_text("replay")
        await page.get_by_role("link", name="Try it on the present routes").click()
        await page.get_by_role("button", name="What would become of it?").click()
        await expect(page.locator("#result h2")).to_have_text("Quarantined")
        await page.go_back()
        await page.go_back()
        await act(page, "Replay")
        await expect(page.locator("header .verdict")).to_have_text("quarantined")


async def test_a_payload_is_tried_and_shows_the_vendors_exact_request(console: Console) -> None:
    body = roster(roster_order("R-9"), ROSTER).body.decode()
    async with browser_page() as page:
        await sign_in(page, console, to="/routes")
        await page.get_by_role("link", name="Try a payload").click()
        await page.get_by_label("Source").select_option("roster")
        await page.get_by_label("The webhook's body").fill(body)
        await page.get_by_role("button", name="What would become of it?").click()
        await expect(page.locator("pre").first).to_contain_text('"ProductId": "TUMBLER"')
        await expect(page.locator("main")).not_to_contain_text(ROSTER)


async def test_another_configuration_is_compared(console: Console) -> None:
    await console.send()
    async with browser_page() as page:
        await sign_in(page, console, to="/routes")
        await page.get_by_role("link", name="Compare with a new file").click()
        await page.get_by_label("or its text").fill(NEW_ROUTES)
        await page.get_by_role("button", name="Compare").click()
        await expect(page.locator("#result h2")).to_have_text("1 of 1 rewards would have gone otherwise")
        await expect(page.locator("main")).to_contain_text("parcels → everything")
        await page.get_by_label("or its text").fill("[[routes]]\nname = ")
        await page.get_by_role("button", name="Compare").click()
        await expect(page.locator("main")).to_contain_text("The new configuration has mistakes")


async def test_a_party_is_paused_and_resumed(console: Console) -> None:
    async with browser_page() as page:
        await sign_in(page, console, to="/parties")
        card = page.locator(".party", has_text="vendor:gcp")
        await card.locator("summary").click()
        await card.get_by_label("Note").fill("invoice dispute")
        await card.get_by_role("button", name="Pause").click()
        await expect(card.locator(".banner")).to_contain_text("invoice dispute")
        await page.get_by_role("link", name="Overview").click()
        await expect(page.locator(".needs li.critical")).to_contain_text("vendor:gcp is paused")
        await page.goto(f"{console.address}/parties")
        await card.locator("summary").click()
        await card.get_by_role("button", name="Resume").click()
        await expect(card.locator(".health")).to_have_text("coming back")


async def test_reconciliation_is_run_and_repaired(console: Console) -> None:
    redemption = influitive_redemption(771900)
    put = await console.client.post(f"{console.sandbox}/sandbox/redemptions", json=redemption)
    assert put.status_code < 300, put.text
    async with browser_page() as page:
        await sign_in(page, console, to="/reconcile")
        await page.get_by_role("button", name="Compare now").click()
        await expect(page.locator("tbody")).to_contain_text("missing here")
        await page.get_by_role("button", name="Repair these 1").click()
        await expect(page.locator("main")).to_contain_text("Repaired: 1 done")

    async def taken() -> bool:
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        found = await console.client.get(f"{console.address}/api/v1/orders?q=771900", headers=headers)
        return len(found.json()["items"]) == 1

    await until(taken)


async def test_a_viewer_sees_everything_and_finds_no_button(console: Console) -> None:
    order_id = await console.send()
    async with browser_page() as page:
        await sign_in(page, console, VIEWER)
        for path in ("/", "/orders", f"/orders/{order_id}", "/deliveries", "/routes", "/parties", "/reconcile"):
            await page.goto(f"{console.address}{path}")
            forms = await page.locator("form[method=post]:not(.who)").count()
            assert (path, forms) == (path, 0)
        await page.get_by_role("button", name="Sign out").click()
        await page.goto(f"{console.address}/orders")
        await expect(page).to_have_url(re.compile("/login"))


SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]


async def test_no_page_is_wider_than_the_screen(console: Console) -> None:
    order_id = await console.send(name="Wolfeschlegelsteinhausenbergerdorff" * 3)
    for width, scheme in SCREENS:
        async with browser_page(viewport={"width": width, "height": 844}, color_scheme=scheme) as page:
            await sign_in(page, console)
            for path in ("/", "/orders", f"/orders/{order_id}", "/deliveries", "/routes", "/routes/try", "/parties"):
                await page.goto(f"{console.address}{path}")
                inner, needed = await page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
                assert (width, path, needed) == (width, path, inner)
