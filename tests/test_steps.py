"""Each step: what the party says, and what is then recorded."""

from dataclasses import replace
from typing import Any

import pytest

from reward_relay.contracts import (
    ByHand,
    Closed,
    Delivery,
    Ending,
    Item,
    Line,
    NothingToDo,
    Placement,
    Plan,
    Platform,
    Progress,
    Recipient,
    RewardOrder,
    Vendor,
    VendorOrder,
    Withdrawn,
)
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown, Unreadable
from reward_relay.jobs import Job, Result
from reward_relay.states import Outcome, State, Step, can_go
from reward_relay.steps import (
    JITTER,
    MAX_CHECK_WAIT_S,
    RETRY_DELAYS_S,
    Parties,
    after_failure,
    is_party_failure,
    jittered,
    run,
)
from support.fakes import PENDING, FakePlatform, FakeVendor

PLAN = Plan(route="cards", vendor="gcp", delivery=Delivery.DIGITAL, lines=(Line(product="CVS", value=20),))
REWARD = RewardOrder(
    source="shop", external_id="1", recipient=Recipient(email="a@example.com"), items=(Item(sku="card"),), message="Hi"
)
STATES = {Step.ENRICH: State.RECEIVED, Step.PLACE: State.RECEIVED, Step.CHECK: State.PLACED, Step.CLOSE: State.SETTLED}
WITHDRAWN = Withdrawn("1", "the member changed their mind")


def parties(platform: Platform | None = None, vendor: Vendor | None = None) -> Parties:
    """One platform `shop`, one vendor `gcp`."""
    return Parties({"shop": platform or FakePlatform()}, {"gcp": vendor or FakeVendor()}, "http://relay.test", 5.0)


def job(step: Step, **changes: Any) -> Job:
    """A claimed order."""
    party = "source:shop" if step in (Step.ENRICH, Step.CLOSE) else "vendor:gcp"
    start = Job(
        id="1",
        po_number="RR-0123456789ABCDEF",
        source="shop",
        state=STATES[step],
        step=step,
        party=party,
        reward=REWARD,
        plan=PLAN,
        callback_token="token",
        vendor_order_id="V1" if step in (Step.CHECK, Step.CLOSE) else None,
        vendor_status="New",
        ending=Ending(Outcome.FULFILLED) if step is Step.CLOSE else None,
        attempts=0,
        polls=0,
        in_doubt=False,
        claim="c",
    )
    return replace(start, **changes)


async def placed(vendor: FakeVendor, **changes: Any) -> Result:
    """The result of placing at this vendor."""
    return await run(job(Step.PLACE, **changes), parties(vendor=vendor))


# Enrich.


async def test_an_enriched_reward_goes_on_to_the_vendor() -> None:
    better = REWARD.model_copy(update={"recipient": Recipient(email="b@example.com")})
    result = await run(job(Step.ENRICH), parties(FakePlatform(better)))
    assert (result.state, result.step, result.party) == (State.RECEIVED, Step.PLACE, "vendor:gcp")
    assert (result.reward, result.attempts, result.in_doubt) == (better, 0, False)


async def test_a_withdrawn_reward_is_cancelled_before_anything_is_placed() -> None:
    result = await run(job(Step.ENRICH), parties(FakePlatform(WITHDRAWN)))
    assert (result.state, result.step, result.party) == (State.SETTLED, Step.CLOSE, "source:shop")
    assert (result.outcome, result.message) == (Outcome.CANCELLED, "the member changed their mind")


async def test_a_recipient_whom_nobody_can_reach_is_a_hold() -> None:
    lost = REWARD.model_copy(update={"recipient": Recipient()})
    result = await run(job(Step.ENRICH), parties(FakePlatform(lost)))
    assert result.state is State.ON_HOLD
    assert result.hold_reason is not None
    assert "neither an e-mail address nor a phone number" in result.hold_reason
    assert "shop does not know it either" in result.hold_reason


# Place.


async def test_a_placed_order_is_checked_next() -> None:
    vendor = FakeVendor()
    result = await placed(vendor)
    assert vendor.asked == [("place", "RR-0123456789ABCDEF")]
    assert (result.state, result.step, result.party) == (State.PLACED, Step.CHECK, "vendor:gcp")
    assert (result.vendor_order_id, result.vendor_status, result.wait_s) == ("V1", "New", 5.0)
    assert (result.call_verdict, result.status, result.answer, result.in_doubt) == ("ok", 201, "kept", False)


async def test_the_vendor_gets_the_plan_and_a_url_of_our_own_to_call_back() -> None:
    vendor = FakeVendor()
    await placed(vendor)
    url = "http://relay.test/vendor-webhooks/gcp/RR-0123456789ABCDEF.token"
    assert vendor.placement == Placement(PLAN, REWARD.recipient, url, "Hi")


