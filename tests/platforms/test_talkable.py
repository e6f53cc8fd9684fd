"""Talkable: what each official sample asks for, and the note that closes a reward."""

import json
from collections.abc import Callable
from decimal import Decimal
from importlib.resources import files
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from reward_relay.contracts import (
    Address,
    ByHand,
    Closed,
    Ending,
    Informational,
    NothingToDo,
    OutboundRequest,
    RewardOrder,
    Withdrawn,
)
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown, Unreadable
from reward_relay.outbound import Outbound
from reward_relay.platforms.talkable.adapter import Adapter, Settings
from reward_relay.states import Outcome

KEY = "i9uil7nQgDjucCiTJu"
FORM = "application/x-www-form-urlencoded"
Answer = Callable[[httpx.Request], httpx.Response]


def sample(reason: str) -> dict[str, Any]:
    text = files("reward_relay.sandbox").joinpath(f"samples/talkable_{reason}.json").read_text()
    payload: dict[str, Any] = json.loads(text)
    return payload


def form(payload: bytes, **fields: str) -> bytes:
    """A body as the documented cURL call sends it: nothing percent-encoded but what cURL's -d needs."""
    envelope = {"key": KEY, "site": "shop", "type": "reward_web_hook", "extras": "{}", **fields}
    return "&".join(f"{name}={value}" for name, value in envelope.items()).encode() + b"&payload=" + payload


def documented_form(reason: str) -> bytes:
    return form(json.dumps(sample(reason), separators=(",", ":")).encode())


def adapter(answer: Answer | None = None, **overrides: Any) -> Adapter:
    transport = httpx.MockTransport(answer or (lambda request: httpx.Response(200, json={"ok": True})))
    given = Settings(**{"platform": "talkable", "secrets": [SecretStr(KEY)], **overrides})
    return Adapter("referrals", given, Outbound(transport=lambda: transport))


def ordered(payload: Any) -> RewardOrder:
    parsed = adapter().parse(json.dumps(payload).encode(), "application/json")
    assert isinstance(parsed, RewardOrder)
    return parsed


def rebate(**changes: Any) -> dict[str, Any]:
    payload = sample("referrer")
    payload["reward"] |= changes
    return payload


# --- what a payload asks for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reason, reward_id", [("signup", "8261257"), ("shared", "8260964"), ("click", "8261304")])
def test_a_discount_coupon_is_recorded_only(reason: str, reward_id: str) -> None:
    for body in (documented_form(reason), json.dumps(sample(reason)).encode()):
        parsed = adapter().parse(body, FORM)
        assert isinstance(parsed, Informational)
        assert (parsed.external_id, "discount coupon" in parsed.reason) == (reward_id, True)


@pytest.mark.parametrize(
    "reason, reward_id, name, email, phone",
    [
        ("referrer", "8261305", "Bob Smith", "referrer@example.com", "+12025551111"),
        ("referred", "8261300", "Matt Smith", "referred@example.com", None),
    ],
)
def test_a_rebate_is_ordered_for_the_person_who_earned_it(
    reason: str, reward_id: str, name: str, email: str, phone: str | None
) -> None:
    order = adapter().parse(documented_form(reason), FORM)
    assert isinstance(order, RewardOrder)
    assert (order.source, order.external_id, order.occurred_at) == ("referrals", reward_id, None)
    assert order.recipient.model_dump(exclude_none=True) == {"name": name, "email": email} | (
        {"phone": phone} if phone else {}
    )
    [item] = order.items
    assert (item.sku, item.name, item.quantity) == (reason, "$10.00 back", 1)
    assert (item.value, item.currency) == (Decimal("10.0"), "USD")
    assert order.reference == {"email": email, "reason": reason}
    assert order.attributes["reward"]["incentive_type"] == "rebate"


@pytest.mark.parametrize("payload", [sample("referred"), json.dumps(sample("referred"))])
def test_form_json_and_bare_payload_say_the_same(payload: Any) -> None:
    envelope = {"key": "***", "site": "shop", "type": "reward_web_hook", "extras": {}, "payload": payload}
    encoded = urlencode({"key": "***", "type": "reward_web_hook", "payload": json.dumps(sample("referred"))}).encode()
    bare = ordered(sample("referred"))
    assert ordered(envelope) == bare
    assert adapter().parse(encoded, FORM) == bare
    assert adapter().parse(b"\xef\xbb\xbf" + json.dumps(envelope).encode(), "") == bare


