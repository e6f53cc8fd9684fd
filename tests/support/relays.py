"""A relay for a test: configuration, database, and a far side of the test's choice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from reward_relay.outbound import TransportFactory
from reward_relay.settings import Settings
from reward_relay.web.app import create_app
from reward_relay.wiring import Relay, build, load_settings

OPERATOR, VIEWER = "operator-key-0123456789", "viewer-key-0123456789"
TALKABLE_KEY, VOUCHERIFY_KEY = "talkable-key-1", "voucherify-key-1"
ROSTER_TOKEN, INFLUITIVE_TOKEN = "roster-token-1", "influitive-token-1"

CONFIGURATION = f"""
public_url = "http://relay.test"
lease_s = 3
call_deadline_s = 1
first_check_s = 0.05
breaker_open_s = 0.2

[api_keys.alice]
role = "operator"
key = "{OPERATOR}"
[api_keys.vera]
role = "viewer"
key = "{VIEWER}"

[sources.talkable]
platform = "talkable"
secrets = ["{TALKABLE_KEY}", "talkable-key-0"]
[sources.voucherify]
platform = "voucherify"
secrets = ["{VOUCHERIFY_KEY}"]
api_url = "http://far.test/voucherify"
app_id = "app"
app_token = "app-token"
[sources.roster]
platform = "roster"
secrets = ["{ROSTER_TOKEN}"]
api_url = "http://far.test/roster"
api_token = "roster-api-token"
[sources.influitive]
platform = "influitive"
secrets = ["{INFLUITIVE_TOKEN}"]
api_url = "http://far.test/influitive"
api_token = "influitive-api-token"
org_id = "5e7a9d3c-0000-4000-8000-000000000001"

[vendors.gcp]
kind = "giftcard_partners"
base_url = "http://far.test/gcp"
email = "orders@example.com"
access_token = "gcp-access-token"
shipping_method_id = "1"
carrier_id = "1"

[[routes]]
name = "bottles"
sources = ["voucherify"]
vendor = "gcp"
delivery = "PhysicalShipment"
[routes.products]
star-th-bottle = {{ product = "TUMBLER", value = 25 }}
[[routes]]
name = "gift cards"
vendor = "gcp"
product = "CVS"
value = 20
"""


def settings(tmp_path: Path, text: str = CONFIGURATION, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of a configuration file with this text."""
    path = tmp_path / "relay.toml"
    path.write_text(text)
    return load_settings(path, {"RELAY_SPOOL_DIR": str(tmp_path / "spool"), **(environ or {})})


@asynccontextmanager
async def client_of(relay: Relay, key: str | None = OPERATOR) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the relay's API in this process."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app=create_app(relay), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.test", headers=headers) as client:
        yield client


@asynccontextmanager
async def relay_of(
    found: Settings, database_url: str, transport: TransportFactory | None = None
) -> AsyncIterator[Relay]:
    """A relay that is closed at the end of the block."""
    relay = build(found, database_url, transport=transport)
    try:
        yield relay
    finally:
        await relay.close()


@asynccontextmanager
async def working(relay: Relay, count: int = 1) -> AsyncIterator[None]:
    """Workers of the relay at work during the block."""
    workers = [relay.worker() for _ in range(count)]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*tasks)


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """The first true answer of `check`, asked again and again.

    Raises:
        AssertionError: there was none in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = await check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {check}"
        await asyncio.sleep(0.02)


async def ended(relay: Relay, order_id: str, state: str = "closed") -> dict[str, Any]:
    """The order once it is in `state`."""

    async def check() -> Any:
        order = await relay.ops.order(order_id)
        return order if order["state"] == state else None

    found: dict[str, Any] = await until(check)
    return found
