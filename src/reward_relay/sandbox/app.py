"""The sandbox as one web application: the vendor, the platforms, and the control API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from reward_relay.sandbox.control import Control
from reward_relay.sandbox.far_side import FarSide, SandboxOptions
from reward_relay.sandbox.modes import KEYLESS
from reward_relay.sandbox.platforms import Influitive, Roster, Talkable, Voucherify
from reward_relay.sandbox.vendor import GiftCards

DESCRIPTION = "A made-up vendor and made-up platforms. Nothing here is real, nothing is kept when it stops."


class Sandbox(FastAPI):
    """The far side in a box. `close` stops its callbacks where nothing runs its lifespan."""

    vendors: tuple[GiftCards, ...]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call, and keep hold of its connection: a lost answer is a connection closed without one."""
        scope["sandbox.transport"] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)

    async def close(self) -> None:
        """Stop calling back and close connections."""
        for vendor in self.vendors:
            await vendor.close()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    if isinstance(app, Sandbox):
        await app.close()


def create_app(options: SandboxOptions | None = None, *, callbacks: httpx.AsyncBaseTransport | None = None) -> Sandbox:
    """A fresh far side with its own memory; `callbacks` replaces the network that the vendor calls back over."""
    far_side = FarSide(options or SandboxOptions())
    app = Sandbox(title="Reward Relay sandbox", description=DESCRIPTION, lifespan=_lifespan)
    app.vendors = (GiftCards(far_side, callbacks), GiftCards(far_side, callbacks, KEYLESS))
    influitive, voucherify = Influitive(far_side), Voucherify(far_side)
    parties = (*app.vendors, Roster(far_side), influitive, Talkable(far_side), voucherify)
    for party in (*parties, Control(far_side, app.vendors, influitive, voucherify)):
        app.include_router(party.router())
    return app