def test_a_non_monetary_reward_has_no_value_even_where_an_amount_is_given() -> None:
    order = ordered(rebate(incentive_type="Other", incentive_description=None, incentive_custom_description="A mug"))
    assert [item.model_dump(exclude_none=True) for item in order.items] == [
        {"sku": "referrer", "name": "A mug", "quantity": 1}
    ]


def test_amounts_stay_exact() -> None:
    body = json.dumps(rebate(amount="AMOUNT")).replace('"AMOUNT"', "1234567890.1234").encode()
    order = adapter().parse(body, "")
    assert isinstance(order, RewardOrder)
    assert order.items[0].value == Decimal("1234567890.1234")


@pytest.mark.parametrize(
    "reason, email",
    [
        ("signup", "advocate@example.com"),
        ("shared", "advocate@example.com"),
        ("referrer", "advocate@example.com"),
        ("click", "friend@example.com"),
        ("referred", "friend@example.com"),
        ("milestone", None),
    ],
)
def test_without_a_person_the_reason_says_whose_address_counts(reason: str, email: str | None) -> None:
    payload = rebate(reason=reason) | {
        "person": None,
        "advocate_origin": {"email": "advocate@example.com"},
        "friend_origin": {"email": "friend@example.com"},
    }
    assert ordered(payload).recipient.email == email


def test_an_advocate_without_an_origin_is_found_in_the_offer() -> None:
    payload = rebate() | {"person": None, "advocate_origin": None}
    assert ordered(payload).recipient.email == "referrer@example.com"


def test_a_friend_without_an_address_gets_none_and_never_the_advocates() -> None:
    payload = sample("click")
    payload["reward"]["incentive_type"] = "rebate"
    order = ordered(payload)
    assert (order.recipient.email, order.reference) == (None, {"reason": "click"})


@pytest.mark.parametrize(
    "properties",
    [
        {"address1": "1 Main St", "Address_2": "Flat 2", "city": "Oslo", "zip": 150, "country": "NO", "phone": "+47"},
        {"shippingAddress": {"line1": "1 Main St", "line2": "Flat 2", "town": "Oslo", "postcode": "150"}}
        | {
            "shipping_address": {
                "street": "1 Main St",
                "line2": "Flat 2",
                "city": "Oslo",
                "zip": "150",
                "country": "NO",
            }
        },
    ],
)
def test_a_postal_address_is_taken_from_custom_properties(properties: dict[str, Any]) -> None:
    payload = rebate()
    payload["person"] |= {"custom_properties": properties, "phone_number": None}
    recipient = ordered(payload).recipient
    assert recipient.address == Address(line1="1 Main St", line2="Flat 2", city="Oslo", postal_code="150", country="NO")
    assert recipient.phone == properties.get("phone")


def test_a_country_alone_is_no_address() -> None:
    payload = rebate()
    payload["person"]["custom_properties"] = {"country": "US"}
    assert ordered(payload).recipient.address is None


def test_a_voided_reward_is_withdrawn_with_the_order_it_was() -> None:
    parsed = adapter().parse(
        json.dumps(rebate(status="Voided") | {"person": None, "advocate_origin": None}).encode(), ""
    )
    assert isinstance(parsed, Withdrawn) and parsed.order is not None
    assert (parsed.external_id, parsed.order.external_id) == ("8261305", "8261305")


def test_a_voided_reward_is_withdrawn_even_where_no_order_can_be_made_of_it() -> None:
    parsed = adapter().parse(json.dumps(rebate(status="voided", amount="a lot")).encode(), "")
    assert parsed == Withdrawn("8261305", "Talkable voided reward 8261305", None)


def test_an_unpaid_reward_waits_for_paid() -> None:
    parsed = adapter().parse(json.dumps(rebate(status="Unpaid")).encode(), "")
    assert parsed == Informational("reward 8261305 is Unpaid: recorded; waits for Paid", "8261305")


