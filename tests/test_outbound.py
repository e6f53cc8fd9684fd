"""The way out: what is known after each way in which a call can fail, over real connections of loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import SecretStr

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import CallFailed, ConfigurationError, NotSent, Rejected, Unknown
from reward_relay.outbound import (
    INNER_ATTEMPTS,
    KEPT_ANSWER_CHARS,
    MAX_ANSWER_BYTES,
    MAX_WAIT_S,
    Answer,
    Caller,
    Outbound,
    bounded_wait,
    failure_of,
    retry_after,
)
from support.far_servers import (
    Behaviour,
    answers,
    answers_by_half,
    far_server,
    hangs_up,
    resets,
    stalls,
    talks_nonsense,
)


@asynccontextmanager
async def calling(url: str, timeout_s: float = 5.0) -> AsyncIterator[Caller]:
    """A caller of this address over the real transport."""
    outbound = Outbound(timeout_s=timeout_s)
    try:
        yield outbound.caller("the vendor", url)
    finally:
        await outbound.close()


def post(caller: Caller, body: Any = None) -> OutboundRequest:
    """A request with an effect."""
    return OutboundRequest("POST", caller.url("orders"), json=body or {"po": "RR-1"})


def read(caller: Caller) -> OutboundRequest:
    """A request without one."""
    return OutboundRequest("GET", caller.url("orders"))


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """An address where a port is taken and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def answer(status: int, **headers: str) -> Answer:
    """An answer without a body."""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


# What a status says.


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_is_no_failure(status: int) -> None:
    assert failure_of("the vendor", answer(status)) is None


VERDICTS: dict[type[CallFailed], list[int]] = {
    Rejected: [300, 301, 307, 400, 401, 403, 404, 409, 410, 422],
    NotSent: [429],
    Unknown: [408, 500, 502, 503, 504, 599],
}


@pytest.mark.parametrize(
    ("status", "verdict"), [(status, verdict) for verdict, found in VERDICTS.items() for status in found]
)
def test_every_other_status_has_one_verdict(status: int, verdict: type[CallFailed]) -> None:
    failure = failure_of("the vendor", answer(status))
    assert type(failure) is verdict
    assert failure.status == status
    assert "the vendor" in failure.detail
    assert str(status) in failure.detail


def test_a_redirect_is_a_wrong_address_in_the_configuration() -> None:
    failure = failure_of("the vendor", answer(301))
    assert failure is not None
    assert "address in the configuration" in failure.detail


@pytest.mark.parametrize("status", [429, 503, 408])
def test_an_answer_may_say_how_long_to_wait(status: int) -> None:
    failure = failure_of("the vendor", answer(status, retry_after="7"))
    assert failure is not None
    assert failure.retry_after_s == 7


WAITS: dict[float | None, list[str]] = {
    0: ["0", "-5", "Sun, 06 Nov 1994 08:49:37 GMT"],
    30: [" 30 ", "30.0"],
    MAX_WAIT_S: ["inf", "-inf", "nan", "1e9"],
    None: ["soon", "", "\x00", "Mon, 99 Foo 2020", f"Mon, 01 Jan 2024 00:00:00 +{'9' * 30}"],
}


