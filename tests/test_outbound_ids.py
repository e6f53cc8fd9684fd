"""Ids and links that payloads and answers bring along: whatever they say, a call stays where its adapter meant it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from reward_relay.contracts import Ending, Item, RewardOrder, clean_text
from reward_relay.errors import CallFailed, Rejected
from reward_relay.outbound import Outbound
from reward_relay.platforms import PLATFORMS
from reward_relay.states import Outcome
from reward_relay.vendors import VENDORS
from support.far_servers import FarServer, answers, far_server

STRAYS = [".", ".."]
IDS = [
    "../admin",
    "..\\admin",
    "a/../../b",
    "x?y=1",
    "x#y",
    "%2e%2e",
    "%2e%2e%2fadmin",
    "%252e%252e",
    "..;",
    "x;y=1",
    "a b",
    "+",
    "&x=y",
    "//evil.test",
    "http://evil.test/",
    "@evil.test",
    "me:pw@evil.test",
    "a\r\nX-Evil: 1\r\n\r\nGET /admin HTTP/1.1",
    "é😀\u202e",
    "\ud800",
    "\x00x",
    "a" * 200,
]
SETTINGS: dict[str, dict[str, Any]] = {
    "influitive": {"api_token": "token-1", "org_id": "org-1"},
    "roster": {"api_token": "token-1"},
    "talkable": {"api_token": "token-1", "site_slug": "shop", "close": "custom_property"},
    "voucherify": {"app_id": "app-1", "app_token": "token-1"},
}
WAYS: dict[str, dict[str, Any]] = {
    "voucherify by order": {"close": "order_status"},
    "voucherify by metadata": {"close": "customer_metadata"},
    "roster by a path of its own": {"close_path": "/v2/{status}/{external_id}/done?id={external_id}"},
}
FULFILLED, REFUSED = Ending(Outcome.FULFILLED), Ending(Outcome.REFUSED, "no")


@asynccontextmanager
async def platform(name: str, way: str = "") -> AsyncIterator[tuple[Any, FarServer]]:
    """A platform's adapter, and the server that it calls."""
    member, outbound = PLATFORMS[name], Outbound(timeout_s=5)
    build: Any = member.build
    async with far_server(answers(200, b"{}")) as far:
        url = {"api_url": f"{far.url}/base"}
        given = {"platform": name, "secrets": ["secret-1"], **url, **SETTINGS[name], **WAYS.get(way, {})}
        try:
            yield build("shop", member.settings.model_validate(given), outbound), far
        finally:
            await outbound.close()


@asynccontextmanager
async def vendor(name: str) -> AsyncIterator[tuple[Any, FarServer]]:
    """A vendor's adapter, and the server that it calls: first for a token."""
    member, outbound = VENDORS[name], Outbound(timeout_s=5)
    build: Any = member.build
    token, order = answers(200, b'{"Value": "t-1", "ExpiresIn": 999}'), answers(200, b'{"Status": "Pending"}')
    async with far_server(token, order) as far:
        given = {"kind": name, "base_url": f"{far.url}/base", "email": "a@b.test", "access_token": "key-1"}
        try:
            yield build("shop", member.settings.model_validate(given), outbound), far
        finally:
            await outbound.close()


def reward(found: str) -> RewardOrder:
    """A reward with this id wherever an id can be."""
    found = str(clean_text(found))
    ids = {"order_id": found, "customer_id": found, "email": found if "@" in found else f"{found}@", "reason": found}
    return RewardOrder(source="shop", external_id=found, items=(Item(sku="A"),), reference=ids)


def path_of(request: bytes) -> str:
    """The path of the one request, which has no headers but ours, and nothing after it."""
    head, _, _ = request.partition(b"\r\n\r\n")
    line, *headers = head.decode("ascii").split("\r\n")
    assert not any(each.lower().startswith("x-evil") for each in headers)
    assert sum(each.lower().startswith("host:") for each in headers) == 1
    _, target, version = line.split(" ")
    assert version == "HTTP/1.1" and target.startswith("/base/")
    return target.partition("?")[0]