@pytest.mark.parametrize("kind", ["post_share_web_hook", "unsubscribe"])
def test_another_classic_webhook_is_recorded_by_its_type(kind: str) -> None:
    for body in (form(b"not JSON", type=kind), json.dumps({"key": "***", "type": kind, "payload": 5}).encode()):
        parsed = adapter().parse(body, "")
        assert isinstance(parsed, Informational) and kind in parsed.reason


DEFAULT_BODY = {"description": "$10", "amount": 10, "coupon_code": None, "reason": "referrer", "site_id": "shop"}


def test_the_default_body_of_a_custom_app_is_unreadable_and_says_what_to_add() -> None:
    with pytest.raises(Unreadable, match=r'names no reward.* add to the body template .*"reward_id".*"email"'):
        adapter().parse(json.dumps(DEFAULT_BODY).encode(), "application/json")
    with pytest.raises(Unreadable, match=r'without anybody who gets it.*"email"'):
        adapter().parse(json.dumps(DEFAULT_BODY | {"reward_id": 7}).encode(), "application/json")


def test_a_custom_app_body_with_reward_and_recipient_is_ordered() -> None:
    order = ordered(DEFAULT_BODY | {"reward_id": 7, "email": "ann@example.com", "first_name": "Ann", "currency": "EUR"})
    assert (order.external_id, order.recipient.email, order.recipient.name) == ("7", "ann@example.com", "Ann")
    assert (order.items[0].name, order.items[0].value, order.items[0].currency) == ("$10", Decimal(10), "EUR")


def test_a_custom_app_body_with_a_coupon_code_is_a_coupon() -> None:
    body = json.dumps(DEFAULT_BODY | {"reward_id": 7, "email": "ann@example.com", "coupon_code": "TEN"}).encode()
    assert isinstance(adapter().parse(body, ""), Informational)


@pytest.mark.parametrize(
    "body, complaint",
    [
        (b"key=***&type=reward_web_hook", "no `payload`"),
        (b'{"key":"***","payload":[1]}', "no `payload`"),
        (b"key=***&payload={", "not JSON"),
        (b'{"reward": {"incentive_type": "rebate"}}', "payload.reward.id is missing"),
        (json.dumps(rebate(id="9" * 201)).encode(), "longer than 200"),
        (json.dumps(rebate(id=True)).encode(), "payload.reward.id is missing"),
        (json.dumps(rebate(incentive_type="loyalty_points")).encode(), "incentive_type 'loyalty_points'"),
        (b'{"reward_id": 7, "email": "ann@example.com"}', "does not say its incentive_type"),
        (json.dumps(rebate(status="Pending")).encode(), "status 'pending'"),
        (json.dumps(rebate(amount="$10")).encode(), "reward 8261305: value"),
        (json.dumps(rebate(amount=-1)).encode(), "reward 8261305: value"),
    ],
)
def test_what_cannot_be_understood_is_named(body: bytes, complaint: str) -> None:
    with pytest.raises(Unreadable, match=complaint):
        adapter().parse(body, "")


def spoiled(value: Any, changes: dict[str, Any]) -> Any:
    """A payload with the fields of some names changed, wherever they are."""
    if isinstance(value, list):
        return [spoiled(each, changes) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: changes[name] if name in changes else spoiled(each, changes) for name, each in value.items()}


