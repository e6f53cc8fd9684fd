"""What would become of a payload: the dry run behind `explain`. Nothing is stored, nothing is sent."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from reward_relay.contracts import (
    Address,
    ByHand,
    Delivery,
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
from reward_relay.guards import caps_troubles
from reward_relay.intake import Intake, Understood
from reward_relay.routing import completed, never_reached
from reward_relay.settings import Route
from reward_relay.states import Outcome, Step
from reward_relay.steps import Parties

EXAMPLE_PO = "RR-0000000000000000"
Shown = dict[str, Any]


def explain(intake: Intake, parties: Parties, source: str, body: bytes, content_type: str) -> Shown:
    """What would happen as one sentence and in full: verdict, canonical reward, route, vendor's request, closing call.

    Secrets are stars.
    """
    meaning = intake.understand(source, body, content_type)
    found: Shown = {
        "source": source,
        "sentence": sentence(meaning),
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
    found["sentence"] = sentence(meaning, hold)
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


def sentence(meaning: Understood, hold: str | None = None) -> str:
    """What would happen, for a person who reads one line only. `hold` is what would hold the order."""
    order = meaning.order
    reason = (meaning.reason or "").rstrip(".")
    if meaning.verdict == "quarantined":
        return f"This would not be understood, and kept until it can be replayed: {reason}."
    if order is None or meaning.withdrawn:
        return f"Nothing would be ordered: {reason}."
    route = f' (route "{order.route}")' if order.route else ""
    if hold or order.plan is None:
        told = "" if f'"{order.route}"' in (hold or "") else route
        return f"This reward would be held: {(hold or '').rstrip('.')}{told}."
    plan, recipient = order.plan, order.reward.recipient
    way = {
        Delivery.DIGITAL: "by e-mail" if recipient.email or not recipient.phone else "by text message",
        Delivery.LINKS: "as a link",
        Delivery.PHYSICAL: "as a parcel",
    }[plan.delivery]
    what = " and ".join(goods(line) for line in plan.lines)
    asked = f", once {order.reward.source} has been asked about the person" if order.step is Step.ENRICH else ""
    return f"This reward would go to vendor {plan.vendor} as {what}, {way}{asked}{route}."


def goods(line: Line) -> str:
    """A line of a vendor's order as people write it."""
    many = f"{line.quantity} × " if line.quantity > 1 else ""
    return f"{many}{line.product}, {line.value:.2f}{' each' if many else ''}"


def held_because(parties: Parties, source: str, order: NewOrder) -> str | None:
    """What would hold an order before it is placed: routing's reason, or what its vendor would miss."""
    return order.hold_reason or _vendor_request(parties, source, order)[1]


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
        found += _quoted_truths(route)
    return found + list(caps_troubles(routes)) + list(never_reached(routes, list(parties.platforms)))


def _quoted_truths(route: Route) -> Iterator[str]:
    for path, wanted in route.when.items():
        for word in wanted if isinstance(wanted, list) else [wanted]:
            if word in ("true", "false"):
                yield (
                    f'route "{route.name}": when."{path}" = "{word}" in quotes only matches a text; '
                    f"write {word} without quotes, which matches both"
                )


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
