"""The deliveries of a reward, each exactly as its platform sends it."""

from typing import Any

from chaos.plan import Reward
from reward_relay.sandbox import senders
from reward_relay.sandbox.script import INFLUITIVE, ROSTER, TALKABLE, VOUCHERIFY
from reward_relay.sandbox.senders import Webhook


def delivery(reward: Reward) -> Webhook:
    """The webhook that says that it was redeemed (or, informational, something else)."""
    match reward.source:
        case "talkable":
            return _talkable(reward, "Paid")
        case "roster":
            return senders.roster(_roster(reward), ROSTER)
        case "voucherify":
            return senders.voucherify(_voucherify(reward), VOUCHERIFY)
        case _:
            return senders.influitive(redemption(reward), INFLUITIVE)


def withdrawal(reward: Reward) -> Webhook:
    """The webhook that takes it back."""
    if reward.source == "talkable":
        return _talkable(reward, "Voided")
    return senders.roster({**_roster(reward), "event": "reward_cancelled"}, ROSTER)


def redemption(reward: Reward) -> dict[str, Any]:
    """A redemption as Influitive sends and lists it."""
    found = senders.influitive_redemption(int(reward.external_id), email=f"{reward.name}@example.com")
    found["reward_redemption"]["contact_id"] = found["contact"]["id"] = reward.number
    return found


def _talkable(reward: Reward, status: str) -> Webhook:
    informational = reward.kind == "informational"
    payload = senders.sample("talkable_click" if informational else "talkable_referrer")
    payload["reward"] |= {"id": int(reward.external_id), "status": status}
    if not informational:
        payload["person"] |= {"email": f"{reward.name}@example.com"}
        payload["reward"]["incentive_identifier"] = "by-asking" if reward.by_asking else "by-key"
    send = senders.talkable_form if reward.number % 4 else senders.talkable_json
    return send(payload, TALKABLE)


def _roster(reward: Reward) -> dict[str, Any]:
    return senders.roster_order(reward.external_id, email=f"{reward.name}@example.com", name=reward.name)


def _voucherify(reward: Reward) -> dict[str, Any]:
    payload = senders.sample("voucherify_customer_rewarded")
    customer = {**payload["customer"], "id": f"cust-{reward.name}", "name": reward.name}
    payload |= {"customer": customer, "holder": customer}
    redeemed = payload["redemption"]
    redeemed |= {"id": reward.external_id, "customer_id": customer["id"], "customer": customer}
    redeemed["order"] |= {"id": f"ord_{reward.name}", "customer_id": customer["id"]}
    redeemed["reward"] |= {"customer": customer}
    return dict(payload)
