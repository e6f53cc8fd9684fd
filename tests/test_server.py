"""What a socket may send, and how slowly: requests by hand against a server with short limits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from reward_relay.processes import bind
from reward_relay.server import MAX_HEAD, MAX_HEADERS, Doorkeeper, Limits, Server, server
from support.relays import until

SHORT = Limits(head_s=1, body_s=1, idle_s=2, unread_s=1, connections=20)
PATIENCE_S = 30
HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with how much came, and its headers' names; a path `/big` with megabytes."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    told = json.dumps({"size": size, "headers": [name.decode() for name, _ in scope["headers"]]}).encode()
    body = b"x" * (32 << 20) if scope["path"] == "/big" else told
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Serving:
    """A server in this loop."""

    def __init__(self, found: Server, port: int) -> None:
        self.server, self.port = found, port

    async def connected(self) -> bool:
        """Whether it holds a connection."""
        return bool(self.server.server_state.connections)

    async def alone(self) -> bool:
        """Whether it holds none."""
        return not self.server.server_state.connections

    async def line(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *parts: bytes, pause_s: float = 0.0) -> bytes:
        """Everything that is answered until the server hangs up; the parts are sent one by one."""
        reader, writer = await self.line()

        async def speak() -> None:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)

        speaking = asyncio.create_task(speak())
        heard = bytearray()
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while part := await reader.read(65536):
                    heard += part
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        writer.close()
        return bytes(heard)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    found = server(echo, drain_s=1, doorkeeper=Doorkeeper(SHORT))
    task = asyncio.create_task(found.serve(sockets=[listener]))
    serving = Serving(found, port)

    async def started() -> bool:
        return found.started

    await until(started)
    yield serving
    found.should_exit = True
    await task


def statuses(heard: bytes) -> list[int]:
    """The statuses of all answers."""
    return [int(part[:3]) for part in heard.split(b"HTTP/1.1 ")[1:]]


CLOSE = b"Connection: close\r\n\r\n"


async def test_a_good_request_is_answered(serving: Serving) -> None:
    heard = await serving.ask(HEAD + b"Content-Length: 5\r\n" + CLOSE + b"hello")
    assert statuses(heard) == [200]
    assert b'"size": 5' in heard


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"a: " + b"b" * (10 << 20), id="one header without an end"),
        pytest.param(b"a: b\r\n" * 100_000, id="a hundred thousand headers"),
        pytest.param(b"a: b\r\n" * (MAX_HEADERS + 1) + CLOSE, id="a header too many"),
        pytest.param(b"a: " + b"b" * MAX_HEAD + b"\r\n" + CLOSE, id="a header too long"),
        pytest.param(b"a" * (1 << 20), id="a name without an end"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_head_that_is_too_large_is_431(serving: Serving, head: bytes, pieces: int) -> None:
    whole, size = HEAD + head, len(HEAD + head) // pieces + 1
    heard = await serving.ask(*(whole[start : start + size] for start in range(0, len(whole), size)))
    assert statuses(heard) in ([431], [])  # whoever goes on sending may lose the answer
    await until(serving.alone)


async def test_an_address_that_is_too_long_is_431(serving: Serving) -> None:
    assert statuses(await serving.ask(b"GET /" + b"x" * (2 * MAX_HEAD))) == [431]


async def test_a_small_head_too_many_is_answered_with_json(serving: Serving) -> None:
    heard = await serving.ask(HEAD + b"a: b\r\n" * 120 + CLOSE)
    assert json.loads(heard.partition(b"\r\n\r\n")[2])["error"] == "too_large"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([HEAD, *[b"a"] * 100], [408], id="the head byte by byte"),
        pytest.param([HEAD + b"Content-Length: 100\r\n\r\n", *[b"a"] * 90], [408], id="the body byte by byte"),
        pytest.param([HEAD + b"Content-Length: 100\r\n\r\n"], [408], id="no body at all"),
        pytest.param([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n"] * 90], [408], id="a chunk a time"),
        pytest.param([], [], id="nothing"),
        pytest.param([b"\r\n"] * 100, [], id="empty lines"),
    ],
)
async def test_who_is_too_slow_is_sent_away(serving: Serving, parts: list[bytes], expected: list[int]) -> None:
    assert statuses(await serving.ask(*parts, pause_s=0.1)) == expected
    await until(serving.alone)


async def test_who_does_not_read_the_answer_is_cut_off(serving: Serving) -> None:
    _, writer = await serving.line()
    writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(serving.connected)
    await until(serving.alone, PATIENCE_S)
    writer.close()


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
SMUGGLED = {
    "both lengths": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\nGET /y HTTP/1.1\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "length with a sign": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "length without end": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "coding twice": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a chunk's size is none": CHUNKED + b"\r\n-1\r\nx\r\n",
    "a chunk longer than it says": CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n",
    "a giant chunk": CHUNKED + b"\r\n" + b"f" * 20 + b"\r\n",
    "nothing of HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "another version": b"POST / HTTP/9.9\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_what_two_readers_would_read_differently_is_400_and_the_end(serving: Serving, name: str) -> None:
    heard = await serving.ask(SMUGGLED[name])
    assert statuses(heard) == [400]
    assert b"connection: close" in heard
    assert json.loads(heard.partition(b"\r\n\r\n")[2])["error"] == "invalid"


async def test_headers_behind_a_chunked_body_are_passed_over(serving: Serving) -> None:
    heard = await serving.ask(CHUNKED + CLOSE + b"1\r\na\r\n0\r\nX-Webhook-Token: late\r\n\r\n")
    assert statuses(heard) == [200]
    assert b"x-webhook-token" not in heard


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"1;" + b"e" * (10 << 20), id="a chunk's extension without an end"),
        pytest.param(b"0\r\n" + b"a: b\r\n" * (2 << 20), id="trailers without an end"),
        pytest.param(b"0\r\na: " + b"b" * (10 << 20), id="a trailer without an end"),
    ],
)
async def test_what_is_sent_around_a_body_has_an_end(serving: Serving, body: bytes) -> None:
    heard = await serving.ask(CHUNKED + b"\r\n", body)
    assert statuses(heard) in ([413], [408], [])
    await until(serving.alone)


async def test_many_requests_at_once_are_no_queue_without_an_end(serving: Serving) -> None:
    assert len(statuses(await serving.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000))) <= 20
    heard = await serving.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET / HTTP/1.1\r\n" + CLOSE)
    assert statuses(heard) == [200] * 4


async def test_another_protocol_is_not_spoken_here(serving: Serving) -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert statuses(await serving.ask(upgrade + b"\x81\x05hello" * 10)) == [200]


async def test_of_too_many_connections_the_longest_silent_one_goes(serving: Serving) -> None:
    lines = [await serving.line() for _ in range(SHORT.connections)]
    heard = await serving.ask(HEAD + b"Content-Length: 5\r\n" + CLOSE + b"hello")
    assert statuses(heard) == [200]
    async with asyncio.timeout(PATIENCE_S):
        assert await lines[0][0].read() == b""
    for _, writer in lines:
        writer.close()
