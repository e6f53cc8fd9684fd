"""Voucherify: whose signature counts, and what each event asks for."""

import json
from datetime import UTC, datetime, timedelta, timezone
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import SecretStr

from reward_relay.contracts import (
    Address,
    InboundRequest,
    Informational,
    Recipient,
    RewardOrder,
    Withdrawn,
)
from reward_relay.errors import Unauthenticated, Unreadable
from reward_relay.inbound import signature
from reward_relay.outbound import Outbound
from reward_relay.platforms.voucherify.adapter import Adapter, Settings

PLAIN = "a17d2ac229d1ebbb5f10e839c7985c4818e5986eab297f7e5979196d4d7d3ed2"
ESCAPED = "f7cf97814a03146abedb9793f56e1dec34f618f82d10395310d053f749483ffb"
REDEMPTION, ORDER, CUSTOMER = "r_0e2907cc52498573ee", "ord_8GGVSci7FUPX1UX94qBHQPSE", "cust_IdgAFZxYwwHctOk9pPuMu308"


def adapter(**overrides: Any) -> Adapter:
    given = {"platform": "voucherify", "secrets": ["newer secret", "secretKey"], **overrides}
    return Adapter("points", Settings.model_validate(given), Outbound())


def sample(**redemption: Any) -> dict[str, Any]:
    text = files("reward_relay.sandbox").joinpath("samples/voucherify_customer_rewarded.json").read_text()
    data: dict[str, Any] = json.loads(text)
    data["redemption"] |= redemption
    return data


def enveloped(name: str | None, data: Any) -> bytes:
    envelope = {"id": "wh_1", "project_id": "proj_1", "created_at": "2024-01-18T15:28:00Z", "type": name, "data": data}
    return json.dumps(envelope | {"source": {"channel": "API"}, "event": "ev_1"}).encode()


def parse(data: Any, **overrides: Any) -> Any:
    return adapter(**overrides).parse(json.dumps(data).encode(), "application/json")


def ordered(data: Any) -> RewardOrder:
    parsed = parse(data)
    assert isinstance(parsed, RewardOrder)
    return parsed


# --- whose signature counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, given",
    [
        (b'{"a":1}', PLAIN),
        (b'{\n  "a": 1\n}\r\n', PLAIN),
        (b'{"a":1}', PLAIN.upper()),
        (b'{"a\\"b":1}', ESCAPED),
        (b'{ "a\\"b" :\t1 }', ESCAPED),
    ],
)
def test_the_documented_signatures_are_accepted_also_of_pretty_printed_bodies(body: bytes, given: str) -> None:
    assert adapter().verify(InboundRequest(body, {"x-voucherify-signature": given})) == body


@pytest.mark.parametrize("body", [b'{"a":2}', b'{"a ":1}', b'{"a":1}x', b"", b'{"a'])
def test_another_body_under_the_same_signature_is_refused(body: bytes) -> None:
    with pytest.raises(Unauthenticated, match=r"fits none of sources.points.secrets"):
        adapter().verify(InboundRequest(body, {"x-voucherify-signature": PLAIN}))


def test_without_a_signature_the_caller_hears_where_the_secret_key_is_found() -> None:
    with pytest.raises(Unauthenticated, match=r"x-voucherify-signature.*Project settings, Webhooks"):
        adapter().verify(InboundRequest(b'{"a":1}', {"x-webhook-token": "secretKey"}))


@pytest.mark.parametrize(
    "signed, accepted", [(b'{"a":" \\" x  "}', True), (b'{"a":"\\"x"}', False), (b'{"a":" \\" x "}', False)]
)
def test_white_space_inside_strings_is_part_of_what_is_signed(signed: bytes, accepted: bool) -> None:
    body = b'{ "a" : " \\" x  " }\n'
    request = InboundRequest(body, {"x-voucherify-signature": signature(SecretStr("secretKey"), signed, "hex")})
    if accepted:
        assert adapter().verify(request) == body
    else:
        with pytest.raises(Unauthenticated):
            adapter().verify(request)


def test_a_quoted_string_that_never_ends_is_scanned_once() -> None:
    with pytest.raises(Unauthenticated):
        adapter().verify(InboundRequest(b'"' + b'\\"' * 500_000, {"x-voucherify-signature": PLAIN}))


