"""What a worker does for an order: enrich, place, check, close. Each step asks one party and says what is now known.

Nothing here knows SQL or HTTP: a step gets a claimed order and an adapter, and returns the `Result` to record.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from reward_relay.contracts import (
    ByHand,
    Ending,
    NothingToDo,
    Placement,
    Plan,
    Platform,
    Progress,
    Vendor,
    VendorOrder,
    Withdrawn,
)
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown, Unreadable
from reward_relay.jobs import BLIND, Job, Result, source_party, vendor_party
from reward_relay.personal import masked
from reward_relay.routing import unreachable
from reward_relay.states import Outcome, State, Step

RETRY_DELAYS_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 21600.0)
"""Waits between attempts of one step; after the last one the order is held."""
JITTER = 0.2
CHECK_BACKOFF = 2.0
MAX_CHECK_WAIT_S = 600.0
CHECKS_A_DAY = int(86_400 / MAX_CHECK_WAIT_S)
TOO_MANY = 429
IN_DOUBT_STEPS = (Step.PLACE, Step.CLOSE)


@dataclass(frozen=True, slots=True)
class Parties:
    """The adapters by their names in the configuration, and how steps reach and time them."""

    platforms: Mapping[str, Platform]
    vendors: Mapping[str, Vendor]
    callback_base: str
    first_check_s: float = 5.0
    max_checks: int = 14 * CHECKS_A_DAY

    def callback_url(self, vendor: str, po_number: str, token: str) -> str:
        """Where the vendor tells us about one order."""
        return f"{self.callback_base}/vendor-webhooks/{vendor}/{po_number}.{token}"


async def run(job: Job, parties: Parties) -> Result:
    """Do the order's step; every failure of a call is turned into what is then known."""
    try:
        match job.step:
            case Step.ENRICH:
                return await _enrich(job, _platform(job, parties))
            case Step.PLACE:
                return await _place(job, parties)
            case Step.CHECK:
                return await _check(job, parties)
            case Step.CLOSE:
                return await _close(job, _platform(job, parties))
    except CallFailed as failure:
        return after_failure(job, failure)
    except Unreadable as error:
        return _held(job, f"{error}", "unreadable")


async def _enrich(job: Job, platform: Platform) -> Result:
    found = await platform.enrich(job.reward)
    plan = _plan(job)
    if isinstance(found, Withdrawn):
        return _settled(job, Outcome.CANCELLED, found.reason, f"{found.reason}; nothing is placed")
    missing = unreachable(plan.delivery, found.recipient)
    if missing:
        reason = f"{missing}, and {job.source} does not know it either; add it there and release, or refuse the reward"
        return _held(job, reason, "ok")
    return Result(
        State.RECEIVED,
        Step.PLACE,
        vendor_party(plan.vendor),
        "ok",
        reason=f"{job.source} confirmed the reward and its recipient",
        reward=found,
    )


async def _place(job: Job, parties: Parties) -> Result:
    plan = _plan(job)
    vendor = _vendor(job, parties)
    url = parties.callback_url(plan.vendor, job.po_number, job.callback_token)
    placement = Placement(plan, job.reward.recipient, url, job.reward.message)
    if job.in_doubt and not vendor.takes_key:
        if not vendor.can_find:
            reason = (
                f"an earlier attempt may have reached {plan.vendor}, which {BLIND}; look "
                f"for {job.po_number} there, then release (places it) or close (it is there)"
            )
            return _held(job, reason, "not_called")
        found = await vendor.find(job.po_number)
        if found is not None:
            return _placed(job, parties, found)
    return _placed(job, parties, await vendor.place(placement, job.po_number))


def _placed(job: Job, parties: Parties, order: VendorOrder) -> Result:
    found = "was there already" if order.existed else "placed"
    name = _plan(job).vendor
    how = f"{found} at {name} as {order.vendor_order_id}"
    if order.progress is not Progress.PENDING:
        return _ended(job, order, how)
    return Result(
        State.PLACED,
        Step.CHECK,
        vendor_party(name),
        "found" if order.existed else "ok",
        wait_s=0.0 if order.existed else parties.first_check_s,
        reason=how + _unknown_word(order),
        vendor_order_id=order.vendor_order_id,
        vendor_status=order.word,
        status=order.status,
        answer=_discreet(job, order.answer),
    )


async def _check(job: Job, parties: Parties) -> Result:
    order = await _vendor(job, parties).check(job.vendor_order_id or "")
    if order.progress is not Progress.PENDING:
        return _ended(job, order, f"{_plan(job).vendor} says {order.word}")
    if job.polls + 1 >= parties.max_checks:
        reason = f"{_plan(job).vendor} still says {order.word or 'nothing'} of {job.vendor_order_id}"
        return _held(
            job,
            f"{reason} after {job.polls + 1} checks; ask there how it ended, or release to go on checking",
            "pending",
        )
    news = order.word != job.vendor_status
    return Result(
        State.PLACED,
        Step.CHECK,
        job.party,
        "pending",
        wait_s=jittered(min(parties.first_check_s * CHECK_BACKOFF ** min(job.polls + 1, 12), MAX_CHECK_WAIT_S)),
        reason=f"the vendor's status is {order.word}{_unknown_word(order)}" if news else None,
        polls=job.polls + 1,
        vendor_status=order.word,
        status=order.status,
        answer=_discreet(job, order.answer),
    )


def _unknown_word(order: VendorOrder) -> str:
    return "" if order.known else f"; its status word {order.word!r} is not documented and counts as pending"


