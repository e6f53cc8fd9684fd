"""Answers that are too long, too slow, packed, broken or somebody else's, over real connections of loopback."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reward_relay import bodies
from reward_relay.contracts import OutboundRequest
from reward_relay.errors import NotSent, Unknown
from reward_relay.outbound import MAX_ANSWER_BYTES, Caller, Outbound
from support.far_servers import Behaviour, answers, far_server, says, stalls

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = 1 << 20


@asynccontextmanager
async def calling(url: str, timeout_s: float = 5.0) -> AsyncIterator[Caller]:
    """A caller of this address over the real transport."""
    outbound = Outbound(timeout_s=timeout_s)
    try:
        yield outbound.caller("the vendor", url)
    finally:
        await outbound.close()


def order(caller: Caller) -> OutboundRequest:
    return OutboundRequest("POST", caller.url("orders"), json={"po": "RR-1"})


async def unknown(behave: Behaviour, timeout_s: float = 5.0) -> str:
    """What is said of an order whose answer is of no use; it was sent once."""
    async with far_server(behave) as far, calling(far.url, timeout_s) as caller:
        with pytest.raises(Unknown) as failure:
            await caller.send(order(caller))
    assert type(failure.value) is Unknown
    assert len(far.requests) == 1
    return str(failure.value)


def packed(megabytes: int, window: int = 31) -> bytes:
    """So many megabytes of nothing, packed."""
    packer, nothing = zlib.compressobj(9, zlib.DEFLATED, window), bytes(MEGABYTE)
    return b"".join([*(packer.compress(nothing) for _ in range(megabytes)), packer.flush()])


# Packed answers.


async def test_answers_are_asked_for_as_they_are() -> None:
    async with far_server(answers()) as far, calling(far.url) as caller:
        await caller.send(order(caller))
    assert b"accept-encoding: identity\r\n" in far.requests[0].lower()


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("X-GZIP", 31), ("deflate", 15)])
async def test_who_packs_an_answer_all_the_same_is_understood(encoding: str, window: int) -> None:
    packer = zlib.compressobj(wbits=window)
    body = packer.compress(b'{"Id": 7}') + packer.flush()
    behave = answers(200, body, f"Content-Encoding: {encoding}")
    async with far_server(behave) as far, calling(far.url) as caller:
        assert (await caller.send(order(caller))).json() == {"Id": 7}


BOMB = packed(256)
BOMBS = {
    "gzip": BOMB,
    "deflate": packed(256, 15),
    "gzip, gzip": gzip.compress(BOMB),
    "br": BOMB,
    "zstd": BOMB,
}


@pytest.mark.parametrize("encoding", BOMBS)
async def test_a_bomb_does_not_go_off(encoding: str) -> None:
    """256 MB in 260 kB, and in 1 kB packed twice: not even the first few of them are unpacked."""
    body = BOMBS[encoding]
    tracemalloc.start()
    try:
        said = await unknown(answers(200, body, f"Content-Encoding: {encoding}"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEGABYTE
    assert "1 MiB" in said or "not asked for" in said


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"plain", "broken"), (gzip.compress(b"{}", mtime=0)[:-4], "ends too early")],
    ids=["plain", "half"],
)
async def test_an_answer_that_is_packed_and_broken_is_unknown(body: bytes, why: str) -> None:
    assert why in await unknown(answers(200, body, "Content-Encoding: gzip"))


async def test_an_answer_without_a_body_is_not_broken() -> None:
    behave = answers(200, b"", "Content-Encoding: gzip")
    async with far_server(behave) as far, calling(far.url) as caller:
        assert (await caller.send(order(caller))).body == b""


@pytest.mark.parametrize(("size", "fits"), [(MAX_ANSWER_BYTES, True), (MAX_ANSWER_BYTES + 1, False)])
@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_the_limit_is_one_mebibyte_packed_or_not(size: int, fits: bool, encoding: str) -> None:
    whole = b"x" * size
    body = gzip.compress(whole) if encoding else whole

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 16_384):
            yield body[start : start + 16_384]

    if fits:
        assert await bodies.read(parts(), encoding, MAX_ANSWER_BYTES) == whole
    else:
        with pytest.raises(bodies.TooMuch):
            await bodies.read(parts(), encoding, MAX_ANSWER_BYTES)


# Answers that never end, or never begin.

ENDLESS = {
    "body": says(OK + b"\r\n", then=b"x" * 65_536),
    "chunks": says(CHUNKED, then=b"4000\r\n" + b"x" * 0x4000 + b"\r\n"),
    "header": says(OK + b"X-A: ", then=b"a" * 65_536),
    "headers": says(OK, then=b"X-A: a\r\n" * 1000),
    "trailers": says(CHUNKED + b"0\r\n", then=b"X-A: a\r\n" * 1000),
}
SLOW = {
    "nothing": stalls,
    "body by drops": says(CHUNKED, then=b"1\r\na\r\n", every_s=0.05),
    "headers by drops": says(OK, then=b"X: a\r\n", every_s=0.05),
    "processing": says(then=b"HTTP/1.1 102 Processing\r\n\r\n", every_s=0.05),
    "continue": says(then=b"HTTP/1.1 100 Continue\r\n\r\n" * 100, every_s=0.01),
    "an extension of a chunk": says(CHUNKED + b"1;", then=b"a" * 1000, every_s=0.01),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_answer_without_an_end_is_given_up_before_it_fills_the_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        await unknown(ENDLESS[kind])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * MEGABYTE


@pytest.mark.parametrize("kind", SLOW)
async def test_one_deadline_is_for_the_whole_call_however_busy_the_line_is(kind: str) -> None:
    async with asyncio.timeout(10):
        assert "did not answer in time" in await unknown(SLOW[kind], timeout_s=1)


async def test_the_deadline_is_for_all_repeats_of_a_read_together() -> None:
    async with asyncio.timeout(10), far_server(stalls) as far, calling(far.url, timeout_s=0.5) as caller:
        with pytest.raises(Unknown, match="in time"):
            await caller.send(OutboundRequest("GET", caller.url("orders")), read=True)


async def test_a_handshake_that_hangs_was_never_sent() -> None:
    async with far_server(answers()) as far, calling(far.url.replace("http:", "https:"), timeout_s=1) as caller:
        with pytest.raises(NotSent, match="no connection in time"):
            await caller.send(order(caller))
    assert far.requests == []


# Answers that are none.

NONSENSE = {
    "longer than it said": OK + b"Content-Length: 3\r\n\r\n{'a': 1}",
    "a negative length": OK + b"Content-Length: -3\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "an immense chunk": CHUNKED + b"ffffffffffffffffff\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
    "status 0": b"HTTP/1.1 000 No\r\nContent-Length: 2\r\n\r\n{}",
    "status 600": b"HTTP/1.1 600\r\nContent-Length: 2\r\n\r\n{}",
    "status 99999": b"HTTP/1.1 99999 No\r\nContent-Length: 2\r\n\r\n{}",
    "no status": b"{}\r\n\r\n",
    "a header in no letters": OK + b"X-\xff: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_in_place_of_an_answer_is_unknown(kind: str) -> None:
    await unknown(says(NONSENSE[kind]))


async def test_letters_that_are_none_are_kept_as_far_as_they_can_be() -> None:
    behave = answers(422, b"\xff\xfe bad \x00 order")
    async with far_server(behave) as far, calling(far.url) as caller:
        assert (await caller.exchange(order(caller))).kept() == "\ufffd\ufffd bad  order"


# Answers to somebody else's request.


async def test_what_comes_unasked_is_never_the_answer_to_the_next_order() -> None:
    """A gateway that sends an answer twice: the second copy waits in the connection for the next request."""
    copy = asyncio.Event()

    async def twice(writer: asyncio.StreamWriter) -> None:
        await answers(200, b'{"Id": 1}')(writer)
        await asyncio.sleep(0.05)
        await answers(200, b'{"Id": 1}')(writer)
        copy.set()

    async with far_server(twice, answers(200, b'{"Id": 2}')) as far, calling(far.url) as caller:
        assert (await caller.send(order(caller))).json() == {"Id": 1}
        await copy.wait()
        await asyncio.sleep(0.05)
        assert (await caller.send(order(caller))).json() == {"Id": 2}