@pytest.mark.parametrize(("value", "seconds"), [(value, wait) for wait, found in WAITS.items() for value in found])
def test_retry_after_is_understood_and_bounded(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_may_be_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    wait = retry_after({"retry-after": at})
    assert wait is not None
    assert 60 < wait <= 100


@given(some.one_of(some.text(), some.floats().map(str), some.datetimes().map(format_datetime)))
def test_no_retry_after_breaks_us(value: str) -> None:
    wait = retry_after({"retry-after": value})
    assert wait is None or 0 <= wait <= MAX_WAIT_S


@given(some.floats())
def test_a_wait_is_always_between_nothing_and_a_day(seconds: float) -> None:
    assert 0 <= bounded_wait(seconds) <= MAX_WAIT_S


# What an exception says.


def caused(error: Exception, by: Exception) -> Exception:
    """`error` as httpx-aiohttp raises it, from aiohttp's own."""
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (httpx.ConnectError("refused"), NotSent),
        (httpx.ConnectTimeout("slow"), NotSent),
        (httpx.PoolTimeout("busy"), NotSent),
        (httpx.UnsupportedProtocol("gopher"), NotSent),
        (httpx.InvalidURL("no"), NotSent),
        (httpx.ReadTimeout("slow"), Unknown),
        (httpx.WriteError("broke"), Unknown),
        (httpx.ReadError("broke"), Unknown),
        (httpx.RemoteProtocolError("nonsense"), Unknown),
        (TimeoutError(), Unknown),
        (ConnectionResetError(), Unknown),
        (ValueError("a bug of ours"), Unknown),
        (caused(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError()), Unknown),
        (caused(httpx.ConnectTimeout("x"), aiohttp.ClientOSError()), Unknown),
        (caused(httpx.ConnectTimeout("x"), aiohttp.ConnectionTimeoutError()), NotSent),
        (caused(httpx.ReadTimeout("x"), aiohttp.SocketTimeoutError()), Unknown),
    ],
)
def test_only_what_surely_never_left_is_not_sent(error: Exception, verdict: type[CallFailed]) -> None:
    assert type(failure_of("the vendor", error)) is verdict


def test_a_verdict_stays_what_it_is() -> None:
    failure = Rejected("no")
    assert failure_of("the vendor", failure) is failure


# What real connections do.


@pytest.mark.parametrize("behave", [hangs_up, resets, answers_by_half, talks_nonsense])
async def test_a_request_that_left_without_a_whole_answer_is_unknown_and_was_sent_once(behave: Behaviour) -> None:
    async with far_server(behave) as far, calling(far.url) as caller:
        with pytest.raises(Unknown) as failure:
            await caller.send(post(caller))
    assert type(failure.value) is Unknown
    assert len(far.requests) == 1


@pytest.mark.parametrize("behave", [hangs_up, resets, answers_by_half])
async def test_the_same_on_a_connection_that_has_worked_before(behave: Behaviour) -> None:
    async with far_server(answers(), behave) as far, calling(far.url) as caller:
        await caller.send(post(caller))
        with pytest.raises(Unknown):
            await caller.send(post(caller))
    assert len(far.requests) == 2


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "GET"])
async def test_no_method_makes_a_call_repeat_what_may_have_arrived(method: str) -> None:
    async with far_server(hangs_up) as far, calling(far.url) as caller:
        with pytest.raises(Unknown):
            await caller.send(OutboundRequest(method, caller.url("orders/1")))
    assert len(far.requests) == 1


async def test_a_party_that_never_answers_is_unknown_and_was_asked_once() -> None:
    async with far_server(stalls) as far, calling(far.url, timeout_s=0.2) as caller:
        with pytest.raises(Unknown):
            await caller.send(post(caller))
    assert len(far.requests) == 1


async def test_an_answer_over_1_mib_is_not_read_and_unknown() -> None:
    async with far_server(answers(200, b"x" * (MAX_ANSWER_BYTES + 1))) as far, calling(far.url) as caller:
        with pytest.raises(Unknown, match="1 MiB") as failure:
            await caller.send(post(caller))
    assert failure.value.status == 200
    assert len(far.requests) == 1


async def test_an_answer_of_1_mib_is_read() -> None:
    async with far_server(answers(200, b"x" * MAX_ANSWER_BYTES)) as far, calling(far.url) as caller:
        assert len((await caller.send(post(caller))).body) == MAX_ANSWER_BYTES


async def test_a_refused_connection_was_never_sent(refusing_url: str) -> None:
    async with calling(refusing_url) as caller:
        with pytest.raises(NotSent, match="could not be reached"):
            await caller.send(post(caller))


async def test_a_failed_tls_handshake_was_never_sent() -> None:
    async with far_server(answers()) as far, calling(far.url.replace("http:", "https:")) as caller:
        with pytest.raises(NotSent):
            await caller.send(post(caller))
    assert far.requests == []


