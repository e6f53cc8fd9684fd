"""Whose key is it? The one place where a key is compared, in constant time."""

import hmac
from collections.abc import Mapping

from reward_relay.errors import Forbidden, Unauthenticated
from reward_relay.settings import ApiKey

NONE_CONFIGURED = "the ops API is closed, for no key is configured: add [api_keys.NAME] with role and key, then restart"


def actor_of(keys: Mapping[str, ApiKey], given: str) -> tuple[str, ApiKey]:
    """The name and entry of the key that was given. Takes the same time whichever it is.

    Raises:
        Unauthenticated: it is none of ours, or none is configured.
    """
    found = None
    for name, entry in keys.items():
        if hmac.compare_digest(entry.key.get_secret_value().encode(), given.encode("utf-8", "replace")):
            found = (name, entry)
    if found is None:
        raise Unauthenticated(NONE_CONFIGURED if not keys else "the key is none of [api_keys]; was it changed?")
    return found


def may_act(name: str, role: str) -> None:
    """See that a key may change something.

    Raises:
        Forbidden: it is a viewer's.
    """
    if role != "operator":
        raise Forbidden(f"{name} is a viewer; this needs a key with role operator")