# --- what an event asks for ----------------------------------------------------------------------------------


def test_the_official_sample_is_an_order_for_the_material_reward_under_redemption() -> None:
    order = ordered(sample())
    assert (order.source, order.external_id) == ("points", REDEMPTION)
    assert order.occurred_at == datetime(2024, 1, 18, 15, 27, 56, 234000, UTC)
    assert order.recipient == Recipient(name="Jack Webhook")
    assert [item.model_dump(exclude_none=True) for item in order.items] == [
        {"sku": "star-th-bottle", "name": "Star Thermal Bottle", "quantity": 1}
    ]
    assert order.reference == {
        "redemption_id": REDEMPTION,
        "order_id": ORDER,
        "customer_id": CUSTOMER,
        "source_id": "jck-wbhk",
    }
    assert order.attributes["redemption"]["reward"]["type"] == "MATERIAL"


@pytest.mark.parametrize("name", ["customer.rewarded", "EVENTS.CUSTOMER.REWARDED", "customer_rewarded", None])
def test_an_envelope_changes_nothing_however_it_spells_the_event(name: str | None) -> None:
    assert adapter().parse(enveloped(name, sample()), "") == ordered(sample())


@pytest.mark.parametrize(
    "name",
    [
        "customer.rewarded.loyalty_points",
        "customer.reward_redemptions.completed",
        "voucher.created",
        "redemption.rollback.failed",
    ],
)
def test_another_event_is_recorded_by_its_name(name: str) -> None:
    for data in (sample(), None):
        parsed = adapter().parse(enveloped(name, data), "")
        assert isinstance(parsed, Informational) and name in parsed.reason


@pytest.mark.parametrize(
    "name",
    [
        "redemption.rollback.succeeded",
        "EVENTS.CUSTOMER.REDEMPTION.ROLLBACK.SUCCEEDED",
        "customer.reward_redemptions.rolledback",
    ],
)
def test_a_rollback_withdraws_the_redemption(name: str) -> None:
    without_reward = {"redemption": {"id": REDEMPTION, "status": "ROLLED_BACK", "result": "SUCCESS"}}
    parsed = adapter().parse(enveloped(name, without_reward), "")
    assert parsed == Withdrawn(REDEMPTION, f"Voucherify rolled redemption {REDEMPTION} back", None)


@pytest.mark.parametrize("parent", [REDEMPTION, {"id": REDEMPTION}])
def test_a_rollback_in_raw_mode_is_known_by_its_data_and_names_the_redemption_it_undoes(parent: Any) -> None:
    data = sample() | {"redemption_rollback": {"id": "rr_1", "redemption": parent, "result": "SUCCESS"}}
    data["redemption"]["id"] = "r_other"
    parsed = parse(data)
    assert isinstance(parsed, Withdrawn) and parsed.order is not None
    assert (parsed.external_id, parsed.order.external_id) == (REDEMPTION, REDEMPTION)
    data["redemption_rollback"]["result"] = "FAILURE"
    assert isinstance(parse(data), Informational)


def test_a_rollback_of_a_reward_that_is_not_ours_is_recorded_only() -> None:
    data = sample()
    data["redemption"]["reward"]["type"] = "COIN"
    assert isinstance(adapter().parse(enveloped("redemption.rollback.succeeded", data), ""), Informational)


def test_a_redemption_that_was_rolled_back_meanwhile_is_withdrawn() -> None:
    assert isinstance(parse(sample(status="ROLLED_BACK")), Withdrawn)


@pytest.mark.parametrize("words", [{"status": "FAILED"}, {"result": "FAILURE"}, {"status": None, "result": "FAILURE"}])
def test_a_redemption_that_did_not_succeed_is_recorded_only(words: dict[str, Any]) -> None:
    parsed = parse(sample(**words))
    assert isinstance(parsed, Informational) and parsed.external_id == REDEMPTION


@pytest.mark.parametrize("kind", ["CAMPAIGN", "COIN"])
def test_other_reward_types_are_recorded_unless_the_settings_name_them(kind: str) -> None:
    data = sample()
    data["redemption"]["reward"]["type"] = kind
    parsed = parse(data)
    assert isinstance(parsed, Informational) and "sources.points.reward_types" in parsed.reason
    assert isinstance(parse(data, reward_types=["material", kind.lower()]), RewardOrder)
    assert isinstance(parse(data, reward_types=f"MATERIAL, {kind}"), RewardOrder)


