"""Which vendor gets a reward, as what: the first route that matches. No match is a reason to hold, never a loss."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from reward_relay.contracts import Delivery, Item, Line, Plan, Recipient, RewardOrder
from reward_relay.inbound import dig
from reward_relay.jobs import source_party, vendor_party
from reward_relay.settings import Product, Route
from reward_relay.states import Step

MOST_COMPARED = 300
"""Routes that are held against each other, which takes the square of their number."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A route's decision: a plan, or the reason to hold. `unreachable` says what of the recipient is missing."""

    plan: Plan | None
    hold_reason: str | None = None
    unreachable: str | None = None
    route: str | None = None


def route_order(order: RewardOrder, routes: list[Route]) -> Routed:
    """Where `order` goes. `hold_reason` is a sentence for a customer success manager, with what would free it."""
    route = next((each for each in routes if matches(each, order)), None)
    if route is None:
        skus = ", ".join(item.sku or item.name or "?" for item in order.items)
        return Routed(
            None, f"no route matches this reward of {order.source} ({skus}); add one to [[routes]] and release"
        )
    lines: list[Line] = []
    for item in order.items:
        line = _line(route, item)
        if isinstance(line, str):
            return Routed(None, line, route=route.name)
        lines.append(line)
    plan = Plan(route=route.name, vendor=route.vendor, delivery=route.delivery, lines=tuple(lines))
    return Routed(plan, unreachable=unreachable(route.delivery, order.recipient), route=route.name)


@dataclass(frozen=True, slots=True)
class Start:
    """Where an order that is not placed starts: with a step and whom it calls, or held for a reason."""

    step: Step | None = None
    party: str | None = None
    hold_reason: str | None = None


def start_of(source: str, routed: Routed, enriches: str) -> Start:
    """The first step of a routed order; `enriches` is what the platform's adapter says of itself."""
    if routed.plan is None:
        return Start(hold_reason=routed.hold_reason)
    if enriches == "always" or (routed.unreachable and enriches == "when_unreachable"):
        return Start(Step.ENRICH, source_party(source))
    if routed.unreachable:
        advice = f"ask the platform to send it again with that (see sources.{source}) and release, or refuse the reward"
        return Start(hold_reason=f"{routed.unreachable}; {advice}")
    return Start(Step.PLACE, vendor_party(routed.plan.vendor))


def matches(route: Route, order: RewardOrder) -> bool:
    """Whether every condition of the route holds; paths start at `payload` (the platform's event) or `order`."""
    if route.sources is not None and order.source not in route.sources:
        return False
    if not route.when:
        return True
    seen: dict[str, Any] = {"payload": order.attributes}
    if any(path.startswith("order") for path in route.when):
        seen["order"] = order.model_dump(mode="json", exclude={"attributes"})
    return all(_holds(dig(seen, path), wanted) for path, wanted in route.when.items())


def never_reached(routes: Sequence[Route], sources: Collection[str]) -> Iterator[str]:
    """A sentence for each route that can take nothing, since routes above it take all of its sources' rewards first."""
    for number, route in enumerate(routes[:MOST_COMPARED]):
        mine = [name for name in sources if route.sources is None or name in route.sources]
        taking = [(each.name, [name for name in mine if _takes_all(each, name, route)]) for each in routes[:number]]
        alone = [name for name, taken in taking if taken == mine]
        if mine and {name for _, taken in taking for name in taken} == set(mine):
            names = alone[:1] or [name for name, taken in taking if taken]
            named = " and ".join(f'"{name}"' for name in names)
            take = "take" if len(names) > 1 else "takes"
            of_those = " that its [routes.when] lets through" if route.when else ""
            yield (
                f'route "{route.name}" is never reached: {named} above it {take} every reward of its sources'
                f"{of_those}; move it up, or remove it"
            )


def _takes_all(first: Route, source: str, second: Route) -> bool:
    """Whether the first route takes whatever of this source the second would take."""
    return (first.sources is None or source in first.sources) and _asks_less(first, second)


def _asks_less(first: Route, second: Route) -> bool:
    """Whether whatever fulfils the conditions of `second` fulfils those of `first` too."""
    return all(path in second.when and _within(second.when[path], wanted) for path, wanted in first.when.items())


def _within(narrow: object, wide: object) -> bool:
    allowed = wide if isinstance(wide, list) else [wide]
    values = narrow if isinstance(narrow, list) else [narrow]
    return all(
        any(value is each or (type(value) is type(each) and value == each) for each in allowed) for value in values
    )


def _holds(found: Any, wanted: Any) -> bool:
    allowed = wanted if isinstance(wanted, list) else [wanted]
    values = found if isinstance(found, list) else [found]
    return any(_same(value, each) for value in values for each in allowed)


def _same(value: Any, wanted: Any) -> bool:
    """Equal, whether the payload writes it as number or text: 20, 20.0 and "20" are one; true is only true."""
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted or (isinstance(value, str) and str(wanted).lower() == value.lower())
    if isinstance(value, int | Decimal) and isinstance(wanted, int | Decimal):
        return value == wanted
    return str(value) == str(wanted)


def _line(route: Route, item: Item) -> Line | str:
    own = route.products.get(item.sku or "", Product(product=None, value=None))
    what = item.sku or item.name or "the item"
    product = own.product or route.product
    if product is None:
        return (
            f'route "{route.name}" has no vendor product for SKU {what}; '
            f"add it to [routes.products] or give the route a product, then release"
        )
    value = next((each for each in (own.value, route.value, item.value) if each is not None), None)
    if value is None:
        return (
            f'route "{route.name}" has no value for {what}, and the platform sent none; '
            f"set value in the route or in its products, then release"
        )
    if value <= 0:
        return f'the value of {what} is {value}; set one above 0 in route "{route.name}", then release'
    return Line(product=product, value=value, quantity=item.quantity)


def unreachable(delivery: Delivery, recipient: Recipient) -> str | None:
    """What is missing to reach the recipient by this way of delivery, None where nothing is."""
    if delivery is Delivery.DIGITAL and not (recipient.email or recipient.phone):
        return "neither an e-mail address nor a phone number of the recipient is known"
    if delivery is Delivery.PHYSICAL:
        address = recipient.address
        needed = {
            "name": recipient.name,
            "street": address and address.line1,
            "city": address and address.city,
            "postal code": address and address.postal_code,
            "country": address and address.country,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing:
            return f"the postal address of the recipient lacks: {', '.join(missing)}"
    return None


def differences(first: RewardOrder, later: RewardOrder) -> list[str]:
    """What a second delivery of the same reward says otherwise than the first, by name.

    Silence on either side is no difference: what only the second one knows is an addition (`completed`).
    """
    found = _changed("recipient", first.recipient.model_dump(), later.recipient.model_dump())
    if [item.model_dump() for item in first.items] != [item.model_dump() for item in later.items]:
        found.append("items")
    return found


def completed(first: Recipient, later: Recipient) -> Recipient:
    """The first delivery's recipient with what only a later one knows; nothing is replaced."""
    known, added = first.model_dump(exclude_none=True), later.model_dump(exclude_none=True)
    address = {**added.get("address", {}), **known.get("address", {})} or None
    return Recipient.model_validate({**added, **known, "address": address})


def _changed(prefix: str, first: dict[str, Any], later: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for name, value in later.items():
        if isinstance(value, dict):
            found += _changed(f"{prefix}.{name}", first.get(name) or {}, value)
        elif value is not None and first.get(name) is not None and value != first[name]:
            found.append(f"{prefix}.{name}")
    return found
