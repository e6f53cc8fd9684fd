"""What would become of a payload: the dry run behind `explain`. Nothing is stored, nothing is sent."""

from typing import Any

from reward_relay.contracts import (
    Address,
    ByHand,
    Ending,
    NothingToDo,
    OutboundRequest,
    Placement,
    Recipient,
)
from reward_relay.db.deliveries import NewOrder
from reward_relay.errors import Unreadable
from reward_relay.intake import Intake
from reward_relay.routing import completed
from reward_relay.states import Outcome, Step
from reward_relay.steps import Parties

EXAMPLE_PO = "RR-0000000000000000"
Shown = dict[str, Any]


def explain(intake: Intake, parties: Parties, source: str, body: bytes, content_type: str) -> Shown:
    """The verdict, the canonical reward, the route, the vendor's request and the closing call; secrets as stars."""
    meaning = intake.understand(source, body, content_type)
    found: Shown = {
        "source": source,
        "verdict": meaning.verdict,
        "reason": meaning.reason,
        "external_id": meaning.external_id,
        "reward": None,
        "route": None,
        "vendor": None,
        "hold_reason": None,
        "next_step": None,
        "vendor_request": None,
        "closing_call": None,
    }
    order = meaning.order
    if order is None:
        return found
    request, trouble = (None, None) if meaning.withdrawn else _vendor_request(parties, source, order)
    hold = order.hold_reason or trouble
    ending = Ending(Outcome.CANCELLED if meaning.withdrawn else Outcome.FULFILLED)
    return found | {
        "reward": order.reward.model_dump(mode="json"),
        "route": order.route,
        "vendor": order.vendor,
        "hold_reason": hold,
        "next_step": None if hold else order.step,
        "vendor_request": request,
        "closing_call": _closing(parties.platforms[source].preview_close(order.reward, ending)),
    }


def _vendor_request(parties: Parties, source: str, order: NewOrder) -> tuple[Shown | None, str | None]:
    """The request, or what the vendor would miss in it. What the platform is asked for first stands in brackets."""
    if order.plan is None:
        return None, None
    recipient = order.reward.recipient
    if order.step is Step.ENRICH:
        recipient = completed(recipient, _asked_from(source))
    url = parties.callback_url(order.plan.vendor, EXAMPLE_PO, "***")
    placement = Placement(order.plan, recipient, url, order.reward.message)
    try:
        return parties.vendors[order.plan.vendor].preview(placement, EXAMPLE_PO).shown(), None
    except Unreadable as error:
        return None, str(error)


def _asked_from(source: str) -> Recipient:
    asked = f"[asked from {source}]"
    address = Address(line1=asked, city=asked, state=asked, postal_code=asked, country=asked)
    return Recipient(name=asked, email=asked, address=address)


def _closing(closing: OutboundRequest | NothingToDo | ByHand) -> Shown:
    if isinstance(closing, OutboundRequest):
        return {"does": "call", "request": closing.shown()}
    if isinstance(closing, NothingToDo):
        return {"does": "nothing", "detail": closing.detail}
    return {"does": "by_hand", "detail": closing.instruction}
