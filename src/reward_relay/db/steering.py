"""Changes of state that are not a worker's: by a person, or by a platform that changes its mind.

Every one is a conditional UPDATE that can fail and writes its event in the same transaction. An order that a worker
holds just now is not taken from it: the wish is noted on the row (`interrupt`) and carried out when the call ends.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.engine import notify
from reward_relay.jobs import source_party
from reward_relay.states import Outcome, State, Step, can_go

FREE = "(claim IS NULL OR claim_until < now())"

MOVE = text(f"""
WITH old AS (
  SELECT id, state FROM orders
  WHERE id = CAST(:id AS uuid) AND state = ANY(CAST(:states AS text[])) AND {FREE} AND interrupt IS NULL FOR UPDATE
), moved AS (
  UPDATE orders o SET state = :to, step = CAST(:step AS text), party = :party,
    due_at = CASE WHEN CAST(:step AS text) IS NOT NULL THEN now() END,
    claim = NULL, claim_until = NULL, attempts = 0, polls = 0, interrupt = NULL, updated_at = now(),
    hold_reason = :hold_reason, cap = NULL, asked = NULL, counted_on = CASE
      WHEN :counted THEN (now() AT TIME ZONE 'UTC')::date
      WHEN CAST(:plan AS jsonb) IS DISTINCT FROM o.plan AND CAST(:plan AS jsonb) IS NOT NULL THEN NULL
      ELSE o.counted_on END,
    held_from = CASE WHEN :to = 'on_hold' THEN COALESCE(o.held_from, old.state) END,
    outcome = COALESCE(:outcome, o.outcome), message = COALESCE(:message, o.message),
    route = COALESCE(:route, o.route), vendor = COALESCE(:vendor, o.vendor),
    plan = COALESCE(CAST(:plan AS jsonb), o.plan), reward = COALESCE(CAST(:reward AS jsonb), o.reward),
    in_doubt = o.in_doubt AND NOT CAST(:sure AS boolean)
  FROM old WHERE o.id = old.id RETURNING o.id, old.state AS was
)
INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
SELECT id, now(), was, :to, :actor, :reason FROM moved RETURNING order_id
""")  # noqa: S608 - a constant of this module
INTERRUPT = text("""
UPDATE orders SET interrupt = CASE WHEN interrupt ->> 'action' = 'cancel' THEN interrupt ELSE CAST(:wish AS jsonb) END
WHERE id = CAST(:id AS uuid) AND claim_until >= now() RETURNING id
""")
"""The platform's word stands: a wish to hold does not replace that the reward was taken back."""
SOON = text(f"""
UPDATE orders SET due_at = now(), attempts = 0, updated_at = now()
WHERE id = CAST(:id AS uuid) AND step IS NOT NULL AND {FREE} RETURNING state
""")  # noqa: S608 - a constant of this module
EVENT = text("""
WITH locked AS (SELECT id, state FROM orders WHERE id = CAST(:id AS uuid) FOR UPDATE)
INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
SELECT id, now(), state, state, :actor, :reason FROM locked
""")
"""Whoever adds an event holds the order's row: two at once would both follow the same one in its chain."""
LET_GO = text("""
UPDATE orders SET interrupt = NULL, claim = NULL, claim_until = NULL WHERE id = CAST(:id AS uuid)
""")
REASON = text("""
UPDATE orders SET hold_reason = :reason, cap = NULL, asked = NULL WHERE id = CAST(:id AS uuid) AND state = 'on_hold'
""")
ASK = text("""
UPDATE orders SET asked = CAST(:asked AS jsonb) || jsonb_build_object('at', now())
WHERE id = CAST(:id AS uuid) AND state = 'on_hold' RETURNING id
""")
WITHDRAW = text("UPDATE orders SET asked = NULL WHERE id = CAST(:id AS uuid) AND asked IS NOT NULL RETURNING id")
PRESENT = text("""
SELECT id, po_number, state, step, held_from, in_doubt, source, vendor, vendor_order_id, outcome,
  claim IS NOT NULL AND claim_until >= now() AS claimed
FROM orders WHERE id = CAST(:id AS uuid) FOR UPDATE
""")


@dataclass(frozen=True, slots=True)
class Move:
    """A change of state. `None` leaves what is there; `hold_reason` is needed for, and only for, `on_hold`.

    `sure` ends the doubt: whoever makes the change knows that the vendor does not have the order.
    `counted`: caps are counted with this change. Another plan than before is to be counted anew.
    """

    to: State
    actor: str
    reason: str
    step: str | None = None
    party: str | None = None
    hold_reason: str | None = None
    outcome: str | None = None
    message: str | None = None
    route: str | None = None
    vendor: str | None = None
    plan: str | None = None
    reward: str | None = None
    sure: bool = False
    counted: bool = False


async def move(connection: AsyncConnection, order_id: str, states: Sequence[State], change: Move) -> bool:
    """Make the change if the order is in one of `states` and no worker holds it.

    Raises:
        ValueError: there is no way from one of the states to the new one.
    """
    for state in states:
        if not can_go(state, change.to):
            raise ValueError(f"no order goes from {state} to {change.to}")
    values = {name: getattr(change, name) for name in Move.__slots__}
    moved = (await connection.execute(MOVE, {**values, "id": order_id, "states": list(states)})).first()
    if moved and change.step:
        await notify(connection)
    return moved is not None


