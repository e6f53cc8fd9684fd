"""Tools for reading what comes in: constant-time secret checks, forms, and tolerant look-ups in JSON."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import SecretStr

from reward_relay.contracts import InboundRequest
from reward_relay.errors import Unauthenticated, Unreadable

MAX_FORM_FIELDS = 200
MAX_ESCAPES = 100_000
"""Escaped bytes (%41) of a form: each costs as much to read as a hundred plain ones."""
MAX_REMEMBERED = 64
"""Letters of a key that is worth remembering; a sender may make up keys of a megabyte."""


def is_one_of(candidate: str, secrets: Iterable[SecretStr]) -> bool:
    """Whether `candidate` equals one of the secrets; takes the same time whichever it is."""
    given, found = candidate.encode("utf-8", "replace"), False
    for secret in secrets:
        found |= hmac.compare_digest(given, secret.get_secret_value().encode())
    return found


def check_token(request: InboundRequest, source: str, secrets: Sequence[SecretStr]) -> None:
    """The shared-token scheme: header `X-Webhook-Token`, or query `token`.

    Raises:
        Unauthenticated: no token, or none of ours.
    """
    token = request.headers.get("x-webhook-token") or request.query.get("token")
    if not token:
        raise Unauthenticated(
            f"no token: send header X-Webhook-Token, or ?token= in the URL, with one of sources.{source}.secrets"
        )
    if not is_one_of(token, secrets):
        raise Unauthenticated(f"the token is none of sources.{source}.secrets; was it rotated on one side only?")


def signature(secret: SecretStr, body: bytes, encoding: Literal["hex", "base64", "base64-of-hex"]) -> str:
    """HMAC-SHA256 of the body in the text form a platform sends it in."""
    mac = hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256)
    if encoding == "hex":
        return mac.hexdigest()
    raw = mac.digest() if encoding == "base64" else mac.hexdigest().encode()
    return base64.b64encode(raw).decode()


def check_signature(
    given: str,
    bodies: Sequence[bytes],
    secrets: Sequence[SecretStr],
    encoding: Literal["hex", "base64", "base64-of-hex"],
) -> bool:
    """Whether `given` signs one of `bodies` (one body, in the forms the platform may have signed) with one secret."""
    wanted, found = given.strip().encode("utf-8", "replace"), False
    for body in bodies:
        for secret in secrets:
            found |= hmac.compare_digest(wanted, signature(secret, body, encoding).encode())
    return found


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a form-encoded body; of a repeated one the last.

    Raises:
        Unreadable: more fields than any platform sends, or more escapes.
    """
    if body.count(b"%") > MAX_ESCAPES:
        raise Unreadable(f"the form has more than {MAX_ESCAPES} escaped characters; that is not a reward webhook")
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise Unreadable(f"the form has more than {MAX_FORM_FIELDS} fields; that is not a reward webhook") from None
    return dict(pairs)


def dig(data: Any, path: str) -> Any:
    """The value at a dotted path (`payload.items.0.sku`), None where there is none."""
    for part in path.split("."):
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


_SEPARATORS = re.compile(r"[\s_\-]+")


def folded(name: str) -> str:
    """A key without its spelling: `shipping_address`, `shippingAddress` and `Shipping-Address` are one."""
    return _short_folded(name) if len(name) <= MAX_REMEMBERED else _folded(name)


def _folded(name: str) -> str:
    return _SEPARATORS.sub("", name).lower()


_short_folded = lru_cache(4096)(_folded)


def pick(data: Any, *names: str) -> Any:
    """The first of the named fields that is there and neither null nor empty, however its key is spelled."""
    if not isinstance(data, Mapping):
        return None
    fields = {folded(str(key)): value for key, value in data.items()}
    for name in names:
        value = fields.get(folded(name))
        if value is not None and value != "" and value != {} and value != []:
            return value
    return None


def text_of(value: Any) -> str | None:
    """A scalar as text; None for what is missing or is no scalar. Booleans are not text."""
    if value is None or isinstance(value, bool | Mapping | list):
        return None
    return str(value)


def kept_headers(request: InboundRequest) -> dict[str, str]:
    """The headers worth keeping as evidence: never a token, a cookie or an authorization."""
    names = ("content-type", "user-agent", "x-request-id", "idempotency-key")
    return {
        name: value.replace("\x00", "")[:500]
        for name, value in request.headers.items()
        if name in names or name.endswith("-signature")
    }


NUMBERLIKE = re.compile(r"(?=\D*\d)[\d.,' €$£¥]{1,12}(?:[A-Z]{3})?")


def quoted_number(value: Any) -> str:
    """A refused number for people, if it looks like one: whatever else stands there could be about a person."""
    text = text_of(value)
    if text is None:
        return f"a {type(value).__name__}"
    return ascii(text) if NUMBERLIKE.fullmatch(text) else f"a text of {len(text)} characters"
