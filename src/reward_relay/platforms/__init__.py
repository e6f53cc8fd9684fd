"""The platforms that the relay understands, listed one by one.

A new one is a folder beside these, a folder of tests, and a line here.
"""

from typing import NamedTuple

from reward_relay.contracts import Platform, SourceSettings
from reward_relay.platforms.influitive import adapter as influitive
from reward_relay.platforms.roster import adapter as roster
from reward_relay.platforms.talkable import adapter as talkable
from reward_relay.platforms.voucherify import adapter as voucherify


class Member(NamedTuple):
    """An adapter: the type of its settings, and the callable (name, settings, outbound) that makes it."""

    settings: type[SourceSettings]
    build: type[Platform]


PLATFORMS = {
    "influitive": Member(influitive.Settings, influitive.Adapter),
    "roster": Member(roster.Settings, roster.Adapter),
    "talkable": Member(talkable.Settings, talkable.Adapter),
    "voucherify": Member(voucherify.Settings, voucherify.Adapter),
}