async def interrupt(connection: AsyncConnection, order_id: str, wish: dict[str, str]) -> bool:
    """Note a wish (`action` hold or cancel, `actor`, `reason`) on an order that a worker holds; a cancel stays."""
    found = await connection.execute(INTERRUPT, {"id": order_id, "wish": json.dumps(wish)})
    if found.first() is None:
        return False
    await note(connection, order_id, wish["actor"], f"{wish['reason']}: as soon as the present call has ended")
    return True


async def soon(connection: AsyncConnection, order_id: str, actor: str, reason: str) -> bool:
    """Make the order's next step due now, with all its attempts; False where it has none or a worker holds it."""
    if (await connection.execute(SOON, {"id": order_id})).first() is None:
        return False
    await note(connection, order_id, actor, reason)
    await notify(connection)
    return True


async def ask(connection: AsyncConnection, order_id: str, asked: Mapping[str, str], reason: str) -> bool:
    """Note that a held order waits for a second person: `asked` says by whom (`by`) and for what (`pin`, `note`)."""
    if (await connection.execute(ASK, {"id": order_id, "asked": json.dumps(dict(asked))})).first() is None:
        return False
    await note(connection, order_id, asked["by"], reason)
    return True


async def withdraw(connection: AsyncConnection, order_id: str, actor: str, reason: str) -> bool:
    """Take back what was asked of a second person; False where nothing was."""
    if (await connection.execute(WITHDRAW, {"id": order_id})).first() is None:
        return False
    await note(connection, order_id, actor, reason)
    return True


async def note(connection: AsyncConnection, order_id: str, actor: str, reason: str) -> None:
    """An event without a change of state."""
    await connection.execute(EVENT, {"id": order_id, "actor": actor, "reason": reason})


async def present(connection: AsyncConnection, order_id: str) -> Any:
    """The order's row, locked until the transaction ends; None where there is none."""
    return (await connection.execute(PRESENT, {"id": order_id})).first()


async def hold(connection: AsyncConnection, order_id: str, actor: str, reason: str) -> bool:
    """Hold an open order, now or as soon as its call ends; False where it is not open."""
    change = Move(State.ON_HOLD, actor, f"held: {reason}", hold_reason=reason)
    if await move(connection, order_id, (State.RECEIVED, State.PLACED, State.SETTLED), change):
        return True
    return await interrupt(connection, order_id, {"action": "hold", "actor": actor, "reason": reason})


async def hold_unless_placed(connection: AsyncConnection, order_id: str, actor: str, reason: str) -> None:
    """Hold an order that is not at the vendor, whatever it was held for before; of any other only note the reason."""
    row = await present(connection, order_id)
    if row.state == State.RECEIVED and row.claimed:
        await interrupt(connection, order_id, {"action": "hold_unless_placed", "actor": actor, "reason": reason})
    elif row.state == State.RECEIVED:
        await hold(connection, order_id, actor, reason)
    else:
        if row.state == State.ON_HOLD and row.held_from == State.RECEIVED:
            await connection.execute(REASON, {"id": order_id, "reason": reason})
        await note(connection, order_id, actor, reason)


async def cancel(connection: AsyncConnection, order_id: str, actor: str, reason: str) -> None:
    """The platform takes the reward back: end what is not placed, hold what may be, and say where it is too late."""
    row = await present(connection, order_id)
    if row.claimed:
        await interrupt(connection, order_id, {"action": "cancel", "actor": actor, "reason": reason})
        return
    unplaced = row.state == State.RECEIVED or (row.state == State.ON_HOLD and row.held_from == State.RECEIVED)
    if unplaced and not row.in_doubt:
        change = Move(
            State.SETTLED,
            actor,
            reason,
            step=Step.CLOSE,
            party=source_party(row.source),
            outcome=Outcome.CANCELLED,
            message=reason,
        )
        await move(connection, order_id, (State(row.state),), change)
    elif row.state in (State.RECEIVED, State.PLACED) or row.held_from in (State.RECEIVED, State.PLACED):
        held = _too_late(row, reason)
        if not await hold(connection, order_id, actor, held):
            await connection.execute(REASON, {"id": order_id, "reason": held})
            await note(connection, order_id, actor, held)
    else:
        late = f": too late, the order is {row.state}" if row.outcome in (None, Outcome.FULFILLED) else ""
        await note(connection, order_id, actor, f"{reason}{late}")


def _too_late(row: Any, reason: str) -> str:
    if row.vendor_order_id:
        return (
            f"{reason}, but the vendor has it as {row.vendor_order_id}. Ask {row.vendor} to cancel it, then refuse "
            f"or close this order; or release it to let it go on"
        )
    return (
        f"{reason}, but the vendor may have it. Look for {row.po_number} there: if it is there, ask {row.vendor} to "
        f"cancel it; then close this order. Release would place it"
    )


async def let_go(connection: AsyncConnection, order_id: str) -> None:
    """End the claim on an order, and forget the wish that waited for it."""
    await connection.execute(LET_GO, {"id": order_id})


async def carry_out(connection: AsyncConnection, order_id: str, wish: dict[str, str]) -> None:
    """Do what was asked for while a worker held the order. The worker has recorded, or died: the order is let go."""
    await let_go(connection, order_id)
    if wish["action"] == "cancel":
        await cancel(connection, order_id, wish["actor"], wish["reason"])
    elif wish["action"] == "hold_unless_placed":
        await hold_unless_placed(connection, order_id, wish["actor"], wish["reason"])
    elif not await hold(connection, order_id, wish["actor"], wish["reason"]):
        await note(connection, order_id, wish["actor"], f"{wish['reason']}: too late to hold it")
