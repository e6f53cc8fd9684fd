"""What every vendor must do: the protocol `Vendor`, from a preview of an order to the word for how it ended.

Each test runs for each member of `reward_relay.vendors.VENDORS` with what `cases.py` has recorded of it. Two promises
carry the relay: one key makes one order however often it is sent, and nothing that is worth money (claim links, codes)
comes out of an adapter, neither in what it returns nor in what it raises.
"""

import json
import traceback
from collections.abc import Coroutine, Iterable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from contract.cases import NAME, VENDOR_CASES, Answer, Check, Order, VendorCase, Verdict
from contract.replay import TROUBLES, FarSide, Trouble, previewed, recorded, texts, without
from reward_relay.contracts import Delivery, OutboundRequest, Placement, Progress, Recipient, VendorOrder
from reward_relay.errors import CallFailed, PartyRefusesUs, Rejected, Unknown, Unreadable
from reward_relay.vendors import VENDORS

vendors = pytest.mark.parametrize("case", VENDOR_CASES, ids=lambda case: case.member)
troubles = pytest.mark.parametrize("trouble, verdict", TROUBLES.values(), ids=TROUBLES)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
OTHER_STATUSES = [200, 201, 202, 400, 401, 403, 404, 409, 410, 422, 429, 500, 504]


def each(kind: str, name: str) -> pytest.MarkDecorator:
    """The test once for each recorded file of a kind, given to it under `name`."""
    found = [(case, file) for case in VENDOR_CASES for file in getattr(case, kind)]
    return pytest.mark.parametrize(("case", name), found, ids=[f"{case.member}-{file.name}" for case, file in found])


orders, checks = each("orders", "order"), each("checks", "check")


def failing(case: VendorCase, trouble: Trouble) -> FarSide:
    """A vendor that lets us in and then answers everything with `trouble`."""
    return FarSide(case.logins, otherwise=trouble)


def calls(far: FarSide, case: VendorCase) -> list[Any]:
    """What went out, without what only gets us in."""
    doors = {(login.request.method, login.request.url) for login in case.logins}
    return [request for request in far.sent if (request.method, request.url) not in doors]


