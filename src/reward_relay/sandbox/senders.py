"""Webhooks exactly as each platform sends them: headers, query and the very bytes that were signed.

The signatures are computed here anew, not by the relay's own code: a mistake there must not cancel itself out.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Webhook:
    """One POST, complete but for the address."""

    headers: dict[str, str]
    body: bytes = field(repr=False)
    query: dict[str, str] = field(default_factory=dict)

    def url(self, address: str) -> str:
        """`address` with the webhook's query."""
        return f"{address}?{urlencode(self.query)}" if self.query else address


def sample(name: str) -> Any:
    """A recorded payload by its file name without `.json`; a new object each time, yours to change."""
    return json.loads(files(__package__).joinpath("samples", f"{name}.json").read_bytes())


def _compact(payload: Any) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _hex_mac(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


JSON = {"Content-Type": "application/json"}


def talkable_form(payload: Any, key: str, site: str = "sandbox") -> Webhook:
    """Talkable documentation, Reward Webhook: a form whose `payload` is JSON as text."""
    fields = {"key": key, "site": site, "type": "reward_web_hook", "extras": "{}"}
    body = urlencode({**fields, "payload": _compact(payload).decode()}).encode()
    return Webhook({"Content-Type": "application/x-www-form-urlencoded"}, body)


def talkable_json(payload: Any, key: str, site: str = "sandbox") -> Webhook:
    """The same fields as JSON, as a published description of the webhook has them."""
    fields = {"key": key, "site": site, "type": "reward_web_hook", "extras": {}}
    return Webhook(JSON, _compact({**fields, "payload": payload}))


def talkable_custom_app(payload: Any, secret: str) -> Webhook:
    """Talkable documentation, Custom App: base64 of the *hex text* of HMAC-SHA256."""
    body = _compact(payload)
    signature = base64.b64encode(_hex_mac(secret, body).encode()).decode()
    return Webhook({**JSON, "x-talkable-signature": signature}, body)


def voucherify(payload: Any, secret: str, *, enveloped: bool = True) -> Webhook:
    """Voucherify documentation, webhooks: hex HMAC-SHA256 over the compact JSON; raw mode sends `data` alone."""
    body = _compact(_in_envelope(payload) if enveloped else payload)
    return Webhook({**JSON, "x-voucherify-signature": _hex_mac(secret, body)}, body)


def _in_envelope(payload: Any) -> dict[str, Any]:
    redemption = payload.get("redemption") or {}
    return {
        "id": f"evwh_{hashlib.sha256(_compact(payload)).hexdigest()[:24]}",
        "project_id": "proj_sandbox",
        "created_at": redemption.get("date") or "2024-01-18T15:27:56.234Z",
        "type": "customer.rewarded",
        "data": payload,
        "source": {"channel": "SANDBOX"},
        "event": {"id": "ev_sandbox", "type": "customer.rewarded"},
    }


def roster(payload: Any, token: str) -> Webhook:
    """Roster publishes no scheme: the shared token in a header."""
    return Webhook({**JSON, "X-Webhook-Token": token}, _compact(payload))


def influitive(payload: Any, token: str) -> Webhook:
    """Influitive publishes no scheme: the shared token in the URL, the one place every webhook form has."""
    return Webhook(JSON, _compact(payload), {"token": token})


def roster_order(
    order_id: str, *, email: str = "ann@example.com", sku: str = "star-th-bottle", name: str = "Ann Sandbox"
) -> dict[str, Any]:
    """A made-up `reward redeemed` payload: shipping address, SKU and quantity are documented, the names are not."""
    return {
        "event": "reward_redeemed",
        "order": {
            "id": order_id,
            "created_at": "2026-01-15T10:00:00Z",
            "ambassador": {"name": name, "email": email},
            "shipping_address": {
                "name": name,
                "address1": "12 Main Street",
                "city": "Ames",
                "state": "IA",
                "zip": "50010",
                "country": "US",
            },
            "line_items": [{"sku": sku, "name": "Star Thermal Bottle", "quantity": 1}],
        },
    }


def influitive_redemption(
    redemption_id: int | str, *, email: str = "ann@example.com", sku: str = "star-th-bottle"
) -> dict[str, Any]:
    """A made-up redemption with its reward, Reward Metadata and contact; `/sandbox/redemptions` takes it too."""
    return {
        "reward_redemption": {
            "id": redemption_id,
            "created_at": "2026-01-15T10:00:00Z",
            "contact_id": 501,
            "reward": {"id": 77, "name": "Star Thermal Bottle", "metadata": {"sku": sku}},
        },
        "contact": {
            "id": 501,
            "name": "Ann Sandbox",
            "email": email,
            "address": "12 Main Street",
            "city": "Ames",
            "state": "IA",
            "zip": "50010",
            "country": "US",
        },
    }
