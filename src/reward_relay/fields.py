"""Types of settings that several modules share: addresses, header values, lists."""

import base64
from typing import Annotated

import httpx
from pydantic import AfterValidator, BeforeValidator, SecretStr

from reward_relay.addresses import canonical
from reward_relay.contracts import listed


def _parsed_url(value: str) -> httpx.URL:
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        raise ValueError(f"is not a URL ({error})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be an http:// or https:// address")
    if url.userinfo:
        raise ValueError("has something before an @; leave out name and password, they would not be sent")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("has a port that does not exist")
    canonical(url.host)
    return url


def _http_url(value: str) -> str:
    url = _parsed_url(value)
    if url.query or url.fragment:
        raise ValueError("has a ? or a # in it; give the address that the paths of the API follow")
    return value.rstrip("/")


def _secret_url(value: SecretStr) -> SecretStr:
    try:
        _parsed_url(value.get_secret_value())
    except ValueError:
        raise ValueError(
            "must be an http:// or https:// address without name and password; was it pasted completely?"
        ) from None
    return value


def _without_version(value: str) -> str:
    if value.endswith("/v1"):
        raise ValueError("leave out /v1 at the end; the relay adds it")
    return value


def _header_text(value: str) -> str:
    if not value:
        raise ValueError("is empty; was it pasted completely?")
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("must be plain letters, digits and signs, without spaces around; was it pasted completely?")
    return value


def _header_secret(value: SecretStr) -> SecretStr:
    _header_text(value.get_secret_value())
    return value


def _encryption_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    try:
        size = len(base64.b64decode(key, altchars=b"-_", validate=True))
    except ValueError:
        size = 0
    if size != KEY_BYTES:
        raise ValueError(f"must be {KEY_BYTES} bytes in URL-safe base64; make one with: reward-relay config new-key")
    return value


def _each_once(keys: list[SecretStr]) -> list[SecretStr]:
    if len({key.get_secret_value() for key in keys}) < len(keys):
        raise ValueError("has the same key twice; a new key goes in front, the old one stays behind it")
    return keys


KEY_BYTES = 32
HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""An http(s) address in the customer's own spelling, without a trailing slash."""
SecretUrl = Annotated[SecretStr, AfterValidator(_secret_url)]
"""An http(s) address that is a credential itself."""
RootUrl = Annotated[HttpUrl, AfterValidator(_without_version)]
"""The same of an API whose paths bring their version along."""
HeaderText = Annotated[str, AfterValidator(_header_text)]
"""Text that may go into an HTTP header."""
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_secret)]
"""A secret that goes into an HTTP header."""
TextList = Annotated[list[str], BeforeValidator(listed)]
"""A list of texts; `a,b` in an environment variable is two."""
HostList = Annotated[list[Annotated[str, AfterValidator(canonical)]], BeforeValidator(listed)]
"""The same of hosts, as names or addresses, each in the form in which hosts are compared."""
EncryptionKeys = Annotated[
    list[Annotated[SecretStr, AfterValidator(_encryption_key)]], BeforeValidator(listed), AfterValidator(_each_once)
]
"""Fernet's keys, newest first."""
