"""The states of an order, what each of them says, and the ways between them.

A state says what is *known*; that somebody works on an order just now is its claim, not its state.
The database's CHECK constraints and the README's diagram are tested against the tables of this module.
"""

from enum import StrEnum


class State(StrEnum):
    """Where an order stands."""

    RECEIVED = "received"
    """The platform asked for a reward; we owe it an answer. Nothing is known to be at the vendor."""
    PLACED = "placed"
    """The vendor has the order and we hold its order id."""
    SETTLED = "settled"
    """The outcome is decided; the platform has not been told yet."""
    CLOSED = "closed"
    """The platform has been told, or there is nobody to tell (the event says which)."""
    ON_HOLD = "on_hold"
    """A person must decide; `hold_reason` says why and what would free it."""


class Step(StrEnum):
    """The next thing a worker does for an order."""

    ENRICH = "enrich"
    """Ask the platform for what its webhook left out (an address), before anything is placed."""
    PLACE = "place"
    """Place the order with the vendor, or find out that it is already there."""
    CHECK = "check"
    """Ask the vendor how the order is doing."""
    CLOSE = "close"
    """Tell the platform how it ended."""


class Outcome(StrEnum):
    """How a reward ended."""

    FULFILLED = "fulfilled"
    """The vendor delivered it."""
    REFUSED = "refused"
    """The vendor or a person refused it; the platform gives the points back."""
    CANCELLED = "cancelled"
    """The platform took the reward back, or a person ended it without an answer."""


STEPS: dict[State, tuple[Step, ...]] = {
    State.RECEIVED: (Step.ENRICH, Step.PLACE),
    State.PLACED: (Step.CHECK,),
    State.SETTLED: (Step.CLOSE,),
    State.CLOSED: (),
    State.ON_HOLD: (),
}
"""The steps that can be next in a state; a final or held order has none."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.PLACED, State.SETTLED, State.ON_HOLD}),
    State.PLACED: frozenset({State.SETTLED, State.ON_HOLD}),
    State.SETTLED: frozenset({State.CLOSED, State.ON_HOLD}),
    State.CLOSED: frozenset(),
    State.ON_HOLD: frozenset({State.RECEIVED, State.PLACED, State.SETTLED, State.CLOSED}),
}
"""The ways out of each state. Staying (a poll that says "not yet", a retry) is not a transition."""


def can_go(start: State, end: State) -> bool:
    """Whether an order may stay in, or go from, `start` to `end`."""
    return start is end or end in TRANSITIONS[start]
