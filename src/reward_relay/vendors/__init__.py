"""The vendors that the relay orders from, listed one by one.

A new one is a folder beside these, a folder of tests, and a line here.
"""

from typing import NamedTuple

from reward_relay.contracts import Vendor, VendorSettings
from reward_relay.vendors.giftcard_partners import adapter as giftcard_partners


class Member(NamedTuple):
    """An adapter: the type of its settings, and the callable (name, settings, outbound) that makes it."""

    settings: type[VendorSettings]
    build: type[Vendor]


VENDORS = {
    "giftcard_partners": Member(giftcard_partners.Settings, giftcard_partners.Adapter),
}
