"""Real payloads with persons that are found wherever they come out, and a far side that gossips of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_plus, urlencode

import httpx
from sqlalchemy import text

from reward_relay.db.engine import Database
from reward_relay.db.tables import metadata
from reward_relay.inbound import folded

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "src" / "reward_relay" / "sandbox" / "samples"
RECORDED = ROOT / "tests" / "contract" / "recorded"
CANARY = re.compile(r"qzx\d+|\d*5550199\d+", re.IGNORECASE)
"""In everything personal that is planted."""
PEOPLE = {"person", "contact", "ambassador", "customer", "holder", "shippingaddress", "recipient", "member"}
NAMES = {"firstname", "lastname", "fullname", "username"}
OF_PEOPLE = {"name", "sourceid"}
PLACES = {"address", "address1", "line1", "street", "city", "zip", "postalcode"}


class Planted:
    """Replaces what is personal in payloads, each value by one of its own."""

    def __init__(self) -> None:
        self.emails: list[str] = []
        self._known: dict[str, str] = {}

    def body(self, body: bytes) -> bytes:
        """A recorded body with made-up persons: JSON, or a form whose `payload` is JSON."""
        if body.lstrip().startswith(b"{"):
            return json.dumps(self.value(json.loads(body)), separators=(",", ":")).encode()
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        form["payload"] = json.dumps(self.value(json.loads(form["payload"])), separators=(",", ":"))
        return urlencode(form).encode()

    def value(self, value: Any, key: str = "", parent: str = "") -> Any:
        """A part of a payload."""
        if isinstance(value, dict):
            return {name: self.value(each, folded(name), key) for name, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, key, parent) for each in value]
        kind = _kind(key, parent)
        return self._made_up(kind, value) if kind and isinstance(value, str) and value else value

    def _made_up(self, kind: str, value: str) -> str:
        number = len(self._known) + 1
        forms = {"email": f"qzx{number}@qzx{number}.example", "phone": f"+15550199{number:03}"}
        found = self._known.setdefault(f"{kind} {value}", forms.get(kind, f"Qzx{number}"))
        if kind == "email" and found not in self.emails:
            self.emails.append(found)
        return found


def _kind(key: str, parent: str) -> str | None:
    if "email" in key:
        return "email"
    if "phone" in key:
        return "phone"
    return "text" if key in NAMES | PLACES or (key in OF_PEOPLE and parent in PEOPLE) else None


WITHDRAWING = re.compile("cancelled|voided|rolled_back|event_fulfilled")


def recorded_bodies(*, withdrawing: bool = False) -> Iterator[tuple[str, bytes]]:
    """The platform and body of every webhook that is recorded: of the contract suites, and the sandbox's samples.

    Those that take a reward back are left for a second round.
    """
    for path in sorted(RECORDED.glob("*/event_*.json")):
        if bool(WITHDRAWING.search(path.stem)) is withdrawing:
            yield path.parent.name, json.loads(path.read_text())["body"].encode()
    if withdrawing:
        return
    for path in sorted(SAMPLES.glob("*.json")):
        source = path.stem.partition("_")[0]
        if source != "giftcard" and "reward_redemptions" not in path.stem:
            body = path.read_bytes()
            yield source, urlencode({"payload": body.decode()}).encode() if source == "talkable" else body


class Gossip:
    """A far side that repeats in its answers whatever it was sent, and what it knows besides, as `mode` says."""

    MODES = (
        "fine",
        "declined",
        "place_400",
        "place_422",
        "place_500",
        "close_400",
        "close_500",
        "talks",
        "fault",
    )

    def __init__(self, mode: str, planted: Planted) -> None:
        self._mode = mode
        self._planted = planted
        self.people: dict[str, str] = {}
        """What is known of whom: by what closing calls name them."""

    def transport(self) -> httpx.MockTransport:
        """Its network."""
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path, method = request.url.path, request.method
        if path.endswith("/Tokens"):
            return httpx.Response(200, json={"Value": "bearer-1", "ExpiresIn": 3600})
        if path.endswith("/v1/Orders"):
            return self._place(request)
        if path.startswith("/gcp/v1/Orders/"):
            return httpx.Response(200, json={"Id": "G1", "Status": "Completed"})
        if method == "GET" and "/customers/" in path:
            return httpx.Response(200, json=self._customer())
        if path.endswith("/reward_redemptions"):
            return httpx.Response(200, json={"reward_redemptions": [], "contacts": []})
        return self._closing(request)

    def _customer(self) -> dict[str, Any]:
        address = {"line_1": "7 Long Way", "city": "Ames", "state": "IA", "postal_code": "50010", "country": "US"}
        return dict(
            self._planted.value({"customer": {"name": "J", "email": "j@x.org", "address": address}})["customer"]
        )

    def _place(self, request: httpx.Request) -> httpx.Response:
        asked = request.content.decode()
        said = f"cannot deliver {asked}, nor to {unquote_plus(quote(asked)).upper()}"
        if self._mode == "fault":
            raise ValueError(f"cannot read {asked!r}")
        if self._mode.startswith("place_"):
            answer = {"Message": said[:400], "Errors": {"LineItems[0]": [said]}}
            return httpx.Response(int(self._mode[-3:]), json=answer)
        status, reason = ("Declined", {"Reason": said}) if self._mode == "declined" else ("Completed", {})
        claim = {"LineItems": [{"ClaimUrl": "https://claim.example/CLAIM-1", "Pin": "CLAIM-2"}]}
        return httpx.Response(201, json={"Id": "G1", "Status": status, **reason, **claim})

    def _closing(self, request: httpx.Request) -> httpx.Response:
        status = int(self._mode[-3:]) if self._mode in ("close_400", "close_500") else 200
        about = [person for key, person in self.people.items() if key in unquote_plus(str(request.url))]
        told = f"{request.url} and {request.content.decode()} about {about}"
        return httpx.Response(status, json={"error_message": told[:450]} if self._mode != "fine" else {})


async def everything(database: Database) -> str:
    """Every column of every table as text, bytes too, and percent signs resolved."""
    found = []
    async with database.transaction() as connection:
        for name in metadata.tables:
            rows = await connection.execute(text(f"SELECT * FROM {name}"))
            for row in rows.mappings():
                values = (bytes(each) if isinstance(each, bytes | memoryview) else each for each in row.values())
                shown = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values]
                found.append(f"{name}: " + " | ".join(shown))
    return unquote_plus("\n".join(found))


def leaks(told: str) -> list[str]:
    """The lines that hold something personal."""
    return [line[:300] for line in told.splitlines() if CANARY.search(line)]