CALLS = [
    ("influitive", "", FULFILLED, 3),
    ("influitive", "", REFUSED, 3),
    ("roster", "", FULFILLED, 4),
    ("roster", "roster by a path of its own", REFUSED, 4),
    ("talkable", "", FULFILLED, 3),
    ("voucherify", "", REFUSED, 4),
    ("voucherify", "voucherify by order", FULFILLED, 4),
    ("voucherify", "voucherify by metadata", FULFILLED, 4),
]
"""Platform, way of closing, end; and at which step of the path the id stands."""


@pytest.mark.parametrize("found", IDS + STRAYS)
@pytest.mark.parametrize(("name", "way", "ending", "step"), CALLS)
async def test_a_closing_call_stays_on_its_path(name: str, way: str, ending: Ending, step: int, found: str) -> None:
    given = reward(found)
    meant = given.reference["email"] if name == "talkable" else given.external_id
    async with platform(name, way) as (adapter, far):
        if meant in STRAYS:
            with pytest.raises(Rejected, match="nothing was sent"):
                await adapter.close(given, ending, again=False)
            assert far.requests == []
            return
        await adapter.close(given, ending, again=False)
    (request,) = far.requests
    plain, strange = path_of(request).split("/"), adapter.preview_close(reward("A1@"), ending)
    usual = httpx.URL(strange.url).path.split("/")
    assert [*plain[:step], *plain[step + 1 :]] == [*usual[:step], *usual[step + 1 :]]
    assert unquote(plain[step]) == meant


@pytest.mark.parametrize("found", IDS + STRAYS)
async def test_asking_for_a_person_stays_on_its_path(found: str) -> None:
    given = reward(found)
    async with platform("voucherify") as (adapter, far):
        if found in STRAYS:
            with pytest.raises(Rejected, match="nothing was sent"):
                await adapter.enrich(given)
            assert far.requests == []
        else:
            await adapter.enrich(given)
            assert unquote(path_of(far.requests[0]).removeprefix("/base/v1/customers/")) == given.external_id


@pytest.mark.parametrize("found", [each for each in IDS if each != "\ud800"] + STRAYS)
@pytest.mark.parametrize("name", VENDORS)
async def test_checking_an_order_stays_on_its_path(name: str, found: str) -> None:
    async with vendor(name) as (adapter, far):
        if found in STRAYS:
            with pytest.raises(Rejected, match="nothing was sent"):
                await adapter.check(found)
            assert len(far.requests) == 1  # for the token
        else:
            await adapter.check(found)
            path = path_of(far.requests[1])
            assert path.count("/") == path_of(far.requests[0]).count("/") + 1
            assert unquote(path.rpartition("/")[2]) == found


LINKS = [
    "http://evil.test/base/reward_redemptions?page=2",
    "//evil.test/base/reward_redemptions?page=2",
    "https://127.0.0.1/base/reward_redemptions?page=2",
    "http://me:pw@HERE/base/reward_redemptions?page=2",
    "http://HERE@evil.test/base/reward_redemptions?page=2",
    "http://HERE\\@evil.test/base/x",
    "http://HERE/admin",
    "/admin?page=2",
    "../admin?page=2",
    "%2e%2e/admin?page=2",
    "/base/../admin",
    "file:///etc/passwd",
    "\r\nX-Evil: 1",
    "?page=2\r\nX-Evil: 1",
]


@pytest.mark.parametrize("link", LINKS)
async def test_a_link_in_an_answer_leads_nowhere_but_to_the_list(link: str) -> None:
    async with platform("influitive") as (adapter, far):
        here = far.url.partition("//")[2]
        page = httpx.Response(200, json={"reward_redemptions": [], "next": link.replace("HERE", here)}).content
        far.behave(answers(200, page))
        with suppress(CallFailed):
            await adapter.poll()
        assert {path_of(each) for each in far.requests} == {"/base/reward_redemptions"}
