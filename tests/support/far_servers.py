"""Raw servers on loopback that misbehave on purpose, and count what really arrived."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""What the server does with a request that it has read whole."""


def answers(status: int = 200, body: bytes = b"{}", *headers: str) -> Behaviour:
    """A whole answer; the connection stays open."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} Fine", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return behave


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    """No answer: the connection ends."""
    writer.close()


async def resets(writer: asyncio.StreamWriter) -> None:
    """No answer: the connection is torn down."""
    writer.transport.abort()


async def answers_by_half(writer: asyncio.StreamWriter) -> None:
    """A head that promises a hundred bytes, five of them, and the end."""
    writer.write(b"HTTP/1.1 200 Fine\r\nContent-Length: 100\r\n\r\n{'id'")
    await writer.drain()
    writer.close()


async def talks_nonsense(writer: asyncio.StreamWriter) -> None:
    """Something that is not HTTP."""
    writer.write(b"NONSENSE\r\n\r\n")
    await writer.drain()
    writer.close()


async def stalls(_: asyncio.StreamWriter) -> None:
    """No answer, and no end of the connection either."""
    await asyncio.Event().wait()


def says(*parts: bytes, then: bytes = b"", every_s: float | None = None) -> Behaviour:
    """These bytes, and then `then` again and again: at once as much as is taken, or one `every_s` seconds."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()
        while then and not writer.is_closing():
            writer.write(then)
            await writer.drain()
            await asyncio.sleep(every_s or 0)

    return behave


class FarServer:
    """Reads requests whole; the first gets the first behaviour, and so on, the last one again and again."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.requests: list[bytes] = []
        self.url = ""
        self._behaviours = behaviours
        self._handlers: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while not writer.is_closing():
                await self._one_request(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._handlers.discard(task)

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        self.requests.append(head + body)
        await self._behaviours[min(len(self.requests), len(self._behaviours)) - 1](writer)

    def behave(self, *behaviours: Behaviour) -> None:
        """From now on like this."""
        self._behaviours = behaviours

    async def end(self) -> None:
        """End what still waits."""
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)


@asynccontextmanager
async def far_server(*behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[FarServer]:
    """A server on a free port of 127.0.0.1 during the block; with `tls` it speaks HTTPS, as localhost."""
    far = FarServer(*behaviours)
    server = await asyncio.start_server(far, "127.0.0.1", 0, ssl=tls)
    where = "https://localhost" if tls else "http://127.0.0.1"
    far.url = f"{where}:{server.sockets[0].getsockname()[1]}"
    try:
        yield far
    finally:
        server.close()
        await far.end()
        await server.wait_closed()
