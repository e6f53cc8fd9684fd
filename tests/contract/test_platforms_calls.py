"""What every platform must do when it is called: the protocol `Platform`, second half (the first: test_platforms.py).

Each test runs for each member of `reward_relay.platforms.PLATFORMS`, in front of a far side that answers as recorded
or fails in a way that every far side can. What is compared is what left the HTTP client, not what was meant to.
"""

import json
import traceback
from typing import Any

import pytest

from contract.cases import NAME, PLATFORM_CASES, Closing, PlatformCase, Read
from contract.replay import TROUBLES, FarSide, Trouble, previewed, recorded
from reward_relay.contracts import (
    ByHand,
    Closed,
    Ending,
    NothingToDo,
    OutboundRequest,
    Recipient,
    RewardOrder,
)
from reward_relay.errors import CallFailed
from reward_relay.states import Outcome

platforms = pytest.mark.parametrize("case", PLATFORM_CASES, ids=lambda case: case.member)
troubles = pytest.mark.parametrize("trouble, verdict", TROUBLES.values(), ids=TROUBLES)

CLOSINGS = [(case, closing) for case in PLATFORM_CASES for closing in case.closings]
closings = pytest.mark.parametrize(
    ("case", "closing"), CLOSINGS, ids=[f"{case.member}-{closing.outcome.value}" for case, closing in CLOSINGS]
)
READS = [(case, read) for case in PLATFORM_CASES for read in case.reads]
reads = pytest.mark.parametrize(("case", "read"), READS, ids=[f"{case.member}-{read.name}" for case, read in READS])


def order_of(case: PlatformCase, event: str) -> RewardOrder:
    """The reward of a recorded webhook, as it comes back from the database."""
    return RewardOrder.model_validate(case.event(event).parses_to["order"])


def any_order(case: PlatformCase) -> RewardOrder:
    """Some recorded reward."""
    return order_of(case, case.closings[0].event)


# --- the closing call ------------------------------------------------------------------------------------


@closings
async def test_the_closing_call_goes_out_exactly_as_recorded(case: PlatformCase, closing: Closing) -> None:
    far = FarSide([closing])
    closed = await case.adapter(far.outbound).close(order_of(case, closing.event), closing.ending, again=False)
    assert isinstance(closed, Closed) and closed.detail
    assert far.sent == [recorded(closing.request)]


@closings
async def test_the_preview_is_what_the_closing_call_sends(case: PlatformCase, closing: Closing) -> None:
    far, order = FarSide([closing]), order_of(case, closing.event)
    adapter = case.adapter(far.outbound)
    preview = adapter.preview_close(order, closing.ending)
    await adapter.close(order, closing.ending, again=False)
    assert far.sent == [previewed(preview)]


@closings
def test_what_people_see_of_the_closing_call_holds_no_secret(case: PlatformCase, closing: Closing) -> None:
    preview = case.adapter().preview_close(order_of(case, closing.event), closing.ending)
    assert isinstance(preview, OutboundRequest) and preview.secret_headers
    seen = f"{preview!r} {json.dumps(preview.shown())}"
    assert [secret for secret in case.secrets if secret in seen] == []
    assert {preview.shown()["headers"][name] for name in preview.secret_headers} == {"***"}


@closings
async def test_a_repeat_after_success_is_safe(case: PlatformCase, closing: Closing) -> None:
    order = order_of(case, closing.event)
    first, second = FarSide([closing]), FarSide(closing.repeat)
    await case.adapter(first.outbound).close(order, closing.ending, again=False)
    closed = await case.adapter(second.outbound).close(order, closing.ending, again=True)
    assert isinstance(closed, Closed) and second.requests
    assert second.writes() in ([], first.writes())


@closings
async def test_a_repeat_of_what_never_arrived_sends_the_same_request(case: PlatformCase, closing: Closing) -> None:
    far = FarSide([closing, *case.reads])
    closed = await case.adapter(far.outbound).close(order_of(case, closing.event), closing.ending, again=True)
    assert isinstance(closed, Closed)
    assert far.writes() == [recorded(closing.request)]


async def failure_of(call: Any) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        await call
    return failed.value


def assert_verdict(case: PlatformCase, failure: CallFailed, trouble: Trouble, verdict: type[CallFailed]) -> None:
    status = None if isinstance(trouble, Exception) else trouble.status
    assert (type(failure), failure.status) == (verdict, status)
    assert failure.retry_after_s == (7 if status == 429 else None)
    assert f"source {NAME}" in failure.detail
    said = "".join(traceback.format_exception(failure)) + repr(vars(failure))
    assert [secret for secret in case.secrets if secret in said] == []


@troubles
@closings
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
async def test_each_trouble_of_a_closing_call_has_its_verdict(
    case: PlatformCase, closing: Closing, again: bool, trouble: Trouble, verdict: type[CallFailed]
) -> None:
    adapter = case.adapter(FarSide(otherwise=trouble).outbound)
    failure = await failure_of(adapter.close(order_of(case, closing.event), closing.ending, again=again))
    assert_verdict(case, failure, trouble, verdict)


