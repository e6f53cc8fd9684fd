"""The sandbox behind uvicorn: an answer is lost for real, and the vendor calls back over the network."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from pydantic import SecretStr

from reward_relay.contracts import Delivery, Line, Placement, Plan, Progress, Recipient
from reward_relay.errors import Unknown
from reward_relay.outbound import Outbound
from reward_relay.sandbox.app import create_app
from reward_relay.sandbox.far_side import SandboxOptions
from reward_relay.vendors.giftcard_partners.adapter import Adapter, Settings

Http = Literal["httptools", "h11"]


@asynccontextmanager
async def served(app: FastAPI, http: Http = "httptools") -> AsyncIterator[str]:
    """`app` on a free loopback port; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, http=http))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


def adapter_at(address: str, outbound: Outbound) -> Adapter:
    settings = Settings(
        kind="giftcard_partners",
        base_url=f"{address}/gcp",
        email="a@b.example",
        access_token=SecretStr("sandbox-access"),
    )
    return Adapter("gcp", settings, outbound)


def placement(email: str, callback_url: str = "") -> Placement:
    plan = Plan(route="cards", vendor="gcp", delivery=Delivery.DIGITAL, lines=(Line(product="CVS", value=Decimal(20)),))
    return Placement(plan, Recipient(email=email), callback_url)


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_lost_answer_is_a_closed_connection_and_the_order_is_found_again(http: Http) -> None:
    outbound = Outbound()
    async with served(create_app(), http) as address:
        adapter = adapter_at(address, outbound)
        with pytest.raises(Unknown, match="broke after the request had left"):
            await adapter.place(placement("ann+lost@example.com"), "PO-1")
        found = await adapter.place(placement("ann+lost@example.com"), "PO-1")
        async with httpx.AsyncClient() as client:
            state = (await client.get(f"{address}/sandbox/state")).json()
        await outbound.close()
    assert found.existed
    assert [order["Id"] for order in state["orders"]] == [found.vendor_order_id]
    assert [call["status"] for call in state["calls"] if call["operation"] == "place"] == [None, 409]


async def test_an_answer_breaks_off_in_its_body() -> None:
    outbound = Outbound()
    async with served(create_app()) as address:
        rule = {"party": "gcp", "operation": "place", "mode": "half_answer", "times": 1}
        async with httpx.AsyncClient(base_url=address) as client:
            await client.post("/sandbox/rules", json=rule)
        adapter = adapter_at(address, outbound)
        with pytest.raises(Unknown, match="ClientPayloadError"):
            await adapter.place(placement("ann@example.com"), "PO-1")
        assert (await adapter.place(placement("ann@example.com"), "PO-1")).existed
        await outbound.close()


async def test_no_byte_of_an_answer_goes_out_when_it_is_lost() -> None:
    async with served(create_app()) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            await client.post("/sandbox/rules", json={"party": "roster", "mode": "lose_answer"})
        host, _, port = address.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = b'{"status": "fulfilled"}'
        head = f"PUT /roster/v2/orders/o-1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_the_vendor_calls_back_over_the_network() -> None:
    called: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    relay = FastAPI()

    @relay.post("/done/{token}", status_code=202)
    async def done(token: str, request: Request) -> dict[str, str]:
        await called.put({"token": token, "body": await request.json()})
        return {}

    outbound = Outbound()
    async with served(relay) as relay_address, served(create_app(SandboxOptions(complete_after_s=0.05))) as address:
        adapter = adapter_at(address, outbound)
        placed = await adapter.place(placement("ann@example.com", f"{relay_address}/done/tok"), "PO-1")
        async with asyncio.timeout(5):
            callback = await called.get()
        order = await adapter.check(placed.vendor_order_id)
        await outbound.close()
    assert placed.progress is Progress.PENDING
    assert (callback["token"], callback["body"]["Id"]) == ("tok", placed.vendor_order_id)
    assert order.progress is Progress.FULFILLED
