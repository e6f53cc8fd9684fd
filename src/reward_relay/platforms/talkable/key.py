"""The key that Talkable's classic webhook carries in its body: found for the check, kept out of what is stored."""

import codecs
import json
import re
from collections.abc import Sequence
from urllib.parse import quote_plus, unquote_plus

from pydantic import SecretStr

from reward_relay.contracts import read_json
from reward_relay.errors import Unreadable
from reward_relay.inbound import MAX_FORM_FIELDS
from reward_relay.platforms.talkable.wire import is_json

STARS = "***"
MAX_NAME = 20
"""Bytes of a field's name that may still be `key`, escaped."""
MAX_ESCAPED = 8
"""How deep escapes may be in escapes before they are looked at one by one."""
_LOSSLESS = "surrogateescape"
# A string that never ends takes the rest of the text with it: looking for its end again and again would be quadratic.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_ESCAPE = re.compile(r"\\++u([0-9a-fA-F]{4})")
_TOKEN = re.compile(_STRING.pattern + r"|[{}\[\]:,]", re.DOTALL)


def key_of(body: bytes) -> str | None:
    """The body's `key`, None where there is none or the body cannot be read."""
    if not is_json(body):
        return _key_of_form(body)
    try:
        # Decoded here, so that only UTF-8 passes: what is blanked below must be what was read.
        fields = read_json(body.removeprefix(codecs.BOM_UTF8).decode("utf-8", _LOSSLESS))
    except Unreadable:
        return None
    key = fields.get("key") if isinstance(fields, dict) else None
    return key if isinstance(key, str) and key else None


def _key_of_form(body: bytes) -> str | None:
    """The last `key` of a form. The other fields are not decoded: whoever sends them has not proved anything yet."""
    if body.count(b"&") >= MAX_FORM_FIELDS:
        return None
    fields = [field.partition(b"=") for field in body.split(b"&")]
    found = [value for name, _, value in fields if len(name) <= MAX_NAME and _unquoted(name) == "key"]
    return unquote_plus(found[-1].decode("utf-8", "replace"), errors="replace") or None if found else None


def without_key(body: bytes, secrets: Sequence[SecretStr]) -> bytes:
    """A body as it may be stored: each top-level `key` as stars, and no secret anywhere; all else byte for byte."""
    plain = [secret.get_secret_value() for secret in secrets]
    if is_json(body):
        text = _blanked(body.decode("utf-8", _LOSSLESS))
        return _scrubbed(text, plain).encode("utf-8", _LOSSLESS)
    return b"&".join(_field(field, plain) for field in body.split(b"&"))


def without_secrets(body: bytes, secrets: Sequence[SecretStr]) -> bytes:
    """A signed body as it may be stored: byte for byte, unless the customer's template holds a secret."""
    plain = [secret.get_secret_value() for secret in secrets]
    return _scrubbed(body.decode("utf-8", _LOSSLESS), plain).encode("utf-8", _LOSSLESS)


def _field(field: bytes, secrets: list[str]) -> bytes:
    """One field of a form, blanked if it is the key."""
    name, equals, value = field.partition(b"=")
    if equals and _unquoted(name) == "key":
        return name + b"=" + STARS.encode()
    return _part(name, secrets) + equals + _part(value, secrets)


def _part(part: bytes, secrets: list[str]) -> bytes:
    plain = _unquoted(part)
    cleaned = _scrubbed(plain, secrets)
    return part if cleaned == plain else quote_plus(cleaned, safe="*", errors=_LOSSLESS).encode()


def _unquoted(part: bytes) -> str:
    return unquote_plus(part.decode("utf-8", _LOSSLESS), errors=_LOSSLESS)


def _blanked(text: str) -> str:
    """JSON text with the string value of every top-level `key` as stars, however the name is escaped or repeated."""
    parts: list[str] = []
    end, depth, name, naming = 0, 0, None, False
    for token in _TOKEN.finditer(text):
        lexeme = token[0]
        if lexeme in "{[":
            depth, naming = depth + 1, True
        elif lexeme in "}]":
            depth -= 1
        elif depth != 1:
            continue
        elif lexeme in ":,":
            naming = lexeme == ","
        elif naming:
            name = _decoded(lexeme)
        elif name == "key":
            parts += [text[end : token.start()], json.dumps(STARS)]
            end = token.end()
    return "".join([*parts, text[end:]])


def _scrubbed(text: str, secrets: list[str]) -> str:
    """Text without any secret, also none that the escapes of JSON hide, at whatever depth of JSON within JSON."""
    for secret in secrets:
        text = text.replace(secret, STARS)
    if "\\" not in text or not _may_hide(text, secrets):
        return text

    def clean(token: re.Match[str]) -> str:
        plain = _decoded(token[0]) if "\\" in token[0] else None
        if plain is None:
            return token[0]
        cleaned = _scrubbed(plain, secrets)
        return token[0] if cleaned == plain else json.dumps(cleaned)

    return _STRING.sub(clean, text)


def _may_hide(text: str, secrets: list[str]) -> bool:
    """Whether escapes, at any depth, could hide a secret: a look that is cheap, and wrong only in saying yes."""
    if not all(secret.isascii() and "\\" not in secret for secret in secrets):
        return True
    for _ in range(MAX_ESCAPED):
        plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
        bare = plain.replace("\\", "")
        if any(secret in bare for secret in secrets):
            return True
        if plain == text:
            return False
        text = plain
    return True


def _decoded(lexeme: str) -> str | None:
    """The text that a JSON string stands for, None where it is none."""
    try:
        value = json.loads(lexeme, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
