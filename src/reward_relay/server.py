"""uvicorn behind a doorkeeper: how large a request's head is, how slow a caller, how many are connected.

uvicorn with httptools has none of these limits. A connection costs memory from its first byte, before any route or
signature is looked at; so what is refused here is answered in one write, closed, counted and not logged.
"""

import asyncio
import json
import resource
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from reward_relay import metrics

MAX_HEAD = 32 << 10
MAX_HEADERS = 100
MAX_WIRE = 8 << 20
"""Bytes of one request as it is sent: a body in chunks of one byte is six times as long as what it carries."""
MAX_PIPELINED = 16
MAX_CONNECTIONS = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a caller may take for what, in seconds, and how many may be connected to a process."""

    head_s: float = 10
    body_s: float = 15
    idle_s: float = 75
    unread_s: float = 30
    connections: int = MAX_CONNECTIONS


def limits() -> Limits:
    """The limits that this process's share of open files allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files - 100)
    return Limits(connections=max(most, 50))


@dataclass(slots=True)
class Doorkeeper:
    """All connections of one server. `waiting` are those that owe us something, the longest first."""

    limits: Limits = field(default_factory=limits)
    waiting: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)

    def make_room(self, connected: int) -> None:
        """Of too many connections end the one that has kept us waiting longest; those being answered stay."""
        if connected > self.limits.connections and self.waiting:
            self.waiting.popitem(last=False)[0].refuse(503, "unavailable", "too many connections; try again")

    def sweep(self, connections: set[Any], now: float) -> None:
        """End every connection that has taken its time."""
        for each in list(connections):
            if isinstance(each, Connection):
                each.look(now)


class _Refused(Exception):
    """Raised in a callback of the parser, which ends the parsing; `words` say what to answer."""


class Connection(HttpToolsProtocol):
    """One connection. The parser calls `on_…` as it goes through the bytes."""

    def __init__(self, *args: Any, doorkeeper: Doorkeeper, **more: Any) -> None:
        super().__init__(*args, **more)
        self._doorkeeper = doorkeeper
        self._since = 0.0
        self._chunk = self._wire = 0
        self._head = self._reading = False
        self._deaf = False
        self._stuck_since: float | None = None
        self._words: tuple[int, str, str] | None = None

    def connection_made(self, transport: Any) -> None:
        """A caller has connected, and has said nothing yet."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._doorkeeper.waiting[self] = None
        self._doorkeeper.make_room(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._doorkeeper.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: too many of them are not looked at."""
        self._unset_keepalive_if_required()
        if self._deaf or self.transport.is_closing():
            return
        self._chunk = len(data)
        self._wire += self._chunk
        if self._wire > MAX_HEAD and (self._head or self._wire > MAX_WIRE):
            self._refuse_size()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # there is no other protocol here: the request is answered, and the rest is not read
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self.refuse(*(self._words or (400, "invalid", "this is not HTTP as it is written down")))
        else:
            if self._head and self._chunk > MAX_HEAD:
                self._refuse_size()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._since = self.loop.time()
        self._wire = self._chunk
        self._head = self._reading = True
        self._doorkeeper.waiting.setdefault(self)

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        if len(self.url) + len(url) > MAX_HEAD:
            self._words = _TOO_LARGE_HEAD
            raise _Refused
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Those behind a chunked body are passed over: no caller may add to a head that was read."""
        if self._head:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._words = _TOO_LARGE_HEAD
                raise _Refused

    def on_headers_complete(self) -> None:
        """The head is complete: the application gets to work, and may be waiting for the body."""
        if self._chunk > MAX_HEAD and sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            self._words = _TOO_LARGE_HEAD
            raise _Refused
        self._head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self._words = (400, "invalid", f"more than {MAX_PIPELINED} requests wait for their answers here")
            raise _Refused
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has come completely: from now on the caller waits for us."""
        self._reading = False
        self._doorkeeper.waiting.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._doorkeeper.waiting[self] = None
            if not self._reading:
                self._since = self.loop.time()

    def look(self, now: float) -> None:
        """End it where it has been too slow: with the head, with the body, with reading our answer, or with nothing."""
        limits = self._doorkeeper.limits
        if self.flow.write_paused or self.transport.is_closing():
            self._stuck_since = now if self._stuck_since is None else self._stuck_since
            if now - self._stuck_since > limits.unread_s:
                self.transport.abort()
            return
        self._stuck_since = None
        took = now - self._since
        if self.pipeline:
            return
        if self._head:
            if took > limits.head_s:
                self.refuse(408, "timeout", f"the head of the request did not come within {limits.head_s:g} seconds")
        elif self._reading:
            if took > limits.body_s:
                self.refuse(408, "timeout", f"the body did not come within {limits.body_s:g} seconds")
        elif self in self._doorkeeper.waiting and took > limits.idle_s:
            self.transport.close()

    def refuse(self, status: int, code: str, detail: str) -> None:
        """Answer where nobody has begun to, and close. An application that waits for a body hears that none comes."""
        metrics.refused("connection", code)
        self._doorkeeper.waiting.pop(self, None)
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            answer = self._head or (status == 400 and not self._reading)
        else:
            answer = not (cycle.response_started or self.pipeline or self._head)
            cycle.disconnected = True
            cycle.message_event.set()
        if answer and not self.transport.is_closing():
            body = json.dumps({"error": code, "detail": detail}).encode()
            length = b"content-length: %d\r\n" % len(body)
            head = STATUS_LINE[status] + b"content-type: application/json\r\nconnection: close\r\n" + length
            self.transport.write(head + b"\r\n" + body)
        self.transport.close()

    def _refuse_size(self) -> None:
        if self._head:
            self.refuse(*_TOO_LARGE_HEAD)
        else:
            self.refuse(413, "too_large", f"the request is over {MAX_WIRE >> 20} MiB as it is sent")


_TOO_LARGE_HEAD = (431, "too_large", f"address and headers are over {MAX_HEAD >> 10} KiB or {MAX_HEADERS} headers")


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM ends it with status 0: it would raise the signal again after a clean stop."""

    def __init__(self, config: uvicorn.Config, doorkeeper: Doorkeeper) -> None:
        super().__init__(config)
        self._doorkeeper = doorkeeper

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `processes`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; once a second the connections are looked at."""
        if counter % 10 == 0:
            self._doorkeeper.sweep(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def server(
    app: Any, *, drain_s: int, trusted_proxies: list[str] | None = None, doorkeeper: Doorkeeper | None = None
) -> Server:
    """A server of an ASGI application. Only `trusted_proxies` are believed about who has called them, and how."""
    doorkeeper = doorkeeper or Doorkeeper()
    config = uvicorn.Config(
        app,
        http=partial(Connection, doorkeeper=doorkeeper),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,  # paths hold callback tokens
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or [],
        timeout_graceful_shutdown=drain_s,
        timeout_keep_alive=int(doorkeeper.limits.idle_s),
        backlog=2048,
    )
    return Server(config, doorkeeper)
