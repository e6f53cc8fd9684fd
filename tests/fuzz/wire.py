"""HTTP by hand over a socket: requests as no client library would send them, and the answers to them."""

import asyncio
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from fuzz.cases import Case

PATIENCE_S = 30.0


class Answer(NamedTuple):
    """What came back; status 0 where the connection was closed without an answer, or none came in time."""

    status: int
    body: bytes = b""
    closing: bool = True

    def told(self) -> dict[str, object]:
        """Its JSON.

        Raises:
            ValueError: it is none, or no object.
        """
        found = json.loads(self.body)
        if not isinstance(found, dict):
            raise ValueError("the answer is no JSON object")
        return found


class Line:
    """A connection to the relay, made anew where the relay has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, *parts: bytes, pause_s: float = 0.0, patience_s: float = PATIENCE_S) -> Answer:
        """Send the parts one by one, and read one answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        try:
            async with asyncio.timeout(patience_s):
                sending = asyncio.create_task(_send(writer, parts, pause_s))
                answer = await _answer(reader)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            answer = Answer(0)
        if answer.closing:
            self.close()
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _send(writer: asyncio.StreamWriter, parts: Sequence[bytes], pause_s: float) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
        if pause_s:
            await asyncio.sleep(pause_s)


async def _answer(reader: asyncio.StreamReader) -> Answer:
    status = int((await _line(reader)).split()[1])
    length, closing = 0, False
    while line := await _line(reader):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        closing = closing or (name.lower() == b"connection" and b"close" in value.lower())
    if status == 100:
        return await _answer(reader)
    return Answer(status, await reader.readexactly(length), closing)


async def _line(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n"))[:-2]


def request(case: Case, *, chunks: Sequence[bytes] | None = None) -> bytes:
    """A case as bytes; in `chunks`, or with the length of its body."""
    head = [f"POST {case.path} HTTP/1.1", "Host: relay.test"]
    head += [f"{name}: {value}" for name, value in case.headers.items()]
    head.append("Transfer-Encoding: chunked" if chunks is not None else f"Content-Length: {len(case.body)}")
    start = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"
    return start + (case.body if chunks is None else chunked(chunks))


def chunked(parts: Sequence[bytes]) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


def pieces(random: Random, body: bytes) -> list[bytes]:
    """A body cut at some places."""
    cuts = sorted(random.randrange(len(body) + 1) for _ in range(random.choice([0, 1, 3, 20])))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


Broken = Callable[[Random, Case], bytes]


def _lies_short(_: Random, case: Case) -> bytes:
    """More comes than was announced; the rest is read as another request."""
    return (
        request(case).replace(b"Content-Length: ", b"Content-Length: 0", 1).replace(b": 0%d" % len(case.body), b": 3")
    )


def _both_lengths(_: Random, case: Case) -> bytes:
    return request(case, chunks=[case.body[:500]]).replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1)


def _two_lengths(_: Random, case: Case) -> bytes:
    return request(case).replace(b"\r\n", b"\r\nContent-Length: 0\r\n", 1)


def _odd_length(random: Random, case: Case) -> bytes:
    odd = random.choice([b"-1", b"+5", b"0x10", b"1e3", b"99999999999999999999999", b"", b"5, 5", b"\xb2"])
    return b"POST /webhooks/roster HTTP/1.1\r\nHost: x\r\nContent-Length: " + odd + b"\r\n\r\n" + case.body[:100]


def _odd_coding(random: Random, case: Case) -> bytes:
    odd = random.choice([b"chunked, identity", b"xchunked", b"chunked\x0b", b"gzip, chunked", b" chunked , chunked"])
    return b"POST /webhooks/roster HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + odd + b"\r\n\r\n0\r\n\r\n"


def _odd_chunks(random: Random, case: Case) -> bytes:
    odd = [
        b"-1\r\n",
        b"zz\r\n",
        b"f" * 17 + b"\r\n",
        b"1;" + b"e" * 100_000 + b"\r\nx\r\n0\r\n\r\n",
        b"0\r\na: b\r\n\r\n",
        b"5\nabcde",
    ]
    return request(case, chunks=[]).removesuffix(b"0\r\n\r\n") + random.choice(odd)


def _big_head(random: Random, case: Case) -> bytes:
    line = random.choice([b"a: " + b"b" * 60_000 + b"\r\n", b"a: b\r\n" * 300, b"a" * 50_000])
    return b"POST /webhooks/roster HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n"


def _no_http(random: Random, case: Case) -> bytes:
    return random.choice(NO_HTTP)


def _upgrade(_: Random, case: Case) -> bytes:
    return request(case).replace(b"\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 1)


def _many_at_once(_: Random, case: Case) -> bytes:
    return b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 200


NO_HTTP = (
    b"\x16\x03\x01\x02\x00",
    b"GET\r\n\r\n",
    b"\r\n" * 50 + b"x",
    bytes(range(256)),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST  / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/9.9\r\n\r\n",
    b"G\x00T / HTTP/1.1\r\n\r\n",
)
BROKEN: tuple[Broken, ...] = (
    _lies_short,
    _both_lengths,
    _two_lengths,
    _odd_length,
    _odd_coding,
    _odd_chunks,
    _big_head,
    _no_http,
    _upgrade,
    _many_at_once,
)
"""Requests that are no HTTP, or that two readers read differently: any answer but 5xx, and the end of the line."""
