"""The hot statements on orders: claim, record, and the vendor's hint. Each does its whole batch at once."""

import hmac
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.contracts import Ending, Plan, RewardOrder, clean_text
from reward_relay.db import parties, steering
from reward_relay.db.engine import notify
from reward_relay.jobs import Job, Result, Trial, steps_of
from reward_relay.states import Outcome, State, Step

Wish = dict[str, str]
"""What a person or platform asked for while an order was claimed: `action`, `actor`, `reason`."""

CLAIM = """
WITH wanted AS (
  SELECT * FROM unnest(CAST(:parties AS text[]), CAST(:steps AS text[]), CAST(:lanes AS int[]), CAST(:slots AS int[]))
    AS w(party, step, lane, slots)
), switch AS (
  SELECT CAST(:paused AS boolean) OR COALESCE((SELECT paused FROM placing_switch ORDER BY id DESC LIMIT 1), false)
    AS paused
), trial AS (
  SELECT party, CASE breaker WHEN 'open' THEN 'probe' ELSE 'ramp' END AS kind, GREATEST(permits, 1) AS slots
  FROM party_health
  WHERE party = ANY(CAST(:parties AS text[])) AND NOT paused AND (breaker = 'open' OR permits IS NOT NULL)
    AND (permits > 0 OR open_until <= now())
  FOR UPDATE SKIP LOCKED
), allowed AS (
  SELECT w.party, w.step, w.lane, t.kind AS trial,
    CASE WHEN w.step = 'place' AND (SELECT paused FROM switch) THEN 0
         WHEN t.party IS NOT NULL THEN LEAST(w.slots, t.slots)
         WHEN h.party IS NULL OR (h.breaker = 'closed' AND h.permits IS NULL AND NOT h.paused) THEN w.slots
         ELSE 0 END AS slots
  FROM wanted w LEFT JOIN party_health h USING (party) LEFT JOIN trial t USING (party)
), picked AS (
  SELECT o.id, o.in_doubt AS was_in_doubt, a.trial, a.slots,
    row_number() OVER (PARTITION BY a.party ORDER BY a.lane, o.turn) AS place
  FROM allowed a CROSS JOIN LATERAL (
    SELECT id, in_doubt, {turn} AS turn FROM orders WHERE party = a.party AND step = a.step AND due_at <= now()
    ORDER BY due_at {direction} LIMIT a.slots FOR UPDATE SKIP LOCKED) o
), claimed AS (
  UPDATE orders o SET claim = :claim, hinted = false,
    in_doubt = o.in_doubt OR (o.interrupt IS NULL AND o.step IN ('place', 'close')),
    claim_until = now() + make_interval(secs => :lease_s), due_at = now() + make_interval(secs => :lease_s)
  WHERE o.id = ANY(ARRAY(SELECT id FROM picked WHERE place <= slots))
  RETURNING o.*
), noted AS (
  INSERT INTO calls (order_id, claim, party, purpose, key, started_at)
  SELECT id, claim, party, step, po_number, now() FROM claimed WHERE interrupt IS NULL
), spent AS (
  UPDATE party_health h SET open_until = now() + make_interval(secs => :lease_s),
    permits = CASE WHEN h.permits IS NOT NULL THEN GREATEST(h.permits - c.number, 0) END
  FROM (SELECT party, count(*) AS number FROM claimed JOIN picked USING (id) WHERE trial IS NOT NULL GROUP BY party) c
  WHERE h.party = c.party
)
SELECT id, po_number, source, state, step, party, CAST(reward AS text) AS reward, CAST(plan AS text) AS plan,
  callback_token, vendor_order_id, vendor_status, outcome, message, attempts, polls, p.was_in_doubt, p.trial,
  counted_on IS NOT NULL AS counted, CAST(interrupt AS text) AS interrupt
FROM claimed JOIN picked p USING (id)
"""
CLAIM_OLDEST = text(CLAIM.format(direction="", turn="due_at"))
CLAIM_NEWEST = text(CLAIM.format(direction="DESC", turn="now() - due_at"))
"""A claimed order is due again when its lease ends, so a crash needs no cleaning up.

A party has two kinds of steps: the first `lane` goes before the second where not both find room, and what was locked in
vain is free again with the commit. A party whose breaker is open gets a probe when its time has come, one that comes
back as many calls as it has permits (`db.parties`); another claim that has its row just now is not waited for.

While placing is paused, nothing that is to be placed is due: its lane has no slots.

`= ANY(ARRAY(…))`, since a join makes PostgreSQL read the whole table where much is due: it takes an unknown LIMIT for a
tenth of it.
"""

