"""The console without a browser: sign-in, sessions, every page in every state of an order, errors as pages."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from reward_relay.db.embedded import Embedded
from reward_relay.web import console
from reward_relay.web.console import session
from reward_relay.wiring import Relay
from support.outage import outage
from support.relays import CONFIGURATION, OPERATOR, VIEWER, client_of, ended, relay_of, settings, working
from support.steered import Steered, accepted, post, roster, talkable

SAME_SITE = {"Origin": "http://relay.test", "Accept": "text/html"}
BROKEN = {"Content-Type": "multipart/form-data"}
PAGES = ("/", "/orders", "/deliveries", "/routes", "/routes/try", "/routes/diff", "/parties", "/reconcile")


@pytest.fixture
async def browser(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, as a browser asks."""
    async with client_of(relay, key=None) as found:
        found.headers.update(SAME_SITE)
        yield found


async def sign_in(browser: httpx.AsyncClient, key: str = OPERATOR) -> httpx.Response:
    answer = await browser.post("/login", data={"key": key, "to": "/orders?state=on_hold&q=a"})
    assert answer.status_code == 303
    return answer


async def page(browser: httpx.AsyncClient, path: str) -> str:
    answer = await browser.get(path)
    assert (path, answer.status_code) == (path, 200), answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return answer.text


@pytest.mark.parametrize("path", [*PAGES, "/orders/R-1", "/deliveries/1", "/nowhere"])
async def test_without_a_session_every_page_leads_to_sign_in_or_is_not_there(
    browser: httpx.AsyncClient, path: str
) -> None:
    await accepted(browser, "roster", roster("R-1"))
    answer = await browser.get(path)
    if path == "/nowhere":
        assert (answer.status_code, "there is no page /nowhere" in answer.text) == (404, True)
    else:
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")
    assert "Ann" not in answer.text


async def test_sign_in_leads_back_and_the_cookie_is_kept_from_scripts_and_other_sites(
    browser: httpx.AsyncClient,
) -> None:
    first = await browser.get("/orders?state=on_hold&q=a")
    form = await browser.get(first.headers["location"])
    assert 'value="/orders?state=on_hold&amp;q=a"' in form.text
    answer = await sign_in(browser)
    assert answer.headers["location"] == "/orders?state=on_hold&q=a"
    cookie = answer.headers["set-cookie"]
    assert re.search("httponly", cookie, re.IGNORECASE)
    assert re.search("samesite=lax", cookie, re.IGNORECASE)
    assert OPERATOR not in cookie
    assert "on hold" in await page(browser, answer.headers["location"])


async def test_over_https_the_cookie_is_secure(database_url: str, tmp_path: Path) -> None:
    text_ = CONFIGURATION.replace('public_url = "http://relay.test"', 'public_url = "https://relay.test"')
    async with relay_of(settings(tmp_path, text_), database_url) as relay, client_of(relay, key=None) as browser:
        answer = await browser.post("/login", data={"key": OPERATOR}, headers=SAME_SITE)
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["", "wrong", OPERATOR[:-1], "operator"])
async def test_a_wrong_key_is_refused_on_the_form(browser: httpx.AsyncClient, key: str) -> None:
    answer = await browser.post("/login", data={"key": key})
    assert (answer.status_code, "none of [api_keys]" in answer.text) == (401, True)
    assert "set-cookie" not in answer.headers


async def test_without_any_key_the_form_says_how_to_open_the_console(database_url: str, tmp_path: Path) -> None:
    start, end = CONFIGURATION.index("[api_keys.alice]"), CONFIGURATION.index("[sources.talkable]")
    keyless = settings(tmp_path, CONFIGURATION[:start] + CONFIGURATION[end:])
    async with relay_of(keyless, database_url) as relay, client_of(relay, key=None) as browser:
        assert "add [api_keys.NAME]" in (await browser.get("/login")).text
        assert (await browser.post("/login", data={"key": ""}, headers=SAME_SITE)).status_code == 401