ODD = st.sampled_from(["\x00", "\ud800", "9" * 300, "rebate", "other", "loyalty", "Paid", "Voided", "click", "1.5"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ODD
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
FLAT = DEFAULT_BODY | {"reward_id": 7, "email": "ann@example.com"}
NAMES = [*FLAT, *sample("referrer"), *sample("referrer")["reward"], *sample("referrer")["person"]]
CHANGES = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3)
PAYLOADS = st.builds(spoiled, st.sampled_from([FLAT, *map(sample, ("referrer", "referred", "click"))]), CHANGES)
BODIES = (PAYLOADS | ANYTHING).map(lambda value: json.dumps(value).encode())
READER = adapter()


@settings(deadline=None, max_examples=200)
@given(st.binary() | BODIES | BODIES.map(lambda body: form(quote_plus(body).encode())) | BODIES.map(form))
def test_parse_raises_nothing_but_unreadable(body: bytes) -> None:
    try:
        parsed = READER.parse(body, "")
    except Unreadable as unreadable:
        assert str(unreadable)
        return
    order = parsed if isinstance(parsed, RewardOrder) else getattr(parsed, "order", None)
    assert order is None or order.model_dump_json()
    assert f"{parsed.external_id} {getattr(parsed, 'reason', '')}".encode()


# --- closing -------------------------------------------------------------------------------------------------

CLOSING: dict[str, Any] = {"close": "custom_property", "api_token": "a-token", "site_slug": "shop"}
FULFILLED = Ending(Outcome.FULFILLED)


async def test_by_default_talkable_is_told_nothing() -> None:
    assert isinstance(await adapter().close(ordered(rebate()), FULFILLED, again=False), NothingToDo)


@pytest.mark.parametrize("outcome", [Outcome.FULFILLED, Outcome.REFUSED])
async def test_the_note_is_written_exactly_as_previewed(outcome: Outcome) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True})

    payload = rebate()
    payload["person"]["email"] = "a+b/c@example.com"
    talkable = adapter(answer, **CLOSING, api_url="https://talkable.example/api/v2/", property_name="gift")
    order, ending = ordered(payload), Ending(outcome)
    first, second = [await talkable.close(order, ending, again=again) for again in (False, True)]
    assert isinstance(first, Closed) and first == second and first.status == 200
    [request, repeat] = seen
    assert (request.method, str(request.url)) == (
        "PUT",
        "https://talkable.example/api/v2/people/a%2Bb%2Fc%40example.com",
    )
    assert request.headers["authorization"] == "Bearer a-token"
    note = {"site_slug": "shop", "data": {"custom_properties": {"gift": f"reward 8261305: {outcome.value}"}}}
    assert json.loads(request.content) == note and repeat.content == request.content
    preview = talkable.preview_close(order, ending)
    assert isinstance(preview, OutboundRequest)
    assert preview.shown() == {
        "method": "PUT",
        "url": str(request.url),
        "headers": {"Authorization": "***"},
        "json": note,
    }


async def test_a_cancelled_reward_closes_without_a_call() -> None:
    assert isinstance(adapter(**CLOSING).preview_close(ordered(rebate()), Ending(Outcome.CANCELLED)), NothingToDo)


@pytest.mark.parametrize("missing", ["api_token", "site_slug"])
async def test_without_credentials_a_person_is_asked_by_the_name_of_the_key(missing: str) -> None:
    closed = await adapter(**{**CLOSING, missing: None}).close(ordered(rebate()), FULFILLED, again=False)
    assert isinstance(closed, ByHand) and closed.instruction.startswith(f"set sources.referrals.{missing}, or note")


async def test_without_an_address_a_person_is_asked() -> None:
    order = ordered(rebate(reason="milestone") | {"person": None})
    assert isinstance(await adapter(**CLOSING).close(order, FULFILLED, again=False), ByHand)


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


@pytest.mark.parametrize(
    "answer, verdict, says",
    [
        (lambda _: httpx.Response(401), PartyRefusesUs, "check sources.referrals.api_token"),
        (lambda _: httpx.Response(422, json={"ok": False, "error_message": "no"}), Rejected, "answered 422"),
        (lambda _: httpx.Response(200, json={"ok": False, "error_message": "no"}), Rejected, "refused: no"),
        (lambda _: httpx.Response(429, headers={"retry-after": "7"}), NotSent, "slow down"),
        (lambda _: httpx.Response(503), Unknown, "answered 503"),
        (refuse, NotSent, "could not be reached"),
    ],
)
async def test_each_answer_has_its_verdict(answer: Answer, verdict: type[CallFailed], says: str) -> None:
    with pytest.raises(CallFailed, match=says) as failed:
        await adapter(answer, **CLOSING).close(ordered(rebate()), FULFILLED, again=False)
    assert type(failed.value) is verdict
    assert failed.value.retry_after_s == (7 if failed.value.status == 429 else None)
    assert "a-token" not in str(failed.value)


async def test_there_is_nothing_to_enrich_or_poll() -> None:
    order = ordered(rebate())
    assert (adapter().enriches, await adapter().enrich(order), await adapter().poll()) == ("never", order, [])


@pytest.mark.parametrize(
    "wrong", [{"api_url": "talkable.com"}, {"api_token": "two\nlines"}, {"close": "all"}, {"typo": 1}]
)
def test_a_mistake_in_the_settings_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        adapter(**wrong)