def as_recorded(order: VendorOrder) -> dict[str, Any]:
    """What was understood of an answer, as a recorded file has it."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(order), default=str))
    del found["answer"]
    return found


# --- every member is here --------------------------------------------------------------------------------


def test_every_registered_vendor_has_recorded_cases() -> None:
    assert sorted(case.member for case in VENDOR_CASES) == sorted(VENDORS)


@vendors
def test_the_recorded_files_of_a_vendor_are_complete(case: VendorCase) -> None:
    assert {order.delivery for order in case.orders} == set(Delivery)
    assert {check.reads_as["progress"] for check in case.checks} == set(Progress)
    assert any(not check.reads_as["known"] for check in case.checks), "record a status word that nobody documented"
    assert {409, 422} <= {verdict.answer.status for verdict in case.verdicts}, "say what 409 and 422 mean here"
    answers = "".join(file.answer.body for file in (*case.orders, *case.repeats, *case.checks))
    assert [claim for claim in case.claims if claim not in answers] == [], "record answers that hold claim data"


# --- what goes out ---------------------------------------------------------------------------------------


@orders
async def test_an_order_goes_out_exactly_as_recorded_and_is_read_so(case: VendorCase, order: Order) -> None:
    far = FarSide([*case.logins, order])
    placed = await case.adapter(far.outbound).place(order.placement, order.key)
    assert far.sent == [recorded(exchange.request) for exchange in (*case.logins, order)]
    assert as_recorded(placed) == order.reads_as


@orders
async def test_the_preview_is_what_placing_sends(case: VendorCase, order: Order) -> None:
    far = FarSide([*case.logins, order])
    adapter = case.adapter(far.outbound)
    preview = adapter.preview(order.placement, order.key)
    await adapter.place(order.placement, order.key)
    hidden = list(preview.secret_headers)
    assert [without(sent, hidden) for sent in calls(far, case)] == [without(previewed(preview), hidden)]
    assert {name.lower() for name in hidden} <= calls(far, case)[0].headers.keys()


@orders
def test_what_people_see_of_an_order_holds_no_secret(case: VendorCase, order: Order) -> None:
    preview = case.adapter().preview(order.placement, order.key)
    seen = f"{preview!r} {json.dumps(preview.shown())}"
    assert [secret for secret in case.secrets if secret in seen] == []
    assert {preview.shown()["headers"][name] for name in preview.secret_headers} == {"***"}


def words_of(request: OutboundRequest) -> Iterable[str]:
    """Every text of a request that a vendor may take as a key."""
    return (*texts(request.json), *request.headers.values(), *request.url.split("/"))


@vendors
@UNHURRIED
@given(key=st.from_regex(r"[A-Z0-9-]{1,20}", fullmatch=True))
def test_the_key_is_sent_verbatim(case: VendorCase, key: str) -> None:
    adapter = case.adapter()
    for order in case.orders:
        assert key in words_of(adapter.preview(order.placement, key))


def lacking(order: Order, field: str) -> Placement:
    """The order for a recipient without one thing; `address.city` is a field of the address."""
    recipient = order.recipient.model_dump()
    holder, _, last = field.rpartition(".")
    (recipient[holder] if holder else recipient)[last] = None
    return order.model_copy(update={"recipient": Recipient.model_validate(recipient)}).placement


@orders
async def test_an_order_without_what_it_needs_is_not_sent_and_names_what_is_missing(
    case: VendorCase, order: Order
) -> None:
    assert order.needs or order.delivery is Delivery.LINKS
    for field, called in order.needs.items():
        far = FarSide()
        adapter = case.adapter(far.outbound)
        with pytest.raises(Unreadable, match=called):
            adapter.preview(lacking(order, field), order.key)
        with pytest.raises(Unreadable, match=called):
            await adapter.place(lacking(order, field), order.key)
        assert far.requests == []


# --- one key, one order ----------------------------------------------------------------------------------


@vendors
def test_a_repeat_can_be_told_from_a_second_order(case: VendorCase) -> None:
    adapter = case.adapter()
    assert adapter.takes_key or adapter.can_find or case.never_repeats
    assert bool(case.repeats) == adapter.takes_key, "record what a known key is answered with"


@each("repeats", "repeat")
async def test_the_same_key_twice_is_the_same_order(case: VendorCase, repeat: Any) -> None:
    order = next(each for each in case.orders if repeat.name == f"repeat_{each.name}")
    far = FarSide([*case.logins, order, repeat])
    adapter = case.adapter(far.outbound)
    first = await adapter.place(order.placement, order.key)
    second = await adapter.place(order.placement, order.key)
    assert (second.vendor_order_id, first.existed, second.existed) == (first.vendor_order_id, False, True)
    sent = calls(far, case)
    assert len(sent) == 2 and sent[0] == sent[1]


@vendors
async def test_a_vendor_finds_by_key_as_recorded_or_says_without_a_call_that_it_cannot(case: VendorCase) -> None:
    far = FarSide([*case.logins, *case.finds])
    adapter = case.adapter(far.outbound)
    assert bool(case.finds) == adapter.can_find, "record what a known and an unknown key are answered with"
    if not adapter.can_find:
        failure = await failure_of(adapter.find("TRACK-1"))
        assert "TRACK-1" in failure.detail and far.requests == []
    for find in case.finds:
        found = await adapter.find(find.key)
        assert calls(far, case)[-1] == recorded(find.request)
        assert (found and as_recorded(found)) == find.reads_as


# --- verdicts --------------------------------------------------------------------------------------------


async def failure_of(call: Coroutine[Any, Any, Any]) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        await call
    return failed.value


def assert_verdict(failure: CallFailed, trouble: Trouble, verdict: type[CallFailed]) -> None:
    status = None if isinstance(trouble, Exception) else trouble.status
    assert (type(failure), failure.status) == (verdict, status)
    assert failure.retry_after_s == (7 if status == 429 else None)
    assert f"vendor {NAME}" in failure.detail


@troubles
@orders
async def test_each_trouble_of_an_order_has_its_verdict(
    case: VendorCase, order: Order, trouble: Trouble, verdict: type[CallFailed]
) -> None:
    far = failing(case, trouble)
    failure = await failure_of(case.adapter(far.outbound).place(order.placement, order.key))
    assert_verdict(failure, trouble, verdict)
    if verdict is Unknown:
        assert len(calls(far, case)) == 1, "it may have worked: only the next attempt may ask again"


@troubles
@checks
async def test_each_trouble_of_a_check_has_its_verdict(
    case: VendorCase, check: Check, trouble: Trouble, verdict: type[CallFailed]
) -> None:
    adapter = case.adapter(failing(case, trouble).outbound)
    assert_verdict(await failure_of(adapter.check(check.vendor_order_id)), trouble, verdict)


@each("verdicts", "recorded_verdict")
async def test_what_a_vendor_means_in_its_own_way_has_the_recorded_verdict(
    case: VendorCase, recorded_verdict: Verdict
) -> None:
    order, answer = case.orders[0], recorded_verdict.answer
    failure = await failure_of(case.adapter(failing(case, answer).outbound).place(order.placement, order.key))
    assert (failure.verdict, failure.status) == (recorded_verdict.verdict, answer.status)


@orders
@pytest.mark.parametrize("garbage", ["", "<html>OK</html>", "[]", "null", '"gcp-1"', "{}", '{"Status":', "\x00"])
async def test_a_success_that_nobody_understands_leaves_the_order_in_doubt(
    case: VendorCase, order: Order, garbage: str
) -> None:
    adapter = case.adapter(failing(case, Answer(status=200, body=garbage)).outbound)
    assert type(await failure_of(adapter.place(order.placement, order.key))) is Unknown


@orders
async def test_a_login_that_ran_out_once_does_not_cost_the_order(case: VendorCase, order: Order) -> None:
    refused = order.model_copy(update={"answer": Answer(status=401)})
    far = FarSide([*case.logins, refused, order])
    try:
        placed = await case.adapter(far.outbound).place(order.placement, order.key)
    except PartyRefusesUs:
        assert not case.logins, "a vendor with a login renews it once"
    else:
        assert as_recorded(placed) == order.reads_as
    assert {(sent.url, sent.body) for sent in calls(far, case)} == {(order.request.url, order.request.body)}


@pytest.mark.parametrize("case", [case for case in VENDOR_CASES if case.logins], ids=lambda case: case.member)
@troubles
async def test_an_order_that_no_login_was_to_be_had_for_was_not_sent(
    case: VendorCase, trouble: Trouble, verdict: type[CallFailed]
) -> None:
    far, order = FarSide(otherwise=trouble), case.orders[0]
    failure = await failure_of(case.adapter(far.outbound).place(order.placement, order.key))
    assert failure.verdict == ("refuses_us" if issubclass(verdict, Rejected) else "not_sent")
    assert calls(far, case) == []


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["Id", "id", "Status"]), inner),
    max_leaves=8,
)
ANY_BODY = st.binary().map(lambda body: body.decode("latin-1")) | ANY_VALUE.map(json.dumps)


@vendors
@UNHURRIED
@given(status=st.sampled_from(OTHER_STATUSES), body=ANY_BODY)
async def test_whatever_a_vendor_answers_there_is_an_order_or_a_verdict(
    case: VendorCase, status: int, body: str
) -> None:
    for outcome in await outcomes(case, Answer(status=status, body=body)):
        assert outcome.detail if isinstance(outcome, CallFailed) else outcome.vendor_order_id


# --- how an order is doing -------------------------------------------------------------------------------


@checks
async def test_a_check_goes_out_exactly_as_recorded_and_is_read_so(case: VendorCase, check: Check) -> None:
    far = FarSide([*case.logins, check])
    found = await case.adapter(far.outbound).check(check.vendor_order_id)
    assert calls(far, case) == [recorded(check.request)]
    assert as_recorded(found) == check.reads_as


@checks
def test_only_a_documented_word_ends_an_order(case: VendorCase, check: Check) -> None:
    assert check.reads_as["word"]
    assert check.reads_as["known"] or check.reads_as["progress"] == Progress.PENDING


# --- nothing of value comes out --------------------------------------------------------------------------


async def outcomes(case: VendorCase, answer: Answer) -> list[VendorOrder | CallFailed]:
    """What placing and checking end with where the vendor answers so."""
    ended: list[VendorOrder | CallFailed] = []
    adapter, order = case.adapter(failing(case, answer).outbound), case.orders[0]
    for call in (adapter.place(order.placement, order.key), adapter.check("order-1")):
        try:
            ended.append(await call)
        except CallFailed as failure:
            ended.append(failure)
    return ended


def everything_in(outcome: VendorOrder | CallFailed) -> str:
    """All that a log, a traceback or the record of a call could take from an outcome."""
    if isinstance(outcome, CallFailed):
        return f"{outcome!r} {vars(outcome)} {''.join(traceback.format_exception(outcome))}"
    return f"{outcome!r} {outcome} {asdict(outcome)}"


@vendors
@pytest.mark.parametrize("status", OTHER_STATUSES)
async def test_no_claim_data_and_no_secret_comes_out_of_any_answer(case: VendorCase, status: int) -> None:
    for file in (*case.orders, *case.repeats, *case.checks):
        answer = file.answer.model_copy(update={"status": status})
        said = " ".join(everything_in(outcome) for outcome in await outcomes(case, answer))
        assert [text for text in (*case.claims, *case.secrets) if text in said] == []


# --- settings --------------------------------------------------------------------------------------------


@vendors
def test_every_setting_of_a_vendor_is_described(case: VendorCase) -> None:
    fields = type(case.configured()).model_fields
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []


@vendors
async def test_a_vendor_and_its_settings_show_no_secret(case: VendorCase) -> None:
    configured, order = case.configured(), case.orders[0]
    adapter = case.adapter(FarSide([*case.logins, order]).outbound)
    await adapter.place(order.placement, order.key)
    secrets = {value.get_secret_value() for _, value in configured if isinstance(value, SecretStr)}
    assert secrets and secrets <= set(case.secrets), "list in the case what nobody may see"
    shown = f"{configured!r} {configured} {configured.model_dump_json()} {adapter!r} {adapter} {vars(adapter)}"
    assert [secret for secret in case.secrets if secret in shown] == []
