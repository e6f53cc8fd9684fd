"""Everything that can happen to orders, as rules that hypothesis puts in any order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from model.ending import ended_honestly
from model.far import PLACING
from model.invariants import Seen, broken, look
from model.world import PARTIES, ROUTES, SKUS, SOURCES, Parked, World
from reward_relay.contracts import Progress
from reward_relay.db import upkeep
from reward_relay.errors import DatabaseUnavailable, NotAllowed, Unauthenticated, Unavailable, UnknownToken
from reward_relay.jobs import BLIND, Job
from reward_relay.states import Outcome

Found = TypeVar("Found")
NAMES = st.sampled_from(sorted(SOURCES))
PICK = st.integers(0, 5)
FATE = st.integers(0, len(PLACING) - 1)
FATES = st.lists(FATE, max_size=6)
EMAILS = st.sampled_from(["ann@example.com", None, "other@example.com"])
TIMES = st.sampled_from([90_000.0, 30_000.0, 1_000.0, 45.0, 7.0])
"""Past the first waits between attempts; past a lease; past every wait but a day's."""
FAULTS = {"turn_failed", "record_failed", "work_failed", "not_storable", "parse_failed", "upkeep_failed"}
"""What the log says when something was raised that nobody foresaw."""
RETENTION_DAYS = 30
AWAY = (DatabaseUnavailable, Unavailable)