@pytest.mark.parametrize(
    ("progress", "outcome"), [(Progress.FULFILLED, Outcome.FULFILLED), (Progress.REFUSED, Outcome.REFUSED)]
)
async def test_an_order_that_ends_as_it_is_placed_is_settled(progress: Progress, outcome: Outcome) -> None:
    order = VendorOrder("V1", progress, word="Done", detail="because")
    result = await placed(FakeVendor(placed=order))
    assert (result.state, result.step, result.party) == (State.SETTLED, Step.CLOSE, "source:shop")
    assert (result.outcome, result.message, result.vendor_order_id) == (outcome, "because", "V1")


async def test_in_doubt_the_vendor_is_asked_first_and_its_order_is_taken() -> None:
    vendor = FakeVendor(found=replace(PENDING, existed=True))
    result = await placed(vendor, in_doubt=True)
    assert vendor.asked == [("find", "RR-0123456789ABCDEF")]
    assert (result.state, result.call_verdict, result.vendor_order_id) == (State.PLACED, "found", "V1")
    assert (result.wait_s, result.in_doubt) == (0.0, False)


async def test_in_doubt_what_the_vendor_has_not_is_placed() -> None:
    vendor = FakeVendor()
    assert (await placed(vendor, in_doubt=True)).state is State.PLACED
    assert [what for what, _ in vendor.asked] == ["find", "place"]


async def test_in_doubt_nothing_is_placed_while_the_vendor_cannot_say() -> None:
    vendor = FakeVendor(found=NotSent("away"))
    result = await placed(vendor, in_doubt=True)
    assert [what for what, _ in vendor.asked] == ["find"]
    assert (result.state, result.step, result.in_doubt) == (State.RECEIVED, Step.PLACE, True)


async def test_in_doubt_a_vendor_that_takes_a_key_is_simply_asked_again() -> None:
    vendor = FakeVendor(takes_key=True, can_find=False, placed=replace(PENDING, existed=True))
    result = await placed(vendor, in_doubt=True)
    assert [what for what, _ in vendor.asked] == ["place"]
    assert (result.state, result.call_verdict) == (State.PLACED, "found")


async def test_in_doubt_a_vendor_that_can_do_neither_needs_a_person() -> None:
    vendor = FakeVendor(can_find=False)
    result = await placed(vendor, in_doubt=True)
    assert vendor.asked == []
    assert (result.state, result.in_doubt) == (State.ON_HOLD, True)
    assert result.hold_reason is not None
    assert "look for RR-0123456789ABCDEF there, then release" in result.hold_reason


# Check.


@pytest.mark.parametrize(
    ("progress", "outcome"), [(Progress.FULFILLED, Outcome.FULFILLED), (Progress.REFUSED, Outcome.REFUSED)]
)
async def test_the_vendors_end_is_the_orders_outcome(progress: Progress, outcome: Outcome) -> None:
    vendor = FakeVendor(checked=VendorOrder("V1", progress, word="Done", detail="because"))
    result = await run(job(Step.CHECK, polls=7), parties(vendor=vendor))
    assert vendor.asked == [("check", "V1")]
    assert (result.state, result.step, result.outcome) == (State.SETTLED, Step.CLOSE, outcome)
    assert (result.party, result.message) == ("source:shop", "because")


async def test_not_yet_spends_no_attempt_and_writes_no_event() -> None:
    result = await run(job(Step.CHECK, polls=2, attempts=3), parties())
    assert (result.state, result.step, result.polls, result.attempts) == (State.PLACED, Step.CHECK, 3, 0)
    assert (result.call_verdict, result.reason) == ("pending", None)


@pytest.mark.parametrize("known", [True, False])
async def test_a_new_word_is_an_event_once(known: bool) -> None:
    vendor = FakeVendor(checked=replace(PENDING, word="Backordered", known=known))
    first = await run(job(Step.CHECK), parties(vendor=vendor))
    assert first.reason is not None
    assert "Backordered" in first.reason
    assert ("not documented" in first.reason) is not known
    again = await run(job(Step.CHECK, vendor_status=first.vendor_status), parties(vendor=vendor))
    assert again.reason is None


async def test_polling_backs_off_from_seconds_to_minutes() -> None:
    for polls in range(60):
        wait = (await run(job(Step.CHECK, polls=polls), parties())).wait_s
        middle = min(5.0 * 2 ** (polls + 1), MAX_CHECK_WAIT_S)
        assert middle * (1 - JITTER) <= wait <= middle * (1 + JITTER)


# Close.


@pytest.mark.parametrize("in_doubt", [True, False])
async def test_a_told_platform_closes_the_order(in_doubt: bool) -> None:
    platform = FakePlatform(Closed("told", status=200, answer="kept"))
    result = await run(job(Step.CLOSE, in_doubt=in_doubt), parties(platform))
    assert platform.asked == [(Ending(Outcome.FULFILLED), in_doubt)]
    assert (result.state, result.step, result.party) == (State.CLOSED, None, None)
    assert (result.reason, result.call_verdict, result.status, result.answer) == ("told", "ok", 200, "kept")


async def test_nobody_to_tell_closes_the_order_and_says_why() -> None:
    result = await run(job(Step.CLOSE), parties(FakePlatform(NothingToDo("it asks for nothing"))))
    assert (result.state, result.reason, result.call_verdict) == (State.CLOSED, "it asks for nothing", "nothing_to_do")