async def test_a_session_ends_with_its_key_its_time_or_its_signature(
    relay: Relay, browser: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_in(browser)
    cookie = browser.cookies[session.COOKIE]
    await page(browser, "/orders")
    other = settings(tmp_path, CONFIGURATION.replace(OPERATOR, "another-operator-key"))
    relay.settings = other
    assert (await browser.get("/orders")).status_code == 303
    relay.settings = settings(tmp_path)
    await page(browser, "/orders")
    for forged in (cookie[:-1], cookie.replace("alice", "vera"), "alice", "alice.x.y", "", "."):
        browser.cookies.set(session.COOKIE, forged, domain="relay.test")
        assert (forged, (await browser.get("/orders")).status_code) == (forged, 303)
    browser.cookies.set(session.COOKIE, cookie, domain="relay.test")
    monkeypatch.setattr(session, "LASTS_S", -1)
    assert (await browser.get("/orders")).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://relay.test"},
        {"Sec-Fetch-Site": "same-site"},
        {},
    ],
)
async def test_a_form_of_another_site_changes_nothing(
    relay: Relay, browser: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    order_id = await accepted(browser, "roster", roster("R-1"))
    await sign_in(browser)
    del browser.headers["Origin"]
    for path in (f"/orders/{order_id}/hold", "/parties/vendor:gcp/pause", "/logout", "/login", "/bulk/plan"):
        answer = await browser.post(path, data={"note": "x", "key": OPERATOR, "action": "retry"}, headers=headers)
        assert (path, answer.status_code) == (path, 403)
    assert (await relay.ops.order(order_id))["state"] == "received"
    assert (await browser.get("/orders")).status_code == 200


async def test_a_viewer_may_look_and_not_touch(relay: Relay, browser: httpx.AsyncClient) -> None:
    order_id = await accepted(browser, "roster", roster("R-1"))
    await sign_in(browser, VIEWER)
    for path in (*PAGES, f"/orders/{order_id}"):
        shown = await page(browser, path)
        assert (path, re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', shown)) in [
            (path, ["/logout"]),
            ("/routes/try", ["/logout", "/routes/try"]),
        ]
    posts = [f"/orders/{order_id}/{action}" for action in ("retry", "hold", "release", "refuse", "close")]
    posts += ["/bulk/plan", "/bulk/act", "/parties/vendor:gcp/pause", "/routes/diff", "/reconcile", "/reconcile/repair"]
    for path in posts:
        answer = await browser.post(path, data={"action": "retry"})
        assert (path, answer.status_code, "vera is a viewer" in answer.text) == (path, 403, True)
    assert len((await relay.ops.order(order_id))["events"]) == 1


async def test_every_page_in_every_state(relay: Relay, browser: httpx.AsyncClient, far: Steered) -> None:
    far.word = "Completed"
    async with working(relay):
        closed = await accepted(browser, "talkable", talkable())
        await ended(relay, closed)
    waiting = await accepted(browser, "roster", roster("R-1"))
    held = await accepted(browser, "roster", roster("R-2"))
    await relay.ops.hold(held, "alice", "<b>why</b>")
    await post(browser, "roster", roster("R-2", email="other@example.com"))
    await browser.post("/webhooks/roster", content=b"no JSON", headers=roster().headers)
    await relay.ops.pause("vendor:gcp", "alice", "dispute")
    await sign_in(browser)
    for path in PAGES:
        await page(browser, path)
    for order_id in (closed, waiting, held):
        shown = await page(browser, f"/orders/{order_id}")
        assert "the reward arrived" in shown
    assert "&lt;b&gt;why&lt;/b&gt;" in shown
    for delivery in (await relay.ops.deliveries({}))["items"]:
        await page(browser, f"/deliveries/{delivery['id']}")
    overview = await page(browser, "/")
    for needed in ("vendor:gcp is paused", "1 order on hold", "1 delivery not understood"):
        assert needed in overview


async def test_an_order_whose_personal_data_is_gone_still_has_its_page(
    relay: Relay, browser: httpx.AsyncClient, far: Steered
) -> None:
    far.word = "Completed"
    async with working(relay):
        order_id = await accepted(browser, "talkable", talkable())
        await ended(relay, order_id)
    async with relay.database.transaction() as connection:
        await connection.execute(text("UPDATE orders SET updated_at = now() - interval '400 days'"))
        await connection.execute(text("UPDATE deliveries SET received_at = now() - interval '400 days'"))
    await relay.poller().purge()
    await sign_in(browser)
    assert "personal data removed on" in await page(browser, f"/orders/{order_id}")
    assert "smith" not in (await page(browser, "/orders")).lower()


async def test_a_live_order_is_sent_again_only_when_something_is_new(relay: Relay, browser: httpx.AsyncClient) -> None:
    order_id = await accepted(browser, "roster", roster("R-1"))
    await sign_in(browser)
    url = re.search(r'hx-get="(/orders/[^"]*seen=[^"]*)"', await page(browser, f"/orders/{order_id}"))
    assert url
    path = url[1].replace("&amp;", "&")
    assert (await browser.get(path, headers={"HX-Request": "true"})).status_code == 204
    await relay.ops.hold(order_id, "alice", "look")
    fresh = await browser.get(path, headers={"HX-Request": "true"})
    assert (fresh.status_code, "<html" in fresh.text, "held by alice" in fresh.text) == (200, False, True)


async def test_a_live_page_whose_session_has_ended_goes_to_sign_in(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/?part=live", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"].partition("?")[0]) == (401, "/login")


async def test_mistakes_are_pages_for_people_and_json_for_programs(browser: httpx.AsyncClient) -> None:
    await sign_in(browser)
    for path, status in (("/orders/none", 404), ("/deliveries/none", 404), ("/orders?created_after=never", 422)):
        answer = await browser.get(path)
        assert (path, answer.status_code) == (path, status)
        assert answer.headers["content-type"].startswith("text/html")
    for answer in (await browser.put("/orders"), await browser.post("/routes/try", content=b"x", headers=BROKEN)):
        assert answer.status_code in (400, 405)
        assert answer.headers["content-type"].startswith("text/html")
    program = await browser.get("/api/v1/orders/none")
    assert program.json()["error"] == "unauthenticated"


async def test_while_the_database_is_away_the_pages_say_so_and_then_go_on(
    browser: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    await sign_in(browser)
    async with outage(postgres, database_url):
        answer = await browser.get("/orders")
        assert (answer.status_code, "PostgreSQL cannot be reached" in answer.text) == (503, True)
    await page(browser, "/orders")


async def test_pages_allow_nothing_from_elsewhere_and_are_not_kept(browser: httpx.AsyncClient) -> None:
    headers = (await browser.get("/login")).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    for name in ("htmx.min.js", "console.css", "console.js", "icon.svg"):
        assert (await browser.get(f"/console/{name}")).status_code == 200
    assert (await browser.get("/console/..%2fviews.py")).status_code == 404


def test_no_page_names_an_outside_address() -> None:
    files = [path for path in Path(console.__path__[0]).rglob("*") if path.suffix in (".html", ".css", ".svg")]
    assert len(files) > 20
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    found = {path.name for path in files if re.search(r"\b(https?:)?//[a-z]", path.read_text().replace(namespace, ""))}
    assert found == set()
