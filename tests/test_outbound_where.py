"""Where calls lead: to the address that was checked, below the party's own, and nowhere by the environment's wish."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
from pydantic import SecretStr

from reward_relay.connections import PublicResolver
from reward_relay.contracts import OutboundRequest
from reward_relay.errors import ConfigurationError, NotSent, Rejected
from reward_relay.outbound import Caller, Outbound
from support.far_servers import answers, far_server

PUBLIC, ELSEWHERE = "93.184.215.14", "127.0.0.2"


@asynccontextmanager
async def calling(url: str, *listed: str) -> AsyncIterator[Caller]:
    """A caller of this address over the real transport; the `listed` hosts may be private."""
    outbound = Outbound(timeout_s=5.0, private_hosts=frozenset(listed))
    try:
        yield outbound.caller("the vendor", url)
    finally:
        await outbound.close()


def order(caller: Caller, path: str = "orders") -> OutboundRequest:
    return OutboundRequest("POST", caller.url(path), json={"po": "RR-1"})


class Names:
    """A resolver that a test steers: what every name leads to, one answer after the other, the last again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, ...]] = [()]
        self.asked: list[str] = []

    def lead_to(self, *answers: tuple[str, ...]) -> None:
        """Each answer is the addresses of one look-up; none: the name does not resolve."""
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[dict[str, Any]]:
        """As aiohttp asks."""
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not found:
            raise OSError(f"{host}: name or service not known")
        rest = {"hostname": host, "port": port, "proto": 0, "flags": 0}
        return [{**rest, "host": each, "family": socket.AF_INET6 if ":" in each else socket.AF_INET} for each in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """In place of the system's."""
    found = Names()
    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", lambda _, *given: found.resolve(*given))
    return found


# Where a name may lead.

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "0.0.0.0",
    "100.64.0.1",
    "::1",
    "fe80::1%eth0",
    "64:ff9b::7f00:1",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_public_name_may_not_lead_to_a_private_address(address: str, names: Names) -> None:
    names.lead_to((PUBLIC, address))
    with pytest.raises(PermissionError, match="private_hosts"):
        await PublicResolver(frozenset()).resolve("api.example.com", 443)
    for spelling in ("API.example.com", "api.example.com."):
        assert len(await PublicResolver(frozenset({"api.example.com"})).resolve(spelling, 443)) == 2
    assert await PublicResolver(frozenset()).resolve("localhost", 443)


async def test_a_public_name_leads_to_public_addresses(names: Names) -> None:
    names.lead_to((PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"))
    assert len(await PublicResolver(frozenset()).resolve("api.example.com", 443)) == 2


@pytest.mark.parametrize(("addresses", "why"), [((), "not known"), (("127.0.0.1",), "list it in private_hosts")])
async def test_a_name_without_a_permitted_address_was_never_sent(
    addresses: tuple[str, ...], why: str, names: Names
) -> None:
    names.lead_to(addresses)
    async with far_server(answers()) as far, calling(far.url.replace("127.0.0.1", "api.example.com")) as caller:
        with pytest.raises(NotSent, match=why):
            await caller.send(order(caller))
    assert far.requests == []


async def test_a_refused_name_is_not_asked_for_again_at_once(names: Names) -> None:
    names.lead_to(("127.0.0.1",))
    async with calling("http://api.example.com") as caller:
        with pytest.raises(NotSent):
            await caller.send(order(caller))
    assert names.asked == ["api.example.com"]


async def test_what_is_connected_to_is_what_was_checked(names: Names) -> None:
    """DNS rebinding: the check sees a public address, and who asks once more would get a private one."""
    names.lead_to((PUBLIC,), ("127.0.0.1",))
    async with far_server(answers()) as far, calling(far.url.replace("127.0.0.1", "api.example.com")) as caller:
        with pytest.raises(AssertionError, match=f"wants to connect to {PUBLIC}"):  # the test suite lets nothing out
            await caller.send(order(caller))
    assert names.asked == ["api.example.com"]
    assert far.requests == []


async def test_a_name_that_moves_is_followed_only_after_it_was_checked_again(names: Names) -> None:
    names.lead_to(("127.0.0.1",), (ELSEWHERE,))
    async with far_server(answers(200, b"{}", "Connection: close")) as far:
        url = far.url.replace("127.0.0.1", "vendor.test")
        async with calling(url, "vendor.test") as caller:
            for _ in range(3):
                await caller.send(order(caller))
        assert names.asked == ["vendor.test"]
        async with calling(url) as caller:
            with pytest.raises(NotSent, match="private_hosts"):
                await caller.send(order(caller))
    assert len(far.requests) == 3


# What may be configured.


@pytest.mark.parametrize("url", ["ftp://far.test", "far.test", "", "http://", "/orders", "http://me:pw@far.test"])
def test_only_an_http_address_makes_a_caller(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the vendor") as failure:
        Outbound().caller("the vendor", url)
    assert "pw" not in str(failure.value)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[::ffff:a9fe:a9fe]", "0.0.0.0", "2130706433", "0x7f.1", "224.0.0.1"]
)
def test_special_addresses_and_odd_spellings_make_no_caller(host: str) -> None:
    with pytest.raises(ConfigurationError):
        Outbound().caller("the vendor", f"http://{host}/latest")


def test_a_listed_address_makes_one() -> None:
    outbound = Outbound(private_hosts=frozenset({"169.254.169.254", "[FE80::1]"}))
    assert outbound.caller("the vendor", "http://169.254.169.254").party
    assert outbound.caller("the vendor", "http://[fe80::1]").party


# What payloads and answers may say.

BASE = "http://127.0.0.1:1/api"
OWN = [
    BASE,
    f"{BASE}/",
    f"{BASE}/orders/1",
    f"{BASE}/orders/%2F..%2Fx",
    f"{BASE}/a?next=http://evil.test/../x",
    f"{BASE}/...",
    f"{BASE}?x",
]
STRAY = [
    "http://127.0.0.1:1/",
    "http://127.0.0.1:1/apis",
    "http://127.0.0.1:1/api/../admin",
    f"{BASE}/orders/..",
    f"{BASE}/orders/.",
    f"{BASE}/orders/%2e%2E/x",
    f"{BASE}/orders/..\\x",
    "https://127.0.0.1:1/api/x",
    "http://127.0.0.1:2/api/x",
    "http://127.0.0.2:1/api/x",
    "http://me@127.0.0.1:1/api/x",
    "http://127.0.0.1:1@evil.test/api/x",
    "http://evil.test/api/x",
    "//evil.test/api/x",
    "/api/x",
    f"{BASE}/x\r\nHost: evil.test",
    "http://[::1/api",
    "",
]


@pytest.mark.parametrize("url", OWN)
def test_what_is_below_a_partys_address_is_reached(url: str) -> None:
    assert Outbound().caller("the vendor", BASE).reaches(url)


@pytest.mark.parametrize("url", STRAY)
async def test_nothing_else_is_called_whoever_asks_for_it(url: str) -> None:
    calls: list[httpx.Request] = []
    outbound = Outbound(transport=lambda: httpx.MockTransport(calls.append))  # type: ignore[arg-type]
    caller = outbound.caller("the vendor", BASE)
    assert not caller.reaches(url)
    with pytest.raises(Rejected, match="nothing was sent"):
        await caller.exchange(OutboundRequest("GET", url))
    assert calls == []


# What the environment says.


@pytest.fixture
def full_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[str], None]:
    """An environment that names a proxy, and passwords for everybody."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login somebody password from-netrc\n")

    def use(proxy: str) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HOME", str(tmp_path))

    return use


async def test_neither_a_proxy_nor_a_password_is_taken_from_the_environment(
    full_environment: Callable[[str], None],
) -> None:
    async with far_server(answers()) as proxy, far_server(answers()) as far:
        full_environment(proxy.url)
        async with calling(far.url) as caller:
            await caller.send(OutboundRequest("GET", caller.url("x"), secret_headers={"X-Key": SecretStr("key-1")}))
    assert proxy.requests == []
    assert b"authorization" not in far.requests[0].lower()
    assert far.requests[0].startswith(b"GET /x HTTP/1.1\r\n")