@closings
async def test_a_closing_call_that_may_have_arrived_is_not_repeated_at_once(
    case: PlatformCase, closing: Closing
) -> None:
    trouble, _ = TROUBLES["dropped after sending"]
    far = FarSide(otherwise=trouble)
    await failure_of(case.adapter(far.outbound).close(order_of(case, closing.event), closing.ending, again=False))
    assert len(far.requests) == 1


# --- nobody to call --------------------------------------------------------------------------------------


@platforms
@pytest.mark.parametrize("again", [False, True])
async def test_of_a_cancelled_reward_nobody_is_told(case: PlatformCase, again: bool) -> None:
    far, ending = FarSide(), Ending(Outcome.CANCELLED, "taken back")
    adapter = case.adapter(far.outbound)
    preview = adapter.preview_close(any_order(case), ending)
    assert isinstance(preview, NothingToDo) and preview.detail
    assert await adapter.close(any_order(case), ending, again=again) == preview
    assert far.requests == []


CREDENTIALS = [(case, key) for case in PLATFORM_CASES for key in case.credentials]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.FULFILLED, Outcome.REFUSED])
@pytest.mark.parametrize(("case", "key"), CREDENTIALS, ids=[f"{case.member}-{key}" for case, key in CREDENTIALS])
async def test_without_a_credential_a_person_is_told_which_key_is_missing(
    case: PlatformCase, key: str, outcome: Outcome, again: bool
) -> None:
    far = FarSide()
    adapter = case.adapter(far.outbound, **{key: None})
    preview = adapter.preview_close(any_order(case), Ending(outcome))
    assert isinstance(preview, ByHand | NothingToDo)
    assert f"sources.{NAME}.{key}" in (preview.instruction if isinstance(preview, ByHand) else preview.detail)
    assert await adapter.close(any_order(case), Ending(outcome), again=again) == preview
    assert far.requests == []


# --- looking up ------------------------------------------------------------------------------------------


@reads
async def test_a_look_up_goes_out_exactly_as_recorded(case: PlatformCase, read: Read) -> None:
    far = FarSide([read])
    await case.adapter(far.outbound).enrich(order_of(case, read.event))
    assert far.sent == [recorded(read.request)]


@reads
async def test_enriching_fills_the_recipient_as_recorded(case: PlatformCase, read: Read) -> None:
    bare = order_of(case, read.event).model_copy(update={"recipient": Recipient()})
    enriched = await case.adapter(FarSide([read]).outbound).enrich(bare)
    assert isinstance(enriched, RewardOrder)
    assert enriched.recipient.model_dump(mode="json") == read.enriches_to


@platforms
@pytest.mark.parametrize("known", [None, Recipient(), Recipient(name="Ann", email="ann@example.com", phone="1")])
async def test_enriching_only_adds_to_the_recipient(case: PlatformCase, known: Recipient | None) -> None:
    order = any_order(case)
    order = order if known is None else order.model_copy(update={"recipient": known})
    enriched = await case.adapter(FarSide(case.reads).outbound).enrich(order)
    assert isinstance(enriched, RewardOrder)
    assert enriched.model_copy(update={"recipient": order.recipient}) == order
    said = {name: value for name, value in order.recipient if value is not None}
    assert {name: getattr(enriched.recipient, name) for name in said} == said


@platforms
async def test_a_platform_that_enriches_has_its_look_up_recorded_and_another_asks_nobody(case: PlatformCase) -> None:
    far = FarSide(case.reads)
    adapter = case.adapter(far.outbound)
    await adapter.enrich(any_order(case))
    assert (adapter.enriches != "never") == any(read.enriches_to for read in case.reads) == bool(far.requests)


@platforms
async def test_polling_finds_the_rewards_of_the_webhooks_under_the_same_ids(case: PlatformCase) -> None:
    adapter = case.adapter(FarSide(case.reads).outbound)
    found = [adapter.parse(body, "application/json") for body in await adapter.poll()]
    assert [order.external_id for order in found] == [id_ for read in case.reads for id_ in read.polls]
    for read in (each for each in case.reads if each.polls):
        order = order_of(case, read.event)
        assert order.model_dump() in [each.model_dump() for each in found if isinstance(each, RewardOrder)]


@troubles
@reads
async def test_each_trouble_of_a_look_up_has_its_verdict(
    case: PlatformCase, read: Read, trouble: Trouble, verdict: type[CallFailed]
) -> None:
    adapter = case.adapter(FarSide(otherwise=trouble).outbound)
    assert_verdict(case, await failure_of(adapter.enrich(order_of(case, read.event))), trouble, verdict)
    if read.polls:
        assert_verdict(case, await failure_of(adapter.poll()), trouble, verdict)


@reads
async def test_without_credentials_nothing_is_looked_up(case: PlatformCase, read: Read) -> None:
    far, order = FarSide(), order_of(case, read.event)
    for missing in case.credentials:
        adapter = case.adapter(far.outbound, **{missing: None})
        assert (await adapter.enrich(order), await adapter.poll()) == (order, [])
    assert far.requests == []
