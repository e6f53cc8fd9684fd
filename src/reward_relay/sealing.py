"""Bodies at rest: sealed with the newest of the configured keys, opened with whichever of them sealed it.

A key is known by its digest, which stands beside what it sealed: so a missing key can be named, and it can be counted
what an old one is still needed for. Without keys everything is stored as it came. A seal is Fernet's (AES-128-CBC and
HMAC-SHA256), without the base64 around it.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from reward_relay.errors import KeyMissing

PLAIN = "plain"
SEPARATOR = b":"


@dataclass(frozen=True, slots=True)
class Stored:
    """A body as it is kept. `key` is the digest of the key that sealed it, None where it is plain; false once removed.

    It is no `bytes` on purpose: whoever wants to read it has to ask `Sealing.open`.
    """

    body: bytes = field(repr=False)
    key: str | None = None

    def __bool__(self) -> bool:
        return bool(self.body)


class Sealing:
    """Seals with the first key, opens with all of them.

    Raises:
        ValueError: a key is none of Fernet's.
    """

    def __init__(self, keys: Sequence[SecretStr] = ()) -> None:
        plain = [key.get_secret_value() for key in keys]
        self._keys = {digest(key): Fernet(key) for key in plain}
        self.newest = digest(plain[0]) if plain else None

    @property
    def known(self) -> tuple[str, ...]:
        """The digests of the keys, newest first."""
        return tuple(self._keys)

    def seal(self, body: bytes) -> Stored:
        """A body as it may be kept; an empty one, and any without keys, stays as it is."""
        if self.newest is None or not body:
            return Stored(body)
        return Stored(base64.urlsafe_b64decode(self._keys[self.newest].encrypt(body)), self.newest)

    def open(self, stored: Stored) -> bytes:
        """The body as it came.

        Raises:
            KeyMissing: its key is not configured, or it was changed since.
        """
        if stored.key is None:
            return stored.body
        key = self._keys.get(stored.key)
        if key is None:
            there = f"only {', '.join(self._keys)}" if self._keys else "there are none"
            raise KeyMissing(
                f"it is sealed with key {stored.key}, which is not in encryption_keys ({there}); add that key again at "
                f"the end of the list and restart"
            )
        try:
            return key.decrypt(base64.urlsafe_b64encode(stored.body))
        except InvalidToken:
            raise KeyMissing(
                f"it does not open with its key {stored.key}: it was changed since it was sealed"
            ) from None

    def pack(self, body: bytes) -> bytes:
        """A body as one value that says itself how it is sealed, for places without a column for the key."""
        stored = self.seal(body)
        return (stored.key or PLAIN).encode() + SEPARATOR + stored.body

    def unpack(self, packed: bytes) -> bytes:
        """What `pack` was given.

        Raises:
            KeyMissing: as `open`.
        """
        key, _, body = packed.partition(SEPARATOR)
        return self.open(Stored(body, None if key == PLAIN.encode() else key.decode("ascii", "replace")))


def digest(key: str) -> str:
    """A key's name for people: the beginning of its SHA-256, which tells nothing of it."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def new_key() -> str:
    """A new key: 32 random bytes in URL-safe base64."""
    return Fernet.generate_key().decode()
