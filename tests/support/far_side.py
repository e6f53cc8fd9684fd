"""The sandbox as the far side of a relay in this process, wired both ways without sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from reward_relay.sandbox.app import Sandbox, create_app
from reward_relay.sandbox.far_side import SandboxOptions
from reward_relay.sandbox.senders import Webhook
from reward_relay.web.app import create_app as create_relay_app
from reward_relay.wiring import Relay


class _Late(httpx.AsyncBaseTransport):
    """A transport that is known only after what it leads to has been built."""

    target: httpx.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert self.target is not None
        return await self.target.handle_async_request(request)


class _Untouched(httpx.AsyncBaseTransport):
    """Hands requests on, and stays open when one of its clients closes."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app=app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._inner.handle_async_request(request)


@dataclass
class Far:
    """The simulated vendor and platforms."""

    app: Sandbox
    client: httpx.AsyncClient
    late: _Late

    def transport(self) -> httpx.AsyncBaseTransport:
        """What the relay's outbound calls go through."""
        return _Untouched(self.app)

    async def rule(self, **rule: Any) -> None:
        """Let the far side misbehave."""
        answer = await self.client.post("/sandbox/rules", json=rule)
        assert answer.status_code == 201, answer.text

    async def state(self) -> dict[str, Any]:
        """Everything counted there."""
        found: dict[str, Any] = (await self.client.get("/sandbox/state")).json()
        return found

    async def orders_per_key(self) -> dict[str, int]:
        """How many orders the vendor made for each PO number."""
        found: dict[str, int] = (await self.state())["counts"]["orders"]
        return found

    async def closings(self, platform: str) -> dict[str, int]:
        """How often a platform was told of each reward."""
        found: dict[str, int] = (await self.state())["counts"]["closings"].get(platform, {})
        return found

    def calls_back(self, relay: Relay) -> None:
        """Let the vendor's callbacks reach this relay."""
        self.late.target = httpx.ASGITransport(app=create_relay_app(relay))


@asynccontextmanager
async def far_side(complete_after_s: float = 0.02, **options: Any) -> AsyncIterator[Far]:
    """A fresh far side; orders complete after `complete_after_s` seconds."""
    late = _Late()
    app = create_app(SandboxOptions(complete_after_s=complete_after_s, slow_s=2, **options), callbacks=late)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://far.test") as client:
        try:
            yield Far(app, client, late)
        finally:
            await app.close()


async def send(client: httpx.AsyncClient, source: str, webhook: Webhook) -> httpx.Response:
    """Post a webhook as its platform does."""
    return await client.post(webhook.url(f"/webhooks/{source}"), content=webhook.body, headers=webhook.headers)