def test_a_referral_reward_without_a_redemption_is_recorded_only() -> None:
    assert isinstance(parse(sample() | {"redemption": None}), Informational)


@pytest.mark.parametrize(
    "reward, sku, name",
    [
        ({"product": {"id": "p", "source_id": "s", "name": "n"}, "parameters": {"product": {"sku_id": "k"}}}, "s", "n"),
        ({"product": {"id": "p", "source_id": None}, "parameters": {"product": {"id": "p", "sku_id": "k"}}}, "k", "r"),
        ({"product": {"id": "p", "sku_id": "k"}}, "k", "r"),
        ({"product": {"id": "p"}}, "p", "r"),
        ({"parameters": {"product": {"id": "p"}}}, "p", "r"),
        ({}, None, "r"),
    ],
)
def test_the_sku_is_the_merchants_own_id_where_there_is_one(reward: Any, sku: str | None, name: str) -> None:
    [item] = ordered(sample(reward={"type": "MATERIAL", "name": "r"} | reward)).items
    assert (item.sku, item.name, item.value) == (sku, name, None)


def test_an_address_that_comes_along_is_taken() -> None:
    data = sample()
    data["customer"] |= {"phone": "+48 1", "address": {"line_1": "ul. Prosta 1", "city": "Katowice", "country": "PL"}}
    assert ordered(data).recipient == Recipient(
        name="Jack Webhook", phone="+48 1", address=Address(line1="ul. Prosta 1", city="Katowice", country="PL")
    )


@pytest.mark.parametrize(
    "date, moment",
    [
        ("2024-01-18T15:27:56", datetime(2024, 1, 18, 15, 27, 56, tzinfo=UTC)),
        ("2024-01-18T15:27:56+02:00", datetime(2024, 1, 18, 15, 27, 56, tzinfo=timezone(timedelta(hours=2)))),
        ("yesterday", None),
        ("0001-01-01T00:00:00+14:00", None),
        (5, None),
    ],
)
def test_a_date_without_sense_is_left_out(date: Any, moment: datetime | None) -> None:
    assert ordered(sample(date=date)).occurred_at == moment


@pytest.mark.parametrize(
    "body, complaint",
    [
        (b"", "not JSON"),
        (b"[]", "no object"),
        (b'{"data": 5}', "`data` is no JSON object"),
        (b"{}", "redemption.id is missing"),
        (json.dumps(sample(id="..")).encode(), "redemption.id is missing"),
        (json.dumps(sample(id="r" * 201)).encode(), "redemption.id is missing"),
        (json.dumps(sample(reward={"type": True})).encode(), "redemption.reward.type is missing"),
        (enveloped("customer.reward_redemptions.rolledback", {"reward_redemption": {}}), "names no redemption"),
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


ODD = st.sampled_from(["\x00", "\ud800", "..", "MATERIAL", "SUCCEEDED", "ROLLED_BACK", "9999-12-31T23:59:59-23:00"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ODD
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
NAMES = ["redemption", "reward", "customer", "product", "parameters", "order", "id", "type", "status", "date", "name"]
SAMPLES = st.sampled_from([sample(), sample() | {"redemption_rollback": {"redemption": {"id": "r"}}}])
EVENTS = st.builds(spoiled, SAMPLES, st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3))
BODIES = (EVENTS | ANYTHING).map(lambda value: json.dumps(value).encode())
WRAPPED = st.builds(enveloped, st.sampled_from(["customer.rewarded", "redemption.rollback.succeeded", ""]), EVENTS)
READER = adapter()


@settings(deadline=None, max_examples=200)
@drawn(st.binary() | BODIES | WRAPPED)
def test_parse_raises_nothing_but_unreadable(body: bytes) -> None:
    try:
        parsed = READER.parse(body, "")
    except Unreadable as unreadable:
        assert str(unreadable)
        return
    order = parsed if isinstance(parsed, RewardOrder) else getattr(parsed, "order", None)
    assert order is None or order.model_dump_json()
    assert f"{parsed.external_id} {getattr(parsed, 'reason', '')}".encode()
