"""What holds an order instead of sending it: caps on value and number, and releases that need two people. Pure.

A cap is named as it stands in the configuration: `caps.day_value`, `sources.loyalty.caps.day_count`,
`routes."gift cards".caps.order_value`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from reward_relay.amounts import Caps
from reward_relay.contracts import Plan
from reward_relay.settings import Route, Settings

HELD = "held by a cap:"
"""Begins every reason of a cap; alerts know these holds by it."""
ADVICE = "release it: it then goes beyond the cap and is counted"
TWO = "it needs two persons: a release asks the second, a release by another key sends it"
"""The same for what one person may not have placed alone."""
NEARLY = Decimal("0.8")
"""Of a cap that is used so far, people are told."""


class Scope(NamedTuple):
    """Caps and their name, under which their day is counted."""

    name: str
    caps: Caps


class Used(NamedTuple):
    """What has been counted for a scope today; `held` are the orders that it held."""

    value: Decimal = Decimal()
    number: int = 0
    held: int = 0

    def plus(self, value: Decimal) -> "Used":
        """With one more order."""
        return Used(self.value + value, self.number + 1, self.held)


@dataclass(frozen=True, slots=True)
class Over:
    """A cap that an order would go over. `beyond` is how far the cap would then be exceeded, in its own unit."""

    scope: str
    cap: str
    beyond: Decimal
    reason: str

    @property
    def is_money(self) -> bool:
        """Whether `beyond` is an amount, and no number of orders."""
        return not self.cap.endswith("day_count")


@dataclass(frozen=True, slots=True)
class Guards:
    """The guards in use. `persons` are the operators' keys, by name: who each belongs to."""

    everywhere: Caps = field(default_factory=Caps)
    sources: Mapping[str, Caps] = field(default_factory=dict)
    routes: Mapping[str, Caps] = field(default_factory=dict)
    paused: bool = False
    second_person_above: Decimal | None = None
    persons: Mapping[str, str] = field(default_factory=dict)

    def of(self, source: str, route: str | None) -> tuple[Scope, ...]:
        """The caps that an order is under, none without limits."""
        found = (
            Scope("caps", self.everywhere),
            Scope(f'routes."{route}".caps', self.routes.get(route or "", Caps())),
            Scope(f"sources.{source}.caps", self.sources.get(source, Caps())),
        )
        return tuple(each for each in found if each.caps != NONE)

    def all(self) -> Iterator[Scope]:
        """Every scope that has a limit."""
        everywhere = [Scope("caps", self.everywhere)]
        sources = [Scope(f"sources.{name}.caps", caps) for name, caps in self.sources.items()]
        routes = [Scope(f'routes."{name}".caps', caps) for name, caps in self.routes.items()]
        yield from (each for each in (*everywhere, *sources, *routes) if each.caps != NONE)

    @property
    def digest_part(self) -> str:
        """What of it differs between configurations, as text; empty where nothing is guarded."""
        limits = [(each.name, each.caps.model_dump_json()) for each in self.all()]
        found = (limits, self.paused, str(self.second_person_above or ""))
        return "" if found == ([], False, "") else repr(found)


NONE = Caps()


def guards_of(settings: Settings) -> Guards:
    """The guards that settings ask for."""
    operators = {name: key for name, key in settings.api_keys.items() if key.role == "operator"}
    return Guards(
        everywhere=settings.caps,
        sources={name: source.caps for name, source in settings.sources.items() if source.caps != NONE},
        routes={route.name: route.caps for route in settings.routes if route.caps != NONE},
        paused=settings.placing == "paused",
        second_person_above=settings.second_person_above,
        persons={name: key.person or name for name, key in operators.items()},
    )


def value_of(plan: Plan) -> Decimal:
    """What an order is worth: face value by quantity over all lines, in the currency of the vendor's account."""
    return sum((line.value * line.quantity for line in plan.lines), Decimal())


def too_dear(guards: Guards, source: str, plan: Plan) -> Over | None:
    """The first cap on single orders that this one is over; needs no database."""
    value = value_of(plan)
    return next((over for scope in guards.of(source, plan.route) for over in _dear(scope, value)), None)


def too_much_for_one(guards: Guards, plan: Plan) -> str | None:
    """Why one person may not have this placed alone, None where one may."""
    value, limit = value_of(plan), guards.second_person_above
    if limit is None or value <= limit:
        return None
    return f"taken by hand, it is worth {value:,.2f}, above second_person_above ({limit:,.2f}); {TWO}"


def overs(scopes: Sequence[Scope], value: Decimal, used: Mapping[str, Used]) -> Iterator[Over]:
    """Every cap that an order of this value would go over, after what was counted."""
    for scope in scopes:
        yield from _dear(scope, value)
        yield from _spent(scope, value, used.get(scope.name, Used()))


def _dear(scope: Scope, value: Decimal) -> Iterator[Over]:
    limit = scope.caps.order_value
    if limit is not None and value > limit:
        cap = f"{scope.name}.order_value"
        reason = f"{HELD} it is worth {value:,.2f}, and {cap} is {limit:,.2f}; raise that, or {ADVICE}"
        yield Over(scope.name, cap, value - limit, reason)


def _spent(scope: Scope, value: Decimal, used: Used) -> Iterator[Over]:
    later = f"raise that, release it tomorrow (days are UTC), or {ADVICE}"
    limit, most = scope.caps.day_value, scope.caps.day_count
    if limit is not None and used.value + value > limit:
        cap = f"{scope.name}.day_value"
        reason = f"{HELD} it is worth {value:,.2f}, and of {cap} ({limit:,.2f}) today's orders used "
        yield Over(scope.name, cap, used.value + value - limit, f"{reason}{used.value:,.2f}; {later}")
    if most is not None and used.number + 1 > most:
        cap = f"{scope.name}.day_count"
        reason = f"{HELD} {cap} is {most}, and {used.number} orders were sent today; {later}"
        yield Over(scope.name, cap, Decimal(used.number + 1 - most), reason)


def caps_troubles(routes: Sequence[Route]) -> Iterator[str]:
    """A sentence for each value of a route that its own cap would hold: one of both has a wrong decimal point."""
    for route in routes:
        limit = route.caps.order_value
        values = [route.value, *(product.value for product in route.products.values())]
        for value in dict.fromkeys(each for each in values if each is not None):
            if limit is not None and value > limit:
                yield (
                    f'route "{route.name}": its value {value:,.2f} is over its caps.order_value {limit:,.2f}: '
                    f"every such order will be held"
                )


def usage(scope: Scope, used: Used) -> Iterator[dict[str, Any]]:
    """Each daily cap of a scope with what is used of it, for people; `part` is 1 where all is used."""
    found = (("day_value", scope.caps.day_value, used.value), ("day_count", scope.caps.day_count, used.number))
    for name, limit, now in found:
        if limit is not None:
            part = float(now / limit) if limit else 1.0
            yield {"cap": f"{scope.name}.{name}", "limit": limit, "used": now, "part": part, "held": used.held}
