"""What passes between the database and a worker: a claimed order, and what is to be recorded of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reward_relay.contracts import Ending, Plan, RewardOrder
from reward_relay.states import Outcome, State, Step

BLIND = "can neither be asked nor take a key"
"""In a hold reason: only a person can find out whether the vendor has the order. A release says that it has not."""


def source_party(name: str) -> str:
    """The name under which a platform's health, slots and calls are counted."""
    return f"source:{name}"


def vendor_party(name: str) -> str:
    """The same for a vendor."""
    return f"vendor:{name}"


def steps_of(party: str) -> tuple[Step, Step]:
    """The two steps that call such a party, the one that begins an order's part there first."""
    return (Step.PLACE, Step.CHECK) if party.startswith("vendor:") else (Step.ENRICH, Step.CLOSE)


class Trial(StrEnum):
    """A call to a party that has been in trouble."""

    PROBE = "probe"
    """The one that tests whether it works again."""
    RAMP = "ramp"
    """One of the few that are begun while it comes back."""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed order. `in_doubt` is its value from before the claim: an earlier placing (or closing) may
    have arrived.

    `claim` fences the record: only the holder of the order's present claim may write. `trial` marks calls to a party
    that has been in trouble. `counted`: caps have let it pass before.
    """

    id: str
    po_number: str
    source: str
    state: State
    step: Step
    party: str
    reward: RewardOrder
    plan: Plan | None
    callback_token: str
    vendor_order_id: str | None
    vendor_status: str | None
    ending: Ending | None
    attempts: int
    polls: int
    in_doubt: bool
    claim: str
    trial: Trial | None = None
    counted: bool = False

    @property
    def probe(self) -> bool:
        """Whether the call tests a party whose breaker is open."""
        return self.trial is Trial.PROBE


@dataclass(frozen=True, slots=True)
class Result:
    """What one step found out, as `db.orders.record` writes it.

    `wait_s` is seconds until the next step is due. `reason` is the event's sentence; without one no event is
    written (a poll that says "not yet"). `call_verdict`, `status`, `answer` and `exchanges` go to the row of the call.
    `retry_after_s` is how long the party asked us to wait.
    """

    state: State
    step: Step | None
    party: str | None
    call_verdict: str
    wait_s: float = 0.0
    reason: str | None = None
    attempts: int = 0
    polls: int = 0
    in_doubt: bool = False
    outcome: Outcome | None = None
    message: str | None = None
    hold_reason: str | None = None
    vendor_order_id: str | None = None
    vendor_status: str | None = None
    reward: RewardOrder | None = None
    last_error: str | None = None
    status: int | None = None
    answer: str = ""
    pause: str | None = None
    exchanges: Sequence[Mapping[str, Any]] = ()
    retry_after_s: float | None = None
    cap: str | None = None