async def test_what_only_a_person_can_tell_is_a_hold() -> None:
    result = await run(job(Step.CLOSE), parties(FakePlatform(ByHand("tick it off in the shop"))))
    assert (result.state, result.call_verdict) == (State.ON_HOLD, "by_hand")
    assert result.hold_reason == "tick it off in the shop; then close this order"


# What a failed call leaves.

FAILURES: dict[type[CallFailed], tuple[bool, bool]] = {
    NotSent: (False, False),
    Unknown: (False, True),
    Rejected: (True, False),
    PartyRefusesUs: (True, False),
}
"""Verdict: whether it holds the order, and whether it leaves a doubt."""


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("verdict", FAILURES)
async def test_a_failure_holds_or_waits_by_its_verdict(step: Step, verdict: type[CallFailed]) -> None:
    failure = verdict("the party said no", status=418, answer="kept")
    vendor = FakeVendor(placed=failure, checked=failure)
    start = job(step)
    result = await run(start, parties(FakePlatform(failure), vendor))
    holds, doubt = FAILURES[verdict]
    assert (result.state is State.ON_HOLD) is holds
    assert (result.call_verdict, result.status, result.answer) == (verdict.verdict, 418, "kept")
    assert result.last_error == "the party said no"
    assert result.in_doubt is (doubt and step in (Step.PLACE, Step.CLOSE))
    if not holds:
        assert (result.state, result.step, result.party, result.attempts) == (start.state, step, start.party, 1)
    assert is_party_failure(result) is (verdict in (NotSent, Unknown))


def test_a_refusal_of_us_pauses_the_party_and_one_of_the_order_does_not() -> None:
    assert after_failure(job(Step.PLACE), PartyRefusesUs("the key expired")).pause == "the key expired"
    assert after_failure(job(Step.PLACE), Rejected("no such product")).pause is None


@pytest.mark.parametrize("verdict", FAILURES)
def test_a_doubt_stays_until_the_step_is_done(verdict: type[CallFailed]) -> None:
    assert after_failure(job(Step.PLACE, in_doubt=True), verdict("no")).in_doubt


def test_attempts_wait_longer_and_longer_and_then_a_person_decides() -> None:
    for attempts, delay in enumerate(RETRY_DELAYS_S):
        result = after_failure(job(Step.PLACE, attempts=attempts), Unknown("no answer"))
        assert delay * (1 - JITTER) <= result.wait_s <= delay * (1 + JITTER)
        assert (result.state, result.attempts) == (State.RECEIVED, attempts + 1)
    given_up = after_failure(job(Step.PLACE, attempts=len(RETRY_DELAYS_S)), Unknown("no answer"))
    assert (given_up.state, given_up.in_doubt) == (State.ON_HOLD, True)
    assert given_up.hold_reason is not None
    assert "gave up after 8 attempts: no answer" in given_up.hold_reason


def test_retry_after_only_lengthens_a_wait() -> None:
    assert 3600 <= after_failure(job(Step.PLACE), NotSent("later", retry_after_s=3600)).wait_s <= 3600 * (1 + JITTER)
    assert after_failure(job(Step.PLACE), NotSent("later", retry_after_s=0)).wait_s >= RETRY_DELAYS_S[0] * (1 - JITTER)


def test_waits_differ_so_that_orders_do_not_come_back_together() -> None:
    waits = {jittered(100.0) for _ in range(50)}
    assert len(waits) > 1
    assert all(80 <= wait <= 120 for wait in waits)


@pytest.mark.parametrize("step", Step)
async def test_a_party_that_left_the_configuration_is_a_hold_that_names_it(step: Step) -> None:
    result = await run(job(step), Parties({}, {}, "http://relay.test"))
    assert (result.state, result.call_verdict) == (State.ON_HOLD, "unreadable")
    assert result.hold_reason is not None
    assert "no longer configured; bring it back and release" in result.hold_reason
    assert ("shop" in result.hold_reason) or ("gcp" in result.hold_reason)


async def test_a_placement_that_the_vendor_cannot_express_is_a_hold() -> None:
    result = await placed(FakeVendor(placed=Unreadable("set vendors.gcp.carrier_id")))
    assert (result.state, result.hold_reason) == (State.ON_HOLD, "set vendors.gcp.carrier_id")


async def test_an_order_without_a_plan_is_a_hold() -> None:
    assert (await placed(FakeVendor(), plan=None)).state is State.ON_HOLD


@pytest.mark.parametrize("step", Step)
async def test_every_result_goes_a_way_of_the_table(step: Step) -> None:
    ends: list[Any] = [Closed("x"), NothingToDo("x"), ByHand("x")] if step is Step.CLOSE else [REWARD, WITHDRAWN]
    for answer in [*ends, *(verdict("x") for verdict in FAILURES)]:
        for progress in Progress:
            order: Any = answer if isinstance(answer, Exception) else VendorOrder("V1", progress)
            result = await run(job(step), parties(FakePlatform(answer), FakeVendor(placed=order, checked=order)))
            assert can_go(STATES[step], result.state)
