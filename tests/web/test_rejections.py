"""Who has to wait after wrong secrets, and who never."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from reward_relay.web import rejections
from reward_relay.web.app import create_app
from reward_relay.web.rejections import Rejections
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, OPERATOR, relay_of, settings
from support.steered import post, roster, talkable, unreachable

OUTSIDE, OTHER, INSIDE = "93.184.216.34", "93.184.216.35", "10.1.2.3"
FEW = f"rejections_per_minute = 3\n{CONFIGURATION}"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rejected(table: Rejections, host: str, times: int) -> None:
    for _ in range(times):
        table.rejected(host)


def test_an_address_waits_when_its_bucket_is_empty_and_not_longer(clock: Clock) -> None:
    table = Rejections(6, clock=clock)
    rejected(table, OUTSIDE, 5)
    assert table.wait_s(OUTSIDE) == 0
    rejected(table, OUTSIDE, 1)
    assert (table.wait_s(OUTSIDE), table.wait_s(OTHER)) == (10, 0)
    clock.now += 9.9
    assert table.wait_s(OUTSIDE) == 1
    clock.now += 0.1
    assert table.wait_s(OUTSIDE) == 0
    rejected(table, OUTSIDE, 1)
    assert table.wait_s(OUTSIDE) == 10


def test_who_has_proved_itself_does_not_wait_for_a_day(clock: Clock) -> None:
    table = Rejections(3, clock=clock)
    table.proved(OUTSIDE)
    rejected(table, OUTSIDE, 50)
    assert table.wait_s(OUTSIDE) == 0
    clock.now += rejections.PROVED_S
    rejected(table, OUTSIDE, 50)
    assert table.wait_s(OUTSIDE) > 0


@pytest.mark.parametrize("host", [INSIDE, "127.0.0.1", "::1", "fd00::1", "testclient", "", "x" * 5000])
def test_what_may_be_a_proxy_waits_only_where_the_proxies_are_known(host: str, clock: Clock) -> None:
    table = Rejections(3, clock=clock)
    rejected(table, host, 10)
    assert table.wait_s(host) == 0
    known = Rejections(3, behind_proxies=True, clock=clock)
    rejected(known, host, 10)
    assert (known.wait_s(host) > 0) == (host in (INSIDE, "127.0.0.1", "::1", "fd00::1"))


def test_of_ipv6_a_network_waits_and_ipv4_in_it_is_ipv4(clock: Clock) -> None:
    table = Rejections(3, clock=clock)
    for number in range(3):
        table.rejected(f"2606:2800:220:1::{number:x}")
    rejected(table, f"::ffff:{OUTSIDE}", 3)
    assert table.wait_s("2606:2800:220:1:ffff::9") > 0
    assert table.wait_s("2606:2800:220:2::1") == 0
    assert table.wait_s(OUTSIDE) > 0


def test_the_table_does_not_grow_with_addresses(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(rejections, "MAX_ADDRESSES", 100)
    table = Rejections(3, clock=clock)
    for number in range(1000):
        table.rejected(f"93.184.{number >> 8}.{number & 255}")
        table.proved(f"93.184.{number >> 8}.{number & 255}")
    assert (len(table._left), len(table._proved)) == (100, 100)


# --- at the doors ----------------------------------------------------------------------------------------


@asynccontextmanager
async def clients(relay: Relay) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    app, found = create_app(relay), {}
    for host in (OUTSIDE, OTHER, INSIDE):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(host, 1))
        found[host] = httpx.AsyncClient(transport=transport, base_url="http://relay.test")
    yield found
    for each in found.values():
        await each.aclose()


@pytest.fixture
async def by_host(database_url: str, tmp_path: Path) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    async with relay_of(settings(tmp_path, FEW), database_url, unreachable) as relay, clients(relay) as found:
        yield found


async def test_wrong_secrets_bar_their_address_and_nobody_else(by_host: dict[str, httpx.AsyncClient]) -> None:
    for _ in range(3):
        assert (await post(by_host[OUTSIDE], "talkable", talkable(key="wrong"))).status_code == 401
    barred = await post(by_host[OUTSIDE], "talkable", talkable(key="wrong"))
    assert (barred.status_code, barred.json()["error"]) == (429, "too_many_rejections")
    assert 1 <= int(barred.headers["retry-after"]) <= 20
    assert (await post(by_host[OTHER], "talkable", talkable())).status_code == 202
    assert (await by_host[OUTSIDE].get("/healthz")).status_code == 200


async def test_a_platform_behind_the_address_of_the_junk_is_taken_all_the_same(
    by_host: dict[str, httpx.AsyncClient],
) -> None:
    assert (await post(by_host[OUTSIDE], "roster", roster("R-1"))).status_code == 202
    for _ in range(20):
        assert (await post(by_host[OUTSIDE], "talkable", talkable(key="wrong"))).status_code == 401
        assert (await post(by_host[INSIDE], "talkable", talkable(key="wrong"))).status_code == 401
    assert (await post(by_host[OUTSIDE], "roster", roster("R-2"))).status_code == 202
    assert (await post(by_host[INSIDE], "roster", roster("R-3"))).status_code == 202


async def test_guessed_sources_and_callback_tokens_count_too(by_host: dict[str, httpx.AsyncClient]) -> None:
    answers = [await by_host[OUTSIDE].post(f"/webhooks/guess{number}") for number in range(2)]
    answers += [await by_host[OUTSIDE].post(f"/vendor-webhooks/gcp/guess{number}") for number in range(2)]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 429]


async def test_keys_have_a_bucket_of_their_own(by_host: dict[str, httpx.AsyncClient]) -> None:
    right, wrong = ({"Authorization": f"Bearer {key}"} for key in (OPERATOR, "x" * 20))
    answers = [await by_host[OUTSIDE].get("/api/v1/summary", headers=wrong) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert (await by_host[OUTSIDE].get("/api/v1/summary", headers=right)).status_code == 429
    assert (await by_host[OTHER].get("/api/v1/summary", headers=right)).status_code == 200
    assert (await post(by_host[OUTSIDE], "roster", roster())).status_code == 202


async def test_signing_in_is_tried_so_often_and_then_a_page_says_to_wait(
    by_host: dict[str, httpx.AsyncClient],
) -> None:
    headers = {"accept": "text/html", "sec-fetch-site": "same-origin"}
    tried = [await by_host[OUTSIDE].post("/login", data={"key": "guess"}, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in tried] == [401, 401, 401, 429]
    assert "come again" in tried[-1].text
    right = await by_host[OTHER].post("/login", data={"key": OPERATOR}, headers=headers)
    assert right.status_code == 303


async def test_many_guesses_at_the_same_time_are_no_more_guesses(by_host: dict[str, httpx.AsyncClient]) -> None:
    gate = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"key=wrong"
        await gate.wait()
        yield b"&payload={}"

    asked = [asyncio.create_task(by_host[OUTSIDE].post("/webhooks/talkable", content=slowly())) for _ in range(10)]
    await asyncio.sleep(0.05)
    gate.set()
    assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [401] * 3 + [429] * 7