class Relaying(RuleBasedStateMachine):
    """Receive, claim, call, record, crash, call back, steer: in any order."""

    def __init__(self, runner: asyncio.Runner, database_url: str, folder: Path) -> None:
        super().__init__()
        self._runner = runner
        self._logs = capture_logs()
        self._logged = self._logs.__enter__()
        self.world = self.run(self._world(database_url, folder))
        self.seen: Seen = self.run(look(self.world))
        self.wanted: dict[str, str] = {}
        """The order of each reward that was answered with one."""
        self.let_off: set[str] = set()
        """Orders that a person ended by hand."""
        self.plans: list[tuple[str, dict[str, Any]]] = []

    async def _world(self, database_url: str, folder: Path) -> World:
        world = World(database_url, folder)
        await world.clear()
        return world

    def run(self, doing: Awaitable[Found]) -> Found:
        """Do it on the machine's loop."""

        async def whole() -> Found:
            return await doing

        return self._runner.run(whole())

    def teardown(self) -> None:
        """Let everything come to its honest end."""
        try:
            self.run(ended_honestly(self.world, self.wanted, self.let_off))
            self.nothing_is_broken()
        finally:
            self.run(self.world.close())
            self._logs.__exit__(None, None, None)

    @invariant()
    def nothing_is_broken(self) -> None:
        """Every invariant holds, and nothing was raised that nobody foresaw."""
        self.seen = self.run(look(self.world))
        found = broken(self.seen, self.world.books)
        found += [f"{each['event']}: {each.get('exc_info')}" for each in self._logged if each["event"] in FAULTS]
        self._logged.clear()
        assert not found, "\n".join(found)

    def order_at(self, pick: int) -> dict[str, Any]:
        """Some order."""
        return self.seen.orders[pick % len(self.seen.orders)]

    # Deliveries.

    @initialize(rewards=st.lists(st.tuples(NAMES, st.sampled_from(SKUS), EMAILS), min_size=1, max_size=4))
    def begin(self, rewards: list[tuple[str, str, str | None]]) -> None:
        """No example is about nothing."""
        for name, sku, email in rewards:
            self.receive(name, "reward", sku, 1, email)

    @rule(
        name=NAMES,
        kind=st.sampled_from(["reward", "reward", "withdrawn", "odd", "informational", "forged"]),
        sku=st.sampled_from(SKUS),
        quantity=st.sampled_from([1, 1, 1, 2]),
        email=EMAILS,
    )
    def receive_one(self, name: str, kind: str, sku: str, quantity: int, email: str | None) -> None:
        """A webhook of any kind, forged ones too."""
        if kind == "forged":
            request = self.world.request(name, "reward", sku, quantity, email)
            forged = type(request)(request.body, {**request.headers, "x-secret": "wrong"})
            self.refused(self.world.relay.intake.receive(SOURCES[name], forged), Unauthenticated, but=("rejected",))
        else:
            self.receive(name, kind, sku, quantity, email)

    def receive(self, name: str, kind: str, sku: str, quantity: int, email: str | None) -> None:
        """A webhook: new, a repeat, or a repeat that differs."""
        request = self.world.request(name, kind, sku, quantity, email)
        before, known = self.wanted.get(name), self.known(name)
        try:
            receipt = self.run(self.world.relay.intake.receive(SOURCES[name], request))
        except DatabaseUnavailable:
            return
        understood = kind != "odd" or self.world.platform(name).mended
        if kind == "informational" or not understood:
            assert (receipt.verdict, receipt.order_id) == (kind if understood else "quarantined", None)
            return
        if kind == "withdrawn":
            self.world.books.withdrawn.add(name)
        assert receipt.order_id is not None
        assert before in (None, receipt.order_id), "the reward has another order now"
        assert receipt.verdict in (("accepted",) if kind == "withdrawn" or not known else ("duplicate",))
        self.wanted[name] = receipt.order_id

    def known(self, name: str) -> bool:
        """Whether the reward has an order already."""
        return bool(self.run(self.world.rows("SELECT 1 FROM orders WHERE external_id = :name", name=name)))

    @rule(name=NAMES, sku=st.sampled_from(SKUS), differs=st.booleans())
    def receive_twice_at_once(self, name: str, sku: str, differs: bool) -> None:
        """The platform repeats itself in parallel."""
        known = self.known(name)
        requests = [self.world.request(name, "reward", sku, 1 + (differs and n), "ann@example.com") for n in (0, 1)]

        async def both() -> list[Any]:
            intake = self.world.relay.intake
            each = [intake.receive(SOURCES[name], request) for request in requests]
            return await asyncio.gather(*each, return_exceptions=True)

        receipts = [each for each in self.run(both()) if not isinstance(each, DatabaseUnavailable)]
        assert len({receipt.order_id for receipt in receipts}) <= 1
        assert sum(receipt.verdict == "accepted" for receipt in receipts) <= (not known)
        if receipts:
            self.wanted[name] = receipts[0].order_id

    @rule(source=st.sampled_from(["plain", "asks", "always"]), names=st.sets(NAMES), sku=st.sampled_from(SKUS))
    def poll(self, source: str, names: set[str], sku: str) -> None:
        """The platform's list of what it waits for."""
        mine = [name for name in sorted(names) if SOURCES[name] == source]
        bodies = [self.world.request(name, "reward", sku, 1, None).body for name in mine]
        try:
            receipts = self.run(self.world.relay.intake.feed(source, bodies))
        except DatabaseUnavailable:
            return
        self.wanted |= {name: order["id"] for name in mine for order in self.orders_of(name, receipts)}

    def orders_of(self, name: str, receipts: list[Any]) -> list[dict[str, Any]]:
        """The order of a reward that a poll has just brought."""
        ids = [each.order_id for each in receipts if each.order_id]
        found = self.run(self.world.rows("SELECT id, external_id FROM orders"))
        return [{"id": str(row["id"])} for row in found if str(row["id"]) in ids and row["external_id"] == name]

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
                if b"withdrawn" in row["body"]:
                    self.world.books.withdrawn.add(name)

    # Workers.

    def claim(self, number: int) -> list[Job]:
        """A worker takes what is due, and of a party that is left alone nothing, or one as a probe."""
        parties = {row["party"]: row for row in self.run(self.world.rows("SELECT *, now() AS now FROM party_health"))}
        taken: dict[str, int] = {}
        jobs = self.run(self.world.claim(self.world.workers[number]))
        for job in jobs:
            taken[job.party] = taken.get(job.party, 0) + 1
            health = parties.get(job.party, {"paused": False, "breaker": "closed"})
            assert not health["paused"], f"{job.party} is paused"
            if health["breaker"] == "open":
                assert job.probe and taken[job.party] == 1, f"{job.party}: its breaker is open"
                assert health["open_until"] <= health["now"], f"{job.party}: its breaker still waits"
        return jobs

    @rule(number=st.integers(0, 1), fates=FATES, stops=st.lists(st.sampled_from([2, 2, 1, 0]), max_size=4))
    def turn(self, number: int, fates: list[int], stops: list[int]) -> None:
        """A worker claims; each job goes on by so many gates, and its calls come to these fates."""
        jobs = self.claim(number)
        for job, gates in zip(jobs, [*stops, *[2] * len(jobs)], strict=False):
            for _ in range(gates):
                waiting = [each for each in self.world.parked if each.job is job]
                self.run(self.world.go(waiting[0], [fates.pop(0) if fates else 0, fates.pop(0) if fates else 0]))

    def parked(self, called: bool) -> list[Parked]:
        """Jobs at this gate."""
        return [each for each in self.world.parked if each.called is called]

    @precondition(lambda self: self.parked(False))
    @rule(pick=PICK, first=FATE, second=FATE)
    def call(self, pick: int, first: int, second: int) -> None:
        """A claimed job's calls, and what they come to."""
        waiting = self.parked(False)
        job = waiting[pick % len(waiting)]
        note(f"{job.job.step} at {job.job.party}")
        self.run(self.world.go(job, (first, second)))

    @precondition(lambda self: self.parked(True))
    @rule(pick=PICK)
    def record(self, pick: int) -> None:
        """The result of a call, perhaps long after the lease."""
        waiting = self.parked(True)
        self.run(self.world.go(waiting[pick % len(waiting)]))

    @precondition(lambda self: len(self.parked(True)) > 1)
    @rule()
    def record_all(self) -> None:
        """The results of many calls in one transaction."""

        async def all_() -> None:
            waiting = self.parked(True)
            for each in waiting:
                self.world.parked.remove(each)
                each.open.set_result([])
            await self.world.settled()

        self.run(all_())

    @rule(number=st.integers(0, 1))
    def work(self, number: int) -> None:
        """A worker's turn without any trouble."""
        self.run(self.world.work(self.world.workers[number]))

    @rule(number=st.integers(0, 1), only_stalls=st.booleans())
    def crash(self, number: int, only_stalls: bool) -> None:
        """A worker's process is killed, whatever it was doing; or stands still after a claim until it must not call."""
        worker = self.world.workers[number]
        try:
            self.run(self.world.claim_too_late(worker) if only_stalls else self.world.crash([worker]))
        except DatabaseUnavailable:
            return

    @rule(seconds=TIMES)
    def time_passes(self, seconds: float) -> None:
        """Leases end, breakers may be probed, retries are due."""
        self.run(self.world.passes(seconds))

    @rule(when=st.sampled_from(["before the commit", "after the commit"]))
    def connection_breaks(self, when: str) -> None:
        """The next transaction is lost, or is kept and nobody hears of it."""
        self.world.breaks = when

    # The vendor's side.

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

    # People.

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

    def refused(self, doing: Awaitable[Any], error: type[Exception], but: tuple[str, ...] = ()) -> str:
        """See that it is refused so, and changes nothing."""
        before = self.run(look(self.world))
        try:
            self.run(doing)
        except error as refusal:
            why = str(refusal)
        except AWAY:
            return ""
        else:
            raise AssertionError("it was not refused")
        after = self.run(look(self.world))
        after.deliveries = [each for each in after.deliveries if each["verdict"] not in but]
        before.deliveries = [each for each in before.deliveries if each["verdict"] not in but]
        assert after.same() == before.same(), f"refused ({why}), and something changed"
        return why

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

    @rule(action=st.sampled_from(["retry", "release"]), source=st.sampled_from([None, "always", "asks"]))
    def plan(self, action: str, source: str | None) -> None:
        """A bulk plan."""
        try:
            found = self.run(self.world.relay.bulk.plan(action, {"source": source} if source else {}, "bulk", "all"))
        except AWAY:
            return
        self.plans.append((found["token"], found))

    @precondition(lambda self: self.plans)
    @rule(pick=PICK)
    def act_on_plan(self, pick: int) -> None:
        """Carry out a plan, perhaps an old one, perhaps once more."""
        token, plan = self.plans[pick % len(self.plans)]
        bulk = self.world.relay.bulk
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

    @rule()
    def purge(self) -> None:
        """A month later personal data has had its time."""
        self.run(self.world.passes(86_400.0 * (RETENTION_DAYS + 1)))

        async def purged() -> None:
            async with self.world.relay.database.transaction() as connection:
                await upkeep.purge(connection, RETENTION_DAYS)

        try:
            self.run(purged())
        except DatabaseUnavailable:
            return
