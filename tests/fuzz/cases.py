"""Hostile webhooks, made from the real ones: keys dropped and doubled, values of every kind, bytes bent, signed or not.

Everything is drawn from one `random.Random`: the command gives it a seed, hypothesis gives the tests one of its own,
whose draws it can shrink.
"""

import base64
import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

from reward_relay.sandbox import senders
from support.relays import INFLUITIVE_TOKEN, OPERATOR, ROSTER_TOKEN, TALKABLE_KEY, VIEWER, VOUCHERIFY_KEY

SECRETS = {
    "talkable": TALKABLE_KEY,
    "voucherify": VOUCHERIFY_KEY,
    "roster": ROSTER_TOKEN,
    "influitive": INFLUITIVE_TOKEN,
}
EVERY_SECRET = (*SECRETS.values(), "talkable-key-0", "gcp-access-token", "roster-api-token", "app-token")
EVERY_SECRET += ("influitive-api-token", OPERATOR, VIEWER)
MAX_BODY = 1 << 20
KINDS = (*SECRETS, "custom_app", "callback", "elsewhere")
TYPES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/xml",
    "x" * 5000,
    "",
    "\xff\xfe",
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**40, "", " ", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "💥" * 50, "é" * 200,
    "A" * 300, "9" * 5000, "1e999999", "-0", "NaN", "Infinity", "0x10", "١٢٣", "$25,00", "2026-99-99",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00", "../../etc/passwd", "'; DROP TABLE orders; --", "<script>", "%00", "{{7*7}}", "\u202e",
    [], {}, [[]], [None] * 30, {"id": {"id": {}}}, {"": ""}, [{"sku": None}] * 250, {"__proto__": 1}, "ana@" * 40,
)  # fmt: skip
ODD_JSON = (
    b"NaN", b"1e999999", b"-", b"9" * 5000, b"0." + b"1" * 3000, b'"\\ud800"', b'"\\u0000"', b"[" * 2000,
    b'{"a":' * 2000,
    b"\xff", b"\xef\xbb\xbf{}", b"", b"null", b"[]", b'"', b'{"id":1,"id":2}', b"[1,]", b"{'a': 1}", b"\x00" * 100,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `signed`: its sender knows the secret of its source, so it must be stored."""

    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    kind: str
    signed: bool
    encoded: bool = False

    @property
    def expected(self) -> frozenset[int]:
        """The answers that are right, while the database is there."""
        if self.kind in ("callback", "elsewhere"):
            return frozenset({404, 401, 405, 413, 415, 422})
        if len(self.body) > MAX_BODY:
            return frozenset({413})
        if self.encoded:
            return frozenset({415})
        return frozenset({202}) if self.signed else frozenset({401})


def case(random: Random) -> Case:
    """One request out of all that can be drawn."""
    kind = random.choice(KINDS)
    if kind in ("callback", "elsewhere"):
        return _elsewhere(random, kind)
    body = _body(random, kind)
    signed = random.random() < 0.6
    headers, query, body = _signed(random, kind, body, signed)
    encoded = random.random() < 0.04
    if encoded:
        headers["Content-Encoding"] = random.choice(["gzip", "deflate", "br", "GZIP, gzip", "x" * 200])
        body = random.choice([gzip.compress(body), zlib.compress(body), body])
    if random.random() < 0.2:
        headers["Content-Type"] = random.choice(TYPES)
    if random.random() < 0.1:
        headers |= _odd_headers(random)
    source = "talkable" if kind == "custom_app" else kind
    path = f"/webhooks/{source}" + (f"?{urlencode(query)}" if query else "")
    return Case(path, headers, body, kind, signed, encoded)


def _elsewhere(random: Random, kind: str) -> Case:
    body = random.choice([b"", b"{}", random.randbytes(100), b"x" * 70_000])
    odd = random.choice(
        ["x", "RR-0123456789ABCDEF.guess", "%00", "%ff%fe", "a" * 3000, "..%2f..", "%f0%9f%92%a5", "-1"]
    )
    if kind == "callback":
        vendor = random.choice(["gcp", "nobody", "%00", "gcp%20"])
        return Case(f"/vendor-webhooks/{vendor}/{odd}", {"Content-Type": "application/json"}, body, kind, False)
    path = random.choice([f"/webhooks/{odd}", "/api/v1/orders/x/hold", "/api/v1/routes/explain", "/api/v1/bulk/act"])
    headers = {
        "Content-Type": random.choice(TYPES[:5]),
        "Authorization": random.choice(["Bearer x", "Basic eDp4", "x"]),
    }
    return Case(path, headers, body, kind, False)


# --- bodies ----------------------------------------------------------------------------------------------


def _sample(random: Random, kind: str) -> Any:
    number = random.randrange(1 << 30)
    if kind == "roster":
        return senders.roster_order(f"R-{number}")
    if kind == "influitive":
        return senders.influitive_redemption(number)
    if kind == "voucherify":
        payload = senders.sample("voucherify_customer_rewarded")
        payload["redemption"]["id"] = f"r_{number}"
        return payload if random.random() < 0.5 else {"type": "customer.rewarded", "data": payload}
    name = random.choice(["referrer", "click", "referred", "shared", "signup"])
    payload = senders.sample(f"talkable_{name}")
    payload["reward"]["id"] = number
    return payload


def _body(random: Random, kind: str) -> bytes:
    if random.random() < 0.08:
        return random.choice([random.randbytes(random.randrange(300)), *ODD_JSON])
    payload = _sample(random, kind)
    for _ in range(random.choice([0, 0, 1, 1, 2, 5, 12])):
        payload = _bent(random, payload)
    text = json.dumps(
        payload, ensure_ascii=random.random() < 0.5, separators=random.choice([(",", ":"), (", ", " : ")])
    )
    body = text.encode("utf-8", "surrogatepass")
    for _ in range(random.choice([0, 0, 0, 1, 3])):
        body = random.choice(BENDS)(random, body)
    if random.random() < 0.003:
        body = body.ljust(random.choice([MAX_BODY, MAX_BODY - 1, 300_000, MAX_BODY + 1, 2 * MAX_BODY]))
    return body


def _bent(random: Random, payload: Any) -> Any:
    """The payload with one thing wrong, at a place that is drawn."""
    place, path = payload, []
    while isinstance(place, dict | list) and place and random.random() < 0.75:
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path.append(key)
        place = place[key]
    if not path:
        return random.choice([payload, [payload], {"data": payload}, {"order": payload}, {"payload": payload}])
    inside = payload
    for key in path[:-1]:
        inside = inside[key]
    what = random.randrange(4)
    if what == 0:
        del inside[path[-1]]
    elif what == 1 and isinstance(inside, dict):
        inside[random.choice(["ID", "_id", "Item-s", "\x00", "k" * 500, str(path[-1]).upper()])] = inside.pop(path[-1])
    elif what == 2:
        nested: Any = place
        for _ in range(random.choice([1, 5, 60])):
            nested = [nested] if random.random() < 0.5 else {"data": nested}
        inside[path[-1]] = nested
    else:
        inside[path[-1]] = deepcopy(random.choice(ODD_VALUES))
    return payload


def _flip(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) or 1)
    return body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]


def _cut(random: Random, body: bytes) -> bytes:
    return body[: random.randrange(len(body) + 1)]


def _insert(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) + 1)
    return body[:at] + random.choice(ODD_JSON)[:3000] + body[at:]


def _double(random: Random, body: bytes) -> bytes:
    """Every key twice, with different values."""
    return body.replace(b'"id":', random.choice([b'"id":0,"id":', b'"id":{},"id":', b'"id":"x","id":']))


def _escaped(random: Random, body: bytes) -> bytes:
    return body.replace(b"a", b"\\u0061") if random.random() < 0.5 else body.replace(b"\\", b"\\\\")


def _recoded(random: Random, body: bytes) -> bytes:
    text = body.decode("utf-8", "replace")
    return text.encode(random.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"]), "replace")


def _repeated(random: Random, body: bytes) -> bytes:
    return body * random.choice([2, 10])


BENDS: tuple[Callable[[Random, bytes], bytes], ...] = (_flip, _cut, _insert, _double, _escaped, _recoded, _repeated)


# --- who sends it ----------------------------------------------------------------------------------------


def _signed(random: Random, kind: str, body: bytes, right: bool) -> tuple[dict[str, str], dict[str, str], bytes]:
    """Headers, query and body with the proof that the source asks for, or with one that proves nothing."""
    if kind == "talkable":
        return _with_key(random, body, right)
    if kind in ("roster", "influitive"):
        token = SECRETS[kind] if right else _wrong(random, kind)
        in_query = random.random() < 0.5
        return ({}, {"token": token}, body) if in_query else ({"X-Webhook-Token": token}, {}, body)
    secret = SECRETS["talkable" if kind == "custom_app" else kind]
    secret = secret if right else random.choice(["wrong", *(each for each in EVERY_SECRET if each != secret)])
    if not right and secret == "talkable-key-0":
        secret = "wrong"
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if kind == "custom_app":
        return {"x-talkable-signature": base64.b64encode(mac.encode()).decode()}, {}, body
    if not right and random.random() < 0.3:
        mac = random.choice(["", "é", mac[:-1], "0" * 64, "x" * 5000])
    return {"X-Voucherify-Signature": mac}, {}, body


def _with_key(random: Random, body: bytes, right: bool) -> tuple[dict[str, str], dict[str, str], bytes]:
    """Talkable's classic webhook: a form with the key. What is bent is its payload, so that the key can be found."""
    key = SECRETS["talkable"] if right else _wrong(random, "talkable")
    fields = [f"key={quote_plus(key)}", "site=s", "type=reward_web_hook", "payload=" + quote(body[:300_000], safe="")]
    if random.random() < 0.1:
        fields += [f"field{number}=%ff" for number in range(random.choice([3, 150]))]
    if random.random() < 0.5:
        fields.reverse()
    return {"Content-Type": "application/x-www-form-urlencoded"}, {}, "&".join(fields).encode()


def _wrong(random: Random, kind: str) -> str:
    others = [each for each in EVERY_SECRET if each not in (SECRETS[kind], "talkable-key-0")]
    return random.choice(["wrong", "x" * 3000, SECRETS[kind] + "1", SECRETS[kind][:-1], SECRETS[kind].upper(), *others])


def _odd_headers(random: Random) -> dict[str, str]:
    return random.choice(
        [
            {"X-Forwarded-For": "1.2.3.4, 5.6.7.8"},
            {"User-Agent": "\xe9" * 900},
            {"Idempotency-Key": "k" * 4000},
            {"traceparent": "00-zz-zz-zz"},
            {"X-Request-Id": "a\tb"},
            {"Accept": "text/html"},
            {"Cookie": "relay_session=alice.x.y"},
            {f"X-{number}": "v" for number in range(60)},
        ]
    )