def _ended(job: Job, order: VendorOrder, how: str) -> Result:
    outcome = Outcome.FULFILLED if order.progress is Progress.FULFILLED else Outcome.REFUSED
    detail = f": {_discreet(job, order.detail)}" if order.detail else ""
    return Result(
        State.SETTLED,
        Step.CLOSE,
        source_party(job.source),
        "found" if order.existed else "ok",
        reason=f"{how}; {outcome}{detail}",
        outcome=outcome,
        message=order.detail,
        vendor_order_id=order.vendor_order_id,
        vendor_status=order.word,
        status=order.status,
        answer=_discreet(job, order.answer),
    )


def _settled(job: Job, outcome: Outcome, message: str | None, reason: str) -> Result:
    party = source_party(job.source)
    return Result(State.SETTLED, Step.CLOSE, party, "ok", outcome=outcome, message=message, reason=reason)


async def _close(job: Job, platform: Platform) -> Result:
    ending = job.ending or Ending(Outcome.CANCELLED)
    done = await platform.close(job.reward, ending, again=job.in_doubt)
    if isinstance(done, ByHand):
        return _held(job, f"{done.instruction}; then close this order", "by_hand")
    if isinstance(done, NothingToDo):
        return Result(State.CLOSED, None, None, "nothing_to_do", reason=done.detail)
    reason, answer = _discreet(job, done.detail), _discreet(job, done.answer)
    return Result(State.CLOSED, None, None, "ok", reason=reason, status=done.status, answer=answer)


def _discreet(job: Job, said: str) -> str:
    """What somebody else said, without the person whom it is about: it is kept longer than their data."""
    return masked(said, job.reward.recipient)


def after_failure(job: Job, failure: CallFailed) -> Result:
    """What is known after a call failed: held by a definite no, else waiting for the next attempt."""
    failure.detail, failure.answer = _discreet(job, failure.detail), _discreet(job, failure.answer)
    doubt = job.in_doubt or (isinstance(failure, Unknown) and job.step in IN_DOUBT_STEPS)
    if isinstance(failure, PartyRefusesUs):
        reason = f"{failure.detail}. Mend it, then resume {job.party}: this order is released with it"
        return _held(job, reason, failure.verdict, failure, pause=failure.detail)
    if isinstance(failure, Rejected):
        reason = f"{failure.detail}. Mend the cause and release, or refuse the reward"
        return _held(job, reason, failure.verdict, failure)
    attempts = job.attempts + 1
    if attempts > len(RETRY_DELAYS_S):
        reason = f"gave up after {attempts} attempts: {failure.detail}. Release tries again"
        return _held(job, reason, failure.verdict, failure, in_doubt=doubt)
    wait = max(jittered(RETRY_DELAYS_S[attempts - 1]), (failure.retry_after_s or 0.0) * random.uniform(1, 1 + JITTER))
    return Result(
        job.state,
        job.step,
        job.party,
        failure.verdict,
        wait_s=wait,
        reason=f"{failure.detail}; attempt {attempts}, the next in about {round(wait)} s",
        attempts=attempts,
        polls=job.polls,
        in_doubt=doubt,
        last_error=failure.detail,
        status=failure.status,
        answer=failure.answer,
        retry_after_s=failure.retry_after_s,
    )


def put_back(job: Job) -> Result:
    """The order as it was before the claim: nobody was called."""
    return Result(
        job.state,
        job.step,
        job.party,
        "not_called",
        attempts=job.attempts,
        polls=job.polls,
        in_doubt=job.in_doubt,
    )


def unrecordable(job: Job) -> Result:
    """What can be said when the true result could not be stored: a person must look, and a call may have arrived."""
    reason = f"the result of {job.step} could not be stored (the log says why); look at {job.party}, then release"
    return _held(job, reason, "unrecordable", in_doubt=job.in_doubt or job.step in IN_DOUBT_STEPS)


def is_party_failure(result: Result) -> bool:
    """Whether the call says that its party, not this order, is in trouble."""
    return result.call_verdict in (NotSent.verdict, Unknown.verdict)


def asks_for_calm(result: Result) -> bool:
    """Whether the party said that we, not this order, are too many (429)."""
    return result.status == TOO_MANY and is_party_failure(result)


def says_nothing(result: Result) -> bool:
    """Whether nobody was called, so that the party is neither better nor worse for it."""
    return result.call_verdict in ("not_called", "unreadable", "by_hand", "nothing_to_do")


def jittered(seconds: float) -> float:
    """A wait, 20 % more or less, so that orders that failed together do not come back together."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)


def _held(
    job: Job,
    reason: str,
    verdict: str,
    failure: CallFailed | None = None,
    *,
    pause: str | None = None,
    in_doubt: bool | None = None,
) -> Result:
    return Result(
        State.ON_HOLD,
        None,
        None,
        verdict,
        reason=f"held: {reason}",
        hold_reason=reason,
        in_doubt=job.in_doubt if in_doubt is None else in_doubt,
        last_error=failure.detail if failure else None,
        status=failure.status if failure else None,
        answer=failure.answer if failure else "",
        pause=pause,
        retry_after_s=failure.retry_after_s if failure else None,
    )


def _plan(job: Job) -> Plan:
    if job.plan is None:
        raise Unreadable("the order has no plan; release routes it again")
    return job.plan


def _platform(job: Job, parties: Parties) -> Platform:
    try:
        return parties.platforms[job.source]
    except KeyError:
        raise Unreadable(f"source {job.source} is no longer configured; bring it back and release") from None


def _vendor(job: Job, parties: Parties) -> Vendor:
    try:
        return parties.vendors[_plan(job).vendor]
    except KeyError:
        raise Unreadable(f"vendor {_plan(job).vendor} is no longer configured; bring it back and release") from None
