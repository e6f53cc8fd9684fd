"""What recorded rewards would have used of the caps of a configuration, day by day: for a comparison. Pure."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from reward_relay.contracts import Plan
from reward_relay.guards import Guards, Scope, Used, usage, value_of


@dataclass(slots=True)
class Spending:
    """Sums of orders by UTC day and scope, as the orders come; what a day's cap would hold is counted too."""

    guards: Guards
    days: dict[tuple[date, Scope], Used] = field(default_factory=dict)

    def add(self, at: datetime, source: str, plan: Plan) -> None:
        """Count an order that would be placed."""
        for scope in self.guards.of(source, plan.route):
            if scope.caps.daily:
                key = (at.astimezone(UTC).date(), scope)
                self.days[key] = self.days.get(key, Used()).plus(value_of(plan))

    def shown(self) -> list[dict[str, Any]]:
        """Each daily cap: its limit, which day would have used most of it, and on how many it was too little."""
        found: dict[str, dict[str, Any]] = {}
        for (day, scope), used in self.days.items():
            for each in usage(scope, used):
                over = each["used"] > each["limit"]
                known = found.setdefault(
                    each["cap"], {"cap": each["cap"], "limit": each["limit"], "most": 0, "day": day, "days_over": 0}
                )
                known["days_over"] += over
                if each["used"] > known["most"]:
                    known |= {"most": each["used"], "day": day}
        return [found[cap] for cap in sorted(found)]