RECORD = text("""
WITH r AS (
  SELECT * FROM jsonb_to_recordset(CAST(:results AS jsonb)) AS x(
    id uuid, claim uuid, was text, state text, step text, party text, wait_s float8, reason text, attempts int,
    polls int, in_doubt boolean, outcome text, message text, hold_reason text, vendor_order_id text,
    vendor_status text, reward jsonb, last_error text, verdict text, status int, answer text, exchanges jsonb,
    cap text)
), done AS (
  UPDATE orders o SET state = r.state, step = r.step, party = r.party,
    due_at = CASE WHEN r.step IS NULL THEN NULL WHEN o.hinted THEN now()
                  ELSE now() + make_interval(secs => r.wait_s) END,
    attempts = r.attempts, polls = r.polls, in_doubt = r.in_doubt, claim = NULL, claim_until = NULL, hinted = false,
    outcome = COALESCE(r.outcome, o.outcome), message = COALESCE(r.message, o.message), hold_reason = r.hold_reason,
    cap = r.cap, held_from = CASE WHEN r.state = 'on_hold' THEN r.was END, reward = COALESCE(r.reward, o.reward),
    vendor_order_id = COALESCE(r.vendor_order_id, o.vendor_order_id),
    vendor_status = COALESCE(r.vendor_status, o.vendor_status), last_error = r.last_error, updated_at = now()
  FROM r WHERE o.id = r.id AND o.state = r.was AND o.claim = r.claim
  RETURNING o.id, r.claim, CAST(o.interrupt AS text) AS interrupt, o.due_at <= now() AS due
), told AS (
  INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
  SELECT r.id, now(), r.was, r.state, 'worker', r.reason FROM r JOIN done USING (id, claim)
  WHERE r.reason IS NOT NULL OR r.was <> r.state
), finished AS (
  UPDATE calls c SET finished_at = now(), verdict = r.verdict, status = r.status, answer = r.answer,
    exchanges = r.exchanges
  FROM r WHERE c.order_id = r.id AND c.claim = r.claim
)
SELECT id, claim, interrupt, due FROM done
""")
"""Only the holder of the claim may write: where the claim is gone, nothing of the order is touched.

A batch may hold two results of one order, where a slow process claimed it again before it had recorded the first.
"""


async def claim(
    connection: AsyncConnection,
    slots: Mapping[str, int],
    lease_s: float,
    *,
    newest: bool = False,
    swapped: bool = False,
    paused: bool = False,
) -> list[Job]:
    """Claim due orders for `lease_s` seconds, of each party no more than its free slots.

    What is due longest goes first, or `newest` what became due last; of the two steps that call a party the first, or
    `swapped` the second. Both matter only where more is due than there are slots.

    An order whose last worker died while a wish waited for it is not worked on: the wish is carried out first. One
    that this version cannot read is held.
    """
    if not slots:
        return []
    mine = str(uuid.uuid4())
    lanes = [(party, step, lane) for party in slots for lane, step in enumerate(steps_of(party))]
    values = {
        "parties": [party for party, _, _ in lanes],
        "steps": [step for _, step, _ in lanes],
        "lanes": [-lane if swapped else lane for _, _, lane in lanes],
        "slots": [slots[party] for party, _, _ in lanes],
    }
    statement = CLAIM_NEWEST if newest else CLAIM_OLDEST
    rows = await connection.execute(statement, {**values, "lease_s": lease_s, "claim": mine, "paused": paused})
    jobs: list[Job] = []
    for row in rows.all():
        if row.interrupt:
            await steering.carry_out(connection, str(row.id), json.loads(row.interrupt))
            await parties.give_back(connection, row.party, row.trial)
            continue
        try:
            jobs.append(_job(row, mine))
        except ValidationError as error:
            await steering.let_go(connection, str(row.id))
            await steering.hold(connection, str(row.id), "worker", _unreadable(error))
            await parties.give_back(connection, row.party, row.trial)
    return jobs


def _unreadable(error: ValidationError) -> str:
    where = ", ".join(sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()}))
    return f"this version cannot read the stored order ({where}); upgrade to the one that wrote it, then release"


def _job(row: Row[Any], mine: str) -> Job:
    ending = Ending(Outcome(row.outcome), row.message) if row.outcome else None
    return Job(
        id=str(row.id),
        po_number=row.po_number,
        source=row.source,
        state=State(row.state),
        step=Step(row.step),
        party=row.party,
        reward=RewardOrder.model_validate_json(row.reward),
        plan=Plan.model_validate_json(row.plan) if row.plan else None,
        callback_token=row.callback_token,
        vendor_order_id=row.vendor_order_id,
        vendor_status=row.vendor_status,
        ending=ending,
        attempts=row.attempts,
        polls=row.polls,
        in_doubt=row.was_in_doubt,
        claim=mine,
        trial=Trial(row.trial) if row.trial else None,
        counted=row.counted,
    )


