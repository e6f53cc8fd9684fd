"""What would become of a payload: the dry run behind `explain`. Nothing is stored, nothing is sent."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from reward_relay.contracts import (
    Address,
    ByHand,
    Ending,
    Line,
    NothingToDo,
    OutboundRequest,
    Placement,
    Plan,
    Recipient,
)
from reward_relay.db.deliveries import NewOrder
from reward_relay.errors import Unreadable
from reward_relay.intake import Intake
from reward_relay.routing import completed
from reward_relay.settings import Route
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


def route_troubles(routes: Sequence[Route], parties: Parties) -> list[str]:
    """What no order of a route could get past, tried on a recipient of whom everything is known."""
    address = Address(line1="1 Main Street", city="Ames", state="IA", postal_code="50010", country="US")
    recipient = Recipient(name="Ann", email="ann@example.com", phone="+15155550100", address=address)
    found: list[str] = []
    for route in routes:
        if route.product is None and not route.products:
            found.append(f'route "{route.name}" has neither product nor products: all it takes will be held')
        lines = (Line(product=route.product or "any", value=route.value or Decimal(1)),)
        plan = Plan(route=route.name, vendor=route.vendor, delivery=route.delivery, lines=lines)
        try:
            parties.vendors[route.vendor].preview(Placement(plan, recipient, "http://callback"), EXAMPLE_PO)
        except Unreadable as error:
            found.append(f'route "{route.name}": {error}')
    return found


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
