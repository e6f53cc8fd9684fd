"""Who may try again: addresses whose calls were rejected too often wait, before anything of theirs is looked at.

Only rejected calls count. An address that has lately proved itself with a right secret is looked at whatever else
comes from there, and one that may be a proxy's (private or loopback, while no trusted proxy is named) always: nobody
is locked out by somebody else's junk.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

MAX_ADDRESSES = 10_000
PROVED_S = 86_400
MAX_LETTERS = 45
"""Of the longest address."""


@lru_cache(4096)
def _network(host: str) -> tuple[str, bool] | None:
    """Whom an address stands for (of IPv6 a customer's network), and whether it is public; None where it is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped), address.ipv4_mapped.is_global
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64))), address.is_global
    return host, address.is_global


class Rejections:
    """The rejected calls of one kind of door, by address: a bucket of `a_minute` tokens each, in this process."""

    def __init__(
        self, a_minute: int, *, behind_proxies: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = float(a_minute)
        self._behind_proxies = behind_proxies
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._proved: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, host: str) -> int:
        """Whole seconds that a call from there has to wait; 0: it is looked at."""
        address = self._counted(host) if self._left else None
        if address is None or address not in self._left:
            return 0
        now = self._clock()
        if now - self._proved.get(address, -math.inf) < PROVED_S:
            return 0
        left = self._tokens(address, now)
        return 0 if left >= 1 else math.ceil((1 - left) * 60 / self._most)

    def rejected(self, host: str) -> None:
        """A call from there was rejected."""
        address = self._counted(host)
        if address is not None:
            now = self._clock()
            self._left[address] = (max(0.0, self._tokens(address, now) - 1), now)
            self._left.move_to_end(address)
            if len(self._left) > MAX_ADDRESSES:
                self._left.popitem(last=False)

    def proved(self, host: str) -> None:
        """A call from there had a right secret."""
        address = self._counted(host)
        if address is not None:
            self._proved[address] = self._clock()
            self._proved.move_to_end(address)
            if len(self._proved) > MAX_ADDRESSES:
                self._proved.popitem(last=False)

    def _counted(self, host: str) -> str | None:
        found = _network(host) if len(host) <= MAX_LETTERS else None
        return found[0] if found and (found[1] or self._behind_proxies) else None

    def _tokens(self, address: str, now: float) -> float:
        left, at = self._left.get(address, (self._most, now))
        return min(self._most, left + (now - at) * self._most / 60)