async def record(
    connection: AsyncConnection, results: Sequence[tuple[Job, Result]]
) -> dict[tuple[str, str], dict[str, Any] | None]:
    """Write what the steps found out.

    Returns:
        By order id and claim, what a person or platform asked for meanwhile (None = nothing). A job that is missing was
        fenced: its claim had passed to somebody else, and nothing was written.
    """
    rows = await connection.execute(RECORD, {"results": json.dumps([_row(job, result) for job, result in results])})
    found = rows.all()
    if any(row.due for row in found):
        await notify(connection)
    return {(str(row.id), str(row.claim)): json.loads(row.interrupt) if row.interrupt else None for row in found}


def _row(job: Job, result: Result) -> dict[str, Any]:
    return {
        "id": job.id,
        "claim": job.claim,
        "was": job.state,
        "state": result.state,
        "step": result.step,
        "party": result.party,
        "wait_s": result.wait_s,
        "reason": clean_text(result.reason),
        "attempts": result.attempts,
        "polls": result.polls,
        "in_doubt": result.in_doubt,
        "outcome": result.outcome,
        "message": clean_text(result.message),
        "hold_reason": clean_text(result.hold_reason),
        "vendor_order_id": result.vendor_order_id,
        "vendor_status": result.vendor_status,
        "reward": result.reward.model_dump(mode="json") if result.reward else None,
        "last_error": clean_text(result.last_error),
        "verdict": result.call_verdict,
        "status": result.status,
        "answer": clean_text(result.answer),
        "exchanges": result.exchanges or None,
        "cap": result.cap,
    }


TOKENS = text("SELECT id, po_number, callback_token, vendor FROM orders WHERE po_number = ANY(CAST(:pos AS text[]))")
HINT = text("""
WITH hinted AS (
  UPDATE orders SET hinted = true, due_at = CASE WHEN claim IS NULL OR claim_until < now() THEN now() ELSE due_at END
  WHERE id = ANY(CAST(:ids AS uuid[])) AND state IN ('received', 'placed') AND NOT hinted
  RETURNING id, state
)
INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
SELECT id, now(), state, state, 'vendor', 'the vendor called back; asking it how the order is' FROM hinted
RETURNING order_id
""")


async def hint(connection: AsyncConnection, callbacks: Sequence[tuple[str, str]]) -> list[str | None]:
    """The vendor's callbacks, each (vendor, token): the order is looked at soon. Its id; None where none has the token.

    A token is the order's PO number and its secret, joined by a dot. A hint changes no state: it may be forged,
    repeated or early, so the next check asks the vendor itself.
    """
    numbers = [token.partition(".")[0] for _, token in callbacks]
    rows = (await connection.execute(TOKENS, {"pos": numbers})).all()
    known = {row.po_number: row for row in rows}
    found: list[str | None] = []
    for number, (vendor, token) in zip(numbers, callbacks, strict=True):
        row = known.get(number)
        secret = token.partition(".")[2].encode("utf-8", "replace")
        right = hmac.compare_digest(row.callback_token.encode() if row else b"-" * 32, secret)
        found.append(str(row.id) if row is not None and right and row.vendor == vendor else None)
    ids = [each for each in found if each is not None]
    if ids and (await connection.execute(HINT, {"ids": ids})).first():
        await notify(connection)
    return found


NEXT_DUE = text("""
SELECT EXTRACT(epoch FROM min(CASE WHEN (h.breaker = 'open' OR h.permits = 0) AND h.open_until > now()
  THEN h.open_until ELSE o.due_at END) - now())
FROM unnest(CAST(:parties AS text[])) AS p(party) LEFT JOIN party_health h ON h.party = p.party
CROSS JOIN unnest(CAST(:steps AS text[])) AS s(step)
LEFT JOIN LATERAL (
  SELECT due_at FROM orders WHERE party = p.party AND step = s.step AND due_at > now() ORDER BY due_at LIMIT 1
) o ON true
WHERE h.paused IS NOT TRUE
""")
"""What becomes due for a party that is not called just now wakes nobody before its time has come."""


async def seconds_to_next(connection: AsyncConnection, names: Sequence[str]) -> float | None:
    """Seconds until one of these parties is to be called next, None where nothing waits."""
    values = {"parties": list(names), "steps": list(Step)}
    found = (await connection.execute(NEXT_DUE, values)).scalar()
    return None if found is None else float(found)
