"""Names are looked up in a thread each.

The event loop has few threads for it (uvloop: two at a time for all hosts), and a look-up cannot be called off: two
names whose servers do not answer would keep every other party's calls waiting. The HTTP client asks for one host once
at a time, so there are no more threads than hosts.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any


class OwnThreads:
    """The two questions that aiohttp's `ThreadedResolver` asks its event loop."""

    async def getaddrinfo(self, host: str, port: int, **how: Any) -> Any:
        """As `socket.getaddrinfo`.

        Raises:
            OSError: the name does not resolve.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Any] = loop.create_future()

        def settle(answer: Any, error: OSError | None) -> None:
            if not found.done():
                found.set_result(answer) if error is None else found.set_exception(error)

        def look() -> None:
            answer, failed = None, None
            try:
                answer = socket.getaddrinfo(host, port, **how)
            except OSError as error:
                failed = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, answer, failed)

        threading.Thread(target=look, name="look-up", daemon=True).start()
        return await found

    async def getnameinfo(self, address: Any, flags: int = 0) -> tuple[str, str]:
        """As `socket.getnameinfo`; asked for numeric answers only, which nobody waits for."""
        return socket.getnameinfo(address, flags)
