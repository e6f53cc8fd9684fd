"""In front of every route: how much of a body is read, from whom, and who has to wait.

What a door takes is decided before a byte of the body is: its size, its encoding, whether its address was rejected too
often, and, where a key is needed, whether there is one.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_relay.errors import EncodedBody, RequestError, TooLarge, TooManyRejections, Unavailable
from reward_relay.keys import actor_of
from reward_relay.metrics import refused
from reward_relay.web.auth import bearer_of
from reward_relay.web.console.session import reader
from reward_relay.web.rejections import Rejections

if TYPE_CHECKING:
    from reward_relay.wiring import Relay

KIB = 1 << 10
MAX_BODY = 1024 * KIB
FREE = 64 * KIB
"""So much of each body is held without asking; what is more comes out of what all large bodies share."""
SHARED = 64 * MAX_BODY
DRAIN_S = 1.0


class Door(NamedTuple):
    """A kind of path: who may call, and how large a body may be."""

    name: Literal["webhooks", "callbacks", "api", "console"]
    most: int
    proof: int | None = None
    """The status that only a caller with a right secret is answered; None where nobody proves anything."""


WEBHOOKS = Door("webhooks", MAX_BODY, 202)
CALLBACKS = Door("callbacks", 64 * KIB, 202)
API = Door("api", 64 * KIB, 200)
API_TEXTS = Door("api", MAX_BODY, 200)
SIGN_IN = Door("console", 8 * KIB, 303)
CONSOLE = Door("console", 64 * KIB)
CONSOLE_TEXTS = Door("console", MAX_BODY)


def door_of(path: str) -> Door:
    """The door that a path leads to."""
    if path.startswith("/webhooks/"):
        return WEBHOOKS
    if path.startswith("/vendor-webhooks/"):
        return CALLBACKS
    if path.startswith("/api/"):
        return API_TEXTS if path.startswith("/api/v1/routes/") else API
    if path in ("/login", "/logout"):
        return SIGN_IN
    return CONSOLE_TEXTS if path.startswith("/routes/") else CONSOLE


class Refused(HTTPException):
    """Raised where the application reads a body, around the `error` to answer: FastAPI lets only its own kind pass."""

    def __init__(self, error: RequestError) -> None:
        self.error = error
        super().__init__(error.status, error.detail)


class Front:
    """ASGI: the doors."""

    def __init__(self, app: ASGIApp, relay: "Relay", clock: Callable[[], float] | None = None) -> None:
        settings = relay.settings
        most, known = settings.rejections_per_minute, bool(settings.trusted_proxies)
        given = {"clock": clock} if clock else {}
        self._app = app
        self.keys = settings.api_keys
        self.held = 0
        secrets, keys = (Rejections(most, behind_proxies=known, **given) for _ in range(2))
        self._rejections = {"webhooks": secrets, "callbacks": secrets, "api": keys, "console": keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        door = door_of(scope["path"])
        visit = Visit(self, door, self._rejections[door.name], scope, receive, send)
        wait_s = visit.wait_s()
        if wait_s and door.name != "console":
            await visit.send_away(visit.too_many(wait_s))
            return
        try:
            await self._app(scope, visit.receive, visit.send)
        finally:
            self.held -= visit.held


class Visit:
    """One call, as it comes through its door."""

    __slots__ = ("_body", "_door", "_front", "_receive", "_rejections", "_scope", "_send", "_size", "held")

    def __init__(
        self, front: Front, door: Door, rejections: Rejections, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._front, self._door, self._rejections = front, door, rejections
        self._scope, self._receive, self._send = scope, receive, send
        self._body: Literal["unread", "reading", "read"] = "unread"
        self._size = self.held = 0

    async def receive(self) -> Message:
        """The next part of the body, as far as the door takes it.

        Raises:
            Refused: it does not.
        """
        if self._body == "unread":
            self._body = "reading"
            await self._see_who()
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._body = "read"
            if self._size > FREE or self._size > self._door.most:
                await self._see_size()
            if self._body == "read" and self._door.proof is not None and (wait_s := self.wait_s()):
                raise self._refused(self.too_many(wait_s))  # others of the same address were rejected meanwhile
        return message

    async def send(self, message: Message) -> None:
        """An answer: what it says of the caller is remembered. Whoever was not heard out is not listened to further."""
        if message["type"] == "http.response.start":
            self._remember(message["status"])
            if self._body != "read" and self._has_body():
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await self._send(message)

    def wait_s(self) -> int:
        """Whole seconds that the caller has to wait before it is looked at."""
        client = self._scope.get("client")
        return self._rejections.wait_s(client[0]) if client and self._door.proof is not None else 0

    def too_many(self, wait_s: int) -> TooManyRejections:
        """Why it has to wait."""
        detail = f"too many calls from this address were rejected; mend the secret, and come again in {wait_s} seconds"
        return TooManyRejections(detail, wait_s)

    async def send_away(self, error: TooManyRejections) -> None:
        """Answer without asking the application."""
        refused(self._door.name, error.code)
        body = json.dumps({"error": error.code, "detail": error.detail}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % error.retry_after_s),
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def _see_who(self) -> None:
        """Before a byte of the body is read."""
        door, announced = self._door, self._header(b"content-length")
        if door is SIGN_IN and (wait_s := self.wait_s()):
            raise self._refused(self.too_many(wait_s))
        if announced.isdigit() and (len(announced) > 18 or int(announced) > door.most):
            await self._read_on()
            raise self._refused(TooLarge(f"the body has {announced[:20].decode()} bytes; {self._limit()}"))
        encoding = self._header(b"content-encoding").strip().lower()
        if encoding not in (b"", b"identity") and door is not CALLBACKS:
            await self._read_on()
            raise self._refused(
                EncodedBody(
                    f"the body is compressed (Content-Encoding: {ascii(encoding.decode('latin-1'))[1:21]}); send it as "
                    f"it is, for the bytes as they are sent are what is signed and kept"
                )
            )
        self._see_key()

    def _see_key(self) -> None:
        """A body of somebody without a key is not read."""
        if self._door.name in ("webhooks", "callbacks") or self._door is SIGN_IN:
            return
        request = Request(self._scope)
        try:
            if self._door.name == "api":
                actor_of(self._front.keys, bearer_of(request))
            else:
                reader(request)
        except RequestError as error:
            raise Refused(error) from None

    async def _see_size(self) -> None:
        if self._size > self._door.most:
            await self._read_on()
            raise self._refused(TooLarge(f"the body is over {self._door.most} bytes; {self._limit()}"))
        more = self._size - self.held
        if self._front.held + more > SHARED:
            raise self._refused(Unavailable("too many large bodies are being read just now; send it again"))
        self.held += more
        self._front.held += more

    async def _read_on(self) -> None:
        """Read, and forget, a little of what is too much: who is cut off while sending may never read the answer."""
        if self._header(b"expect"):
            return
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._body != "read" and size < self._door.most:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self._body = "read"

    def _remember(self, status: int) -> None:
        client, proof = self._scope.get("client"), self._door.proof
        if client is None or proof is None:
            return
        if status == proof:
            self._rejections.proved(client[0])
        elif status == 401 or (status == 404 and self._door in (WEBHOOKS, CALLBACKS)):
            self._rejections.rejected(client[0])

    def _refused(self, error: RequestError) -> Refused:
        refused(self._door.name, error.code)
        return Refused(error)

    def _limit(self) -> str:
        return f"the limit here is {self._door.most} ({self._door.most // KIB} KiB)"

    def _has_body(self) -> bool:
        return self._header(b"content-length") not in (b"", b"0") or bool(self._header(b"transfer-encoding"))

    def _header(self, name: bytes) -> bytes:
        found: bytes = next((value for key, value in self._scope["headers"] if key == name), b"")
        return found
