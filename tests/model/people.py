"""What operators do, as rules."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from model.base import AWAY, PICK, Base
from model.invariants import look
from model.world import PARTIES, ROUTES
from reward_relay.errors import NotAllowed
from reward_relay.jobs import BLIND
from reward_relay.states import Outcome


class People(Base):
    """Actions on orders and parties, bulk plans, new routes."""

    @precondition(lambda self: self.seen.orders)
    @rule(
        pick=PICK,
        action=st.sampled_from(["retry", "hold", "release", "refuse", "close"]),
        outcome=st.sampled_from([None, *Outcome]),
    )
    def act(self, pick: int, action: str, outcome: Outcome | None) -> None:
        """An operator's action, allowed or not: as the order's page says just before."""
        self.world.breaks = None
        order, ops = self.order_at(pick), self.world.relay.ops
        key = str(order["id"])
        if (
            action == "release"
            and BLIND in str(order["hold_reason"])
            and self.world.books.bought.get(order["po_number"])
        ):
            return  # they have looked, and it is there
        told = {each["action"]: each for each in self.run(ops.order(key))["actions"]}[action]
        extra: Mapping[str, Any] = {"outcome": outcome} if action == "close" else {}
        doing = getattr(ops, action)(key, "alice", "a note", **extra)
        contrary = action == "close" and outcome and order["outcome"] not in (None, outcome)
        if not told["allowed"] or contrary:
            why = self.refused(doing, NotAllowed)
            assert contrary or why == told["why_not"]
            return
        self.run(doing)
        after = self.run(ops.order(key))
        assert any(each["actor"] == "alice" for each in after["events"][len(self.events_of(order)) :]), "no event"
        if action in ("refuse", "close"):
            self.let_off.add(key)
        if action == "refuse" and not order["vendor_order_id"]:
            assert not self.world.books.bought.get(order["po_number"]), "refused, and the vendor has it"

    def events_of(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """An order's events before this step."""
        return [each for each in self.seen.events if each["order_id"] == order["id"]]

    @rule(party=st.sampled_from(PARTIES), resume=st.booleans())
    def pause_or_resume(self, party: str, resume: bool) -> None:
        """A party is not called any more, or again; then what was held because of it goes on."""
        doing: Callable[..., Awaitable[Any]] = self.world.relay.ops.resume if resume else self.world.relay.ops.pause
        try:
            self.run(doing(party, "alice", "a note"))
        except (NotAllowed, *AWAY):
            return

    @rule(which=st.sampled_from(sorted(ROUTES)), mended=st.booleans())
    def version(self, which: str, mended: bool) -> None:
        """The routes change, and the adapters."""
        self.world.take_routes(which)
        for platform in self.world.platforms.values():
            platform.mended = mended

    @rule(action=st.sampled_from(["retry", "release"]), pick=PICK, new=st.booleans())
    def bulk(self, action: str, pick: int, new: bool) -> None:
        """Make a plan, or carry one out: perhaps an old one, perhaps once more."""
        bulk = self.world.relay.bulk
        if new or not self.plans:
            source = [None, "always", "asks"][pick % 3]
            try:
                found = self.run(bulk.plan(action, {"source": source} if source else {}, "bulk", "all"))
            except AWAY:
                return
            self.plans.append((found["token"], found))
            return
        token, plan = self.plans[pick % len(self.plans)]
        before = self.run(bulk.find(token)) if not self.world.breaks else None
        try:
            self.run(bulk.act(token, "bulk"))
        except NotAllowed:
            assert before is None or before == self.run(bulk.find(token)), "refused, and the plan is another"
            return
        except AWAY:
            pass
        found = self.run(bulk.find(token))
        named = [each["id"] for each in [*found["done"], *found["skipped"]]]
        assert len(named) == len(set(named)) and set(named) <= {each["id"] for each in plan["would"]}
        assert found["left"] == 0 or not found["used_at"]
        known = {each["id"] for each in self.seen.events}
        events = [each for each in self.run(look(self.world)).events if each["id"] not in known]
        done = [str(each["order_id"]) for each in events if each["actor"] == "bulk"]
        assert sorted(done) == sorted(each["id"] for each in found["done"] if before is None or not before["used_at"])