async def test_a_read_is_repeated_after_a_dropped_connection() -> None:
    async with far_server(hangs_up, answers(200, b'{"id": 1}')) as far, calling(far.url) as caller:
        assert (await caller.send(read(caller), read=True)).json() == {"id": 1}
    assert len(far.requests) == 2


async def test_a_read_is_not_repeated_for_ever() -> None:
    async with far_server(hangs_up) as far, calling(far.url) as caller:
        with pytest.raises(Unknown):
            await caller.send(read(caller), read=True)
    assert len(far.requests) == INNER_ATTEMPTS


async def test_a_redirect_is_not_followed() -> None:
    async with far_server(answers(200)) as elsewhere:
        leads_away = answers(302, b"", f"Location: {elsewhere.url}/orders")
        async with far_server(leads_away) as far, calling(far.url) as caller:
            with pytest.raises(Rejected):
                await caller.send(post(caller))
            assert (await caller.exchange(post(caller))).status == 302
    assert elsewhere.requests == []


async def test_a_refusal_carries_what_of_the_answer_may_be_kept() -> None:
    async with far_server(answers(422, b'{"error": "' + b"x" * 2000 + b'"}')) as far, calling(far.url) as caller:
        with pytest.raises(Rejected) as failure:
            await caller.send(post(caller))
    assert failure.value.status == 422
    assert failure.value.answer.startswith('{"error"')
    assert len(failure.value.answer) == KEPT_ANSWER_CHARS


async def test_what_is_sent_is_what_was_said_and_cookies_are_forgotten() -> None:
    async with far_server(answers(200, b"{}", "Set-Cookie: a=b")) as far, calling(far.url) as caller:
        request = OutboundRequest(
            "POST",
            caller.url("/orders"),
            json={"name": "Zoë"},
            headers={"X-Kind": "test"},
            secret_headers={"Authorization": SecretStr("Bearer hidden")},
        )
        await caller.send(request)
        await caller.send(request)
    head, _, body = far.requests[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /orders HTTP/1.1\r\n")
    assert body == '{"name":"Zoë"}'.encode()
    for line in (b"authorization: bearer hidden", b"x-kind: test", b"content-type: application/json"):
        assert line in head.lower()
    assert b"cookie" not in head.lower()
    assert "hidden" not in f"{request!r} {request.shown()}"


def failing(times: int, calls: list[httpx.Request]) -> Callable[[], httpx.AsyncBaseTransport]:
    """A transport that cannot connect the first `times`."""

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) <= times:
            raise httpx.ConnectError("refused")
        return httpx.Response(201, json={})

    return lambda: httpx.MockTransport(handle)


async def test_what_was_never_sent_is_repeated_even_with_an_effect() -> None:
    calls: list[httpx.Request] = []
    caller = Outbound(transport=failing(2, calls)).caller("the vendor", "http://far.test")
    assert (await caller.send(post(caller))).status == 201
    assert len(calls) == 3


async def test_what_can_never_be_sent_is_given_up() -> None:
    calls: list[httpx.Request] = []
    caller = Outbound(transport=failing(99, calls)).caller("the vendor", "http://far.test")
    with pytest.raises(NotSent):
        await caller.send(post(caller))
    assert len(calls) == INNER_ATTEMPTS


async def test_a_429_is_not_repeated_inside_the_call() -> None:
    async with far_server(answers(429, b"", "Retry-After: 9")) as far, calling(far.url) as caller:
        with pytest.raises(NotSent) as failure:
            await caller.send(post(caller))
    assert failure.value.retry_after_s == 9
    assert len(far.requests) == 1


@pytest.mark.parametrize("url", ["ftp://far.test", "far.test", "", "http://", "/orders"])
def test_only_an_http_address_makes_a_caller(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the vendor"):
        Outbound().caller("the vendor", url)


async def test_many_calls_at_a_time_share_one_client() -> None:
    async with far_server(answers()) as far, calling(far.url) as caller:
        found = await asyncio.gather(*(caller.send(post(caller)) for _ in range(20)))
    assert [each.status for each in found] == [200] * 20
    assert len(far.requests) == 20
