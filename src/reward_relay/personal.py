"""What is personal in a text: the values of a reward's person, and every e-mail address. Found, and masked.

Vendors and platforms repeat what they were sent, in error messages most of all. What they say is recorded with the
order and outlives the person's data, so it is masked before.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from reward_relay.contracts import Recipient

STARS = "***"
LEAST, LEAST_PHONE = 3, 7
"""Shorter values (a state, a country) tell nobody apart, and are parts of other words."""
EMAIL = re.compile(r"[\w.!#$%*+~-]{1,64}(?:@|%40)[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
ESCAPED = re.compile(r"\\u([0-9a-f]{4})", re.IGNORECASE)
NOT_MASKED = ("country", "state")


def masked(text: str, recipient: Recipient) -> str:
    """What others say, without its person: whole values in any case and spelling, parts of the name as written."""
    if not text:
        return text
    small = text.lower()
    for form in sorted({form for value in _values(recipient) for form in _spellings(value)}, key=len, reverse=True):
        if form.lower() in small:
            edge = r"[\w-]" if form.isdigit() else r"\w"
            text = re.sub(rf"(?<!{edge}){re.escape(form)}(?!{edge})", STARS, text, flags=re.IGNORECASE)
    for part in (recipient.name or "").split():
        if len(part) >= LEAST and part in text:
            text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", STARS, text)
    return EMAIL.sub(STARS, text) if "@" in text or "%40" in text else text


def _spellings(value: str) -> tuple[str, ...]:
    """As it is, in a URL's path or query, in JSON."""
    return value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]


def _values(recipient: Recipient) -> Iterator[str]:
    address = recipient.address.model_dump(exclude_none=True) if recipient.address else {}
    found = [recipient.name, recipient.email, *(value for name, value in address.items() if name not in NOT_MASKED)]
    yield from (value for value in found if value and len(value) >= LEAST)
    if recipient.phone:
        yield recipient.phone
        digits = re.sub(r"\D", "", recipient.phone)
        if len(digits) >= LEAST_PHONE:
            yield digits


class Address:
    """An e-mail address to look for. What another address begins or ends with is not meant."""

    def __init__(self, email: str) -> None:
        self.email = _folded(email.strip())
        self._pattern = re.compile(rf"(?<![\w.%+-]){re.escape(self.email)}(?![\w-]|\.\w)")

    def is_in(self, body: bytes) -> bool:
        """Whether a body names it: as text, in JSON's escapes, or encoded as in a form, up to twice."""
        forms = [body.decode("utf-8", "replace")]
        for form in forms[:]:
            forms += [unquote(form), unquote_plus(form), unquote_plus(unquote_plus(form))]
        return any(self.is_in_text(form) for form in dict.fromkeys(forms))

    def is_in_text(self, text: str) -> bool:
        """Whether a text names it."""
        plain = ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "\\u" in text.lower() else text
        return bool(self._pattern.search(_folded(plain)))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
