"""Two vendors and two platforms on loopback that can be made to hang, crawl or refuse, and that note what arrives."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

Mode = Literal["well", "hangs", "slow", "asks for calm", "fails"]
SLOW_S = 5.0
RETRY_AFTER_S = 10


class FarParty:
    """A vendor as GiftCard Partners' API, and a platform as Roster's; what differs is who calls which path.

    `seen` is when each PO number or closing first arrived, `calls` how many orders arrived in each second since
    `began`, `most` how many were being placed at a time.
    """

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.mode: Mode = "well"
        self.url = ""
        self.seen: dict[str, float] = {}
        self.calls: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.busy = self.most = 0
        self.began = time.time()
        self._handlers: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                method, path, _ = head.split(" ", 2)
                status, answer = await self._answer(method, path, body)
                writer.write(_packed(status, answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._handlers.discard(task)

    async def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path.endswith("/Tokens"):
            return 200, {"Value": "token", "ExpiresIn": 3600}
        if method != "POST":
            self.seen.setdefault(path.rpartition("/")[2], time.time())
            await asyncio.sleep(self.latency_s)
            return 200, {}
        number = json.loads(body)["PONumber"]
        self.seen.setdefault(number, time.time())
        self.calls[int(time.time() - self.began)] += 1
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            return await self._place(number)
        finally:
            self.busy -= 1

    async def _place(self, number: str) -> tuple[int, Any]:
        if self.mode == "hangs":
            await asyncio.Event().wait()
        if self.mode == "asks for calm":
            return 429, {"Message": "slow down"}
        if self.mode == "fails":
            return 503, {"Message": "not now"}
        await asyncio.sleep(SLOW_S if self.mode == "slow" else self.latency_s)
        self.answers[int(time.time() - self.began)] += 1
        return 201, {"Id": number, "Status": "Completed"}

    async def end(self) -> None:
        """End what still waits."""
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)


def _packed(status: int, answer: Any) -> bytes:
    body = json.dumps(answer).encode()
    calm = f"Retry-After: {RETRY_AFTER_S}\r\n" if status == 429 else ""
    return f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n{calm}\r\n".encode() + body


@asynccontextmanager
async def far_party(latency_s: float) -> AsyncIterator[FarParty]:
    """A party on a free port of 127.0.0.1 during the block."""
    found = FarParty(latency_s)
    server = await asyncio.start_server(found, "127.0.0.1", 0, backlog=512)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        await found.end()
        await server.wait_closed()
