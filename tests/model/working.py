"""What workers do and suffer, and time, as rules."""

from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from model.base import PICK, Base
from model.far import PLACING
from model.invariants import Seen, look
from model.world import Parked
from reward_relay.db import purging
from reward_relay.errors import DatabaseUnavailable
from reward_relay.jobs import Job

FATE = st.sampled_from(range(len(PLACING)))
RETENTION_DAYS = 30
MONTH_S = 86_400.0 * (RETENTION_DAYS + 1)
TIMES = st.sampled_from([MONTH_S, 90_000.0, 30_000.0, 1_000.0, 45.0, 7.0])
"""Past the first waits between attempts; past a lease; past every wait but a day's."""
WORK: Any = rule(
    after=st.sampled_from([0.0, 45.0, 1_000.0, 30_000.0]),
    number=st.integers(0, 1),
    fates=st.lists(FATE, max_size=4),
    stops=st.lists(st.sampled_from([2, 2, 1, 0]), max_size=4),
)
"""What most steps should be: one rule under several names."""


class Working(Base):
    """Claims, calls, records, crashes."""

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

    def turn(self, after: float, number: int, fates: list[int], stops: list[int]) -> None:
        """Some time later a worker claims; each job goes on by so many gates, and its calls come to these fates."""
        if after:
            self.run(self.world.passes(after))
        jobs = self.claim(number)
        for job, gates in zip(jobs, [*stops, *[2] * len(jobs)], strict=False):
            for _ in range(gates):
                waiting = [each for each in self.world.parked if each.job is job]
                called, fates = ([], fates) if waiting[0].called else (fates[:1], fates[1:])
                self.run(self.world.go(waiting[0], called))

    turn_one = WORK(turn)
    turn_two = WORK(turn)
    turn_three = WORK(turn)
    turn_four = WORK(turn)

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
    @rule(pick=PICK, all_at_once=st.booleans())
    def record(self, pick: int, all_at_once: bool) -> None:
        """The results of calls, perhaps long after the lease; many in one transaction."""
        waiting = self.parked(True)
        waiting = waiting if all_at_once else [waiting[pick % len(waiting)]]
        holders = {(str(row["id"]), str(row["claim"])) for row in self.seen.orders}
        late = {each.job.id for each in waiting if (each.job.id, each.job.claim) not in holders}
        late -= {each.job.id for each in waiting if (each.job.id, each.job.claim) in holders}

        async def record() -> None:
            for each in waiting:
                self.world.parked.remove(each)
                each.open.set_result([])
            await self.world.settled()

        before = self.of(late, self.seen)
        self.run(record())
        assert self.of(late, self.run(look(self.world))) == before, "a worker recorded what it held no more"

    def of(self, ids: set[str], seen: Seen) -> list[Any]:
        """These orders, with their events."""
        hidden = ("now", "claimed")
        rows = [{name: value for name, value in row.items() if name not in hidden} for row in seen.orders]
        return [row for row in rows if str(row["id"]) in ids] + [
            event for event in seen.events if str(event["order_id"]) in ids
        ]

    @rule(number=st.integers(0, 1))
    def work(self, number: int) -> None:
        """A worker's turn without any trouble."""
        self.run(self.world.work(self.world.workers[number]))

    @rule(how=st.sampled_from(["killed", "stalls", "before the commit", "after the commit"]), number=st.integers(0, 1))
    def trouble(self, how: str, number: int) -> None:
        """A worker is killed, or stands still after a claim until it must not call; or the next transaction is lost,
        or is kept and nobody hears of it."""
        worker = self.world.workers[number]
        try:
            if how == "killed":
                self.run(self.world.crash([worker]))
            elif how == "stalls":
                self.run(self.world.claim_too_late(worker))
            else:
                self.world.breaks = how
        except DatabaseUnavailable:
            return

    @rule(seconds=TIMES)
    def time_passes(self, seconds: float) -> None:
        """Leases end, breakers may be probed, retries are due; after a month personal data has had its time."""
        self.run(self.world.passes(seconds))
        if seconds < MONTH_S:
            return

        try:
            self.run(purging.expired(self.world.relay.database, RETENTION_DAYS))
        except DatabaseUnavailable:
            return
