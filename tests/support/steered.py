"""A far side that a test steers by hand, and the webhooks of every platform as they are sent."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import Webhook
from reward_relay.wiring import Relay
from support.relays import INFLUITIVE_TOKEN, ROSTER_TOKEN, TALKABLE_KEY, VOUCHERIFY_KEY

TALKABLE_ID = "8261305"
"""The reward's id in the sample `talkable_referrer`."""


class Steered:
    """Vendor and platforms in one. `place_status` and `word` are what the vendor answers.

    While `gate` is cleared, an order that is being placed waits there; `asked` is set as soon as one does.
    """

    def __init__(self) -> None:
        self.placed: list[dict[str, Any]] = []
        self.told: list[httpx.Request] = []
        self.redemptions: list[dict[str, Any]] = []
        self.listed = 0
        self.place_status, self.word = 201, "Pending"
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.gate.set()

    def transport(self) -> httpx.MockTransport:
        """Its network."""
        return httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/Tokens"):
            return httpx.Response(200, json={"Value": "bearer-1", "ExpiresIn": 3600})
        if path.endswith("/Orders"):
            return await self._place(json.loads(request.content))
        if path.startswith("/gcp/v1/Orders/"):
            return httpx.Response(200, json={"Id": path.rpartition("/")[2], "Status": self.word})
        if path.endswith("/reward_redemptions"):
            self.listed += 1
            return httpx.Response(200, json={"reward_redemptions": self.redemptions, "contacts": []})
        self.told.append(request)
        return httpx.Response(200, json={})

    async def _place(self, body: dict[str, Any]) -> httpx.Response:
        self.asked.set()
        await self.gate.wait()
        if self.place_status != 201:
            return httpx.Response(self.place_status, json={"Message": "no"})
        self.placed.append(body)
        return httpx.Response(201, json={"Id": f"G{len(self.placed)}", "Status": self.word})


def unreachable() -> httpx.MockTransport:
    """A network on which nobody answers."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"nobody is at {request.url.host}", request=request)

    return httpx.MockTransport(refuse)


def talkable(change: Callable[[Any], object] | None = None, *, key: str = TALKABLE_KEY, **reward: Any) -> Webhook:
    """The referrer's reward as a form, with these fields of the reward otherwise."""
    payload = senders.sample("talkable_referrer")
    payload["reward"] |= reward
    if change is not None:
        change(payload)
    return senders.talkable_form(payload, key)


def roster(order_id: str = "R-1", **changes: Any) -> Webhook:
    """A redeemed reward of Roster's."""
    return senders.roster(senders.roster_order(order_id, **changes), ROSTER_TOKEN)


def every_platform() -> dict[str, Webhook]:
    """One real reward of each source of `support.relays.CONFIGURATION`."""
    return {
        "talkable": talkable(),
        "voucherify": senders.voucherify(senders.sample("voucherify_customer_rewarded"), VOUCHERIFY_KEY),
        "roster": roster(),
        "influitive": senders.influitive(senders.influitive_redemption(901), INFLUITIVE_TOKEN),
    }


async def post(client: httpx.AsyncClient, source: str, webhook: Webhook) -> httpx.Response:
    """Send a webhook to the relay."""
    return await client.post(webhook.url(f"/webhooks/{source}"), content=webhook.body, headers=webhook.headers)


async def accepted(client: httpx.AsyncClient, source: str, webhook: Webhook) -> str:
    """Send a webhook that becomes an order; returns the order's id."""
    answer = await post(client, source, webhook)
    assert answer.json()["verdict"] == "accepted", answer.text
    return str(answer.json()["order_id"])


async def reasons(relay: Relay, order_id: str) -> str:
    """Everything that an order's events say, as one text."""
    return "\n".join(event["reason"] or "" for event in (await relay.ops.order(order_id))["events"])
