"""What platforms and vendors send, as rules."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from model.base import AWAY, PICK, Base
from model.world import SOURCES
from reward_relay.contracts import Progress
from reward_relay.errors import DatabaseUnavailable, NotAllowed, Unauthenticated, UnknownToken

NAMES = st.sampled_from(sorted(SOURCES))
KINDS = st.sampled_from(["reward", "reward", "withdrawn", "odd", "informational", "forged", "polled", "twice"])
EMAILS = st.sampled_from(["ann@example.com", None, "ann@example.com", "other@example.com"])


class Arriving(Base):
    """Deliveries, replays, callbacks, and what happens at the vendor."""

    @initialize(rewards=st.lists(st.tuples(NAMES, EMAILS), min_size=1, max_size=4))
    def begin(self, rewards: list[tuple[str, str | None]]) -> None:
        """No example is about nothing."""
        for name, email in rewards:
            self.receive(name, "reward", 1, email)

    @rule(name=NAMES, kind=KINDS, quantity=st.sampled_from([1, 1, 1, 2]), email=EMAILS)
    def arrive(self, name: str, kind: str, quantity: int, email: str | None) -> None:
        """A webhook of any kind, forged ones too, two at once, or what a poll brings."""
        request = self.world.request(name, "reward", quantity, email)
        if kind == "forged":
            forged = type(request)(request.body, {**request.headers, "x-secret": "wrong"})
            self.refused(self.world.relay.intake.receive(SOURCES[name], forged), Unauthenticated, but=("rejected",))
        elif kind == "polled":
            self.arrived(name, lambda: self.world.relay.intake.feed(SOURCES[name], [request.body]))
        elif kind == "twice":
            other = self.world.request(name, "reward", 1, "ann@example.com")
            receive = self.world.relay.intake.receive
            both = (request, other)
            self.arrived(
                name, lambda: asyncio.gather(*(receive(SOURCES[name], each) for each in both), return_exceptions=True)
            )
        else:
            self.receive(name, kind, quantity, email)

    def arrived(self, name: str, receiving: Callable[[], Awaitable[Sequence[Any]]]) -> None:
        """See that at most one of these is news, and all are of one order."""
        known = self.known(name)

        async def all_() -> Sequence[Any]:
            return await receiving()

        try:
            receipts = [each for each in self.run(all_()) if not isinstance(each, DatabaseUnavailable)]
        except DatabaseUnavailable:
            return
        assert not [each for each in receipts if isinstance(each, BaseException)], receipts
        assert len({receipt.order_id for receipt in receipts}) <= 1
        assert sum(receipt.verdict == "accepted" for receipt in receipts) <= (not known)
        if receipts:
            self.wanted[name] = receipts[0].order_id

    def receive(self, name: str, kind: str, quantity: int, email: str | None) -> None:
        """A webhook: new, a repeat, or a repeat that differs."""
        request = self.world.request(name, kind, quantity, email)
        if kind == "withdrawn":
            self.world.books.withdrawn.add(name)
        before, known = self.wanted.get(name), self.known(name)
        try:
            receipt = self.run(self.world.relay.intake.receive(SOURCES[name], request))
        except DatabaseUnavailable:
            return
        understood = kind != "odd" or self.world.platform(name).mended
        if kind == "informational" or not understood:
            assert (receipt.verdict, receipt.order_id) == (kind if understood else "quarantined", None)
            return
        assert receipt.order_id is not None
        assert before in (None, receipt.order_id), "the reward has another order now"
        assert receipt.verdict in (("accepted",) if kind == "withdrawn" or not known else ("duplicate",))
        self.wanted[name] = receipt.order_id

    def known(self, name: str) -> bool:
        """Whether the reward has an order already."""
        return bool(self.run(self.world.rows("SELECT 1 FROM orders WHERE external_id = $1", name)))

    @precondition(lambda self: self.seen.deliveries)
    @rule(pick=st.integers(0, 12), twice=st.booleans())
    def replay(self, pick: int, twice: bool) -> None:
        """An operator takes a delivery once more; or two do, at the same time."""
        row = self.seen.deliveries[pick % len(self.seen.deliveries)]
        ops, key = self.world.relay.ops, str(row["id"])
        if row["order_id"] is not None or row["verdict"] == "rejected" or not row["body"]:
            self.refused(ops.replay(key, "alice", "again"), NotAllowed)
            return

        async def all_() -> list[Any]:
            each = [ops.replay(key, who, "again") for who in ("alice", "bob")[: 1 + twice]]
            return await asyncio.gather(*each, return_exceptions=True)

        for found in self.run(all_()):
            if isinstance(found, (NotAllowed, *AWAY)):
                continue
            assert not isinstance(found, BaseException), found
            if found["order_id"]:
                name = next(name for name in SOURCES if f'"{name}"'.encode() in row["body"])
                self.wanted[name] = found["order_id"]

    @precondition(lambda self: self.seen.orders)
    @rule(pick=PICK, how=st.sampled_from(["right", "wrong", "another's"]), times=st.integers(1, 2))
    def callback(self, pick: int, how: str, times: int) -> None:
        """The vendor calls back, or somebody who pretends to be it."""
        order = self.order_at(pick)
        secret = order["callback_token"] if how == "right" else "x" * 32
        vendor = str(order["vendor"]) if how != "another's" else "nobody"
        for _ in range(times):
            hint = self.world.relay.intake.hint(vendor, f"{order['po_number']}.{secret}")
            if how != "right" or order["vendor"] is None:
                self.refused(hint, UnknownToken)
                return
            try:
                self.run(hint)
            except DatabaseUnavailable:
                return

    @precondition(lambda self: self.world.books.purchases() or self.world.books.under_way)
    @rule(pick=PICK, how=st.sampled_from([Progress.FULFILLED, Progress.REFUSED]))
    def vendor_moves(self, pick: int, how: Progress) -> None:
        """A request that was long under way arrives at last; else an order comes to its end there."""
        if self.world.books.under_way:
            self.world.books.arrive(*self.world.books.under_way.pop(0))
            return
        bought = self.world.books.purchases()
        if bought[pick % len(bought)].progress is Progress.PENDING:
            bought[pick % len(bought)].progress = how
