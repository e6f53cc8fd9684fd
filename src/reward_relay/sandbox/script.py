"""What the demo plays: the configuration, and the rewards with the end each of them should reach."""

from dataclasses import dataclass
from typing import Any

from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import Webhook, sample

KEY = "demo-operator-key"
TALKABLE, VOUCHERIFY, ROSTER, INFLUITIVE = "demo-talkable", "demo-voucherify", "demo-roster", "demo-influitive"

CONFIGURATION = """\
public_url = "{relay}"
first_check_s = 1

[api_keys.demo]
role = "operator"
key = "demo-operator-key"

[sources.talkable]
platform = "talkable"
secrets = ["demo-talkable"]
api_url = "{sandbox}/talkable/api/v2"
api_token = "sandbox"
site_slug = "demo"
close = "custom_property"

[sources.voucherify]
platform = "voucherify"
secrets = ["demo-voucherify"]
api_url = "{sandbox}/voucherify"
app_id = "sandbox"
app_token = "sandbox"

[sources.roster]
platform = "roster"
secrets = ["demo-roster"]
api_url = "{sandbox}/roster"
api_token = "sandbox"

[sources.influitive]
platform = "influitive"
secrets = ["demo-influitive"]
api_url = "{sandbox}/influitive"
api_token = "sandbox"
org_id = "00000000-0000-4000-8000-000000000001"
poll_every_s = 10

[vendors.gcp]
kind = "giftcard_partners"
base_url = "{sandbox}/gcp"
email = "demo@example.com"
access_token = "sandbox"
shipping_method_id = "GROUND"
carrier_id = "UPS"

[[routes]]
name = "parcels"
sources = ["voucherify", "roster"]
vendor = "gcp"
delivery = "PhysicalShipment"
product = "TUMBLER"
value = 25

[[routes]]
name = "talkable rewards"
sources = ["talkable"]
vendor = "gcp"
product = "CVS"
[routes.when]
"payload.reward.incentive_type" = ["rebate", "other"]

[[routes]]
name = "advocates"
sources = ["influitive"]
vendor = "gcp"
product = "COFFEE"
value = 25
"""


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward of the demo. `outcome` is the end its order should reach; without one, `verdict` is the answer.

    `closing_key` is what the platform's closing call is counted by. `webhook` is None for a reward that only polling
    finds; `open_redemption` is put on Influitive's open list first.
    """

    source: str
    title: str
    external_id: str
    webhook: Webhook | None
    outcome: str | None = "fulfilled"
    verdict: str | int | None = None
    closing_key: str = ""
    repeats: int = 0
    open_redemption: Any = None


def rewards() -> list[Reward]:
    """All of them, the official payloads first."""
    return [*_talkable(), *_voucherify(), *_roster(), *_influitive(), *_trouble()]


def _talkable() -> list[Reward]:
    referrer, referred = sample("talkable_referrer"), sample("talkable_referred")
    form = senders.talkable_form(referrer, TALKABLE)
    json = senders.talkable_json(referred, TALKABLE)
    found = [
        Reward("talkable", "rebate for the advocate", "8261305", form, closing_key="referrer@example.com", repeats=2),
        Reward("talkable", "rebate for the friend", "8261300", json, closing_key="referred@example.com"),
    ]
    for name in ("signup", "shared", "click"):
        payload = sample(f"talkable_{name}")
        hook = senders.talkable_form(payload, TALKABLE)
        key = str(payload["reward"]["id"])
        found.append(Reward("talkable", f"coupon ({name})", key, hook, outcome=None, verdict="informational"))
    return found


def _voucherify() -> list[Reward]:
    payload = sample("voucherify_customer_rewarded")
    hook = senders.voucherify(payload, VOUCHERIFY)
    redemption = payload["redemption"]
    return [Reward("voucherify", "Star Thermal Bottle", redemption["id"], hook, closing_key=redemption["order"]["id"])]


def _roster() -> list[Reward]:
    mug = senders.roster(sample("roster_reward_redeemed"), ROSTER)
    cap = senders.roster(sample("roster_reward_redeemed_camel"), ROSTER)
    return [
        Reward("roster", "two mugs and a card", "480217", mug, closing_key="480217"),
        Reward("roster", "trail cap", "480218", cap, closing_key="480218"),
    ]


def _influitive() -> list[Reward]:
    payload = sample("influitive_redemption_requested")
    polled = senders.influitive_redemption(771300, email="pat@example.com")
    hook = senders.influitive(payload, INFLUITIVE)
    return [
        Reward("influitive", "coffee card", "771204", hook, closing_key="771204"),
        Reward("influitive", "found by polling", "771300", None, closing_key="771300", open_redemption=polled),
    ]


def _trouble() -> list[Reward]:
    """One whose order the vendor takes without saying so, one it refuses, one that nobody signed."""
    lost = sample("talkable_referrer")
    lost["reward"]["id"] = 8261400
    lost["person"] |= {"email": "nora+lost@example.com", "first_name": "Nora"}
    refused = senders.influitive_redemption(771400, email="rita+refuse@example.com")
    forged = senders.voucherify(sample("voucherify_customer_rewarded"), "not the secret")
    return [
        Reward(
            "talkable",
            "the vendor's answer is lost",
            "8261400",
            senders.talkable_form(lost, TALKABLE),
            closing_key="nora+lost@example.com",
        ),
        Reward(
            "influitive",
            "the vendor refuses",
            "771400",
            senders.influitive(refused, INFLUITIVE),
            outcome="refused",
            closing_key="771400",
        ),
        Reward("voucherify", "a forged webhook", "none", forged, outcome=None, verdict=401),
    ]
