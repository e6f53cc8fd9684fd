"""Roster: whose webhook counts, and every spelling that gives the same reward."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_relay.contracts import (
    Address,
    InboundRequest,
    Informational,
    Item,
    Recipient,
    RewardOrder,
    Withdrawn,
)
from reward_relay.errors import Unauthenticated, Unreadable
from reward_relay.outbound import Outbound
from reward_relay.platforms.roster.adapter import Adapter, Settings

ADDRESS = {"address1": "1 Elm Street", "address2": "Apt 2", "city": "Salem", "state": "OR", "zip": "97301"}
PERSON = {"first_name": "Ada", "last_name": "Byrne", "email": "ada@example.com", "phone": "+1-503-555-0100"}
ITEM = {"sku": "MUG-12", "name": "Trail Mug", "quantity": 2, "price": 18.5, "currency": "USD"}
ORDER: dict[str, Any] = {
    "order_id": "ord-7",
    "ambassador": PERSON,
    "shipping_address": {**ADDRESS, "country": "US"},
    "items": [ITEM],
}
CANONICAL = RewardOrder(
    source="club",
    external_id="ord-7",
    recipient=Recipient(
        name="Ada Byrne",
        email="ada@example.com",
        phone="+1-503-555-0100",
        address=Address(
            line1="1 Elm Street", line2="Apt 2", city="Salem", state="OR", postal_code="97301", country="US"
        ),
    ),
    items=(Item(sku="MUG-12", name="Trail Mug", quantity=2, value=Decimal("18.5"), currency="USD"),),
)


def adapter(**overrides: Any) -> Adapter:
    given = {"platform": "roster", "secrets": ["newer secret", "older secret"], **overrides}
    return Adapter("club", Settings.model_validate(given), Outbound())


def parse(payload: Any, **overrides: Any) -> Any:
    return adapter(**overrides).parse(json.dumps(payload).encode(), "application/json")


def ordered(payload: Any, **overrides: Any) -> RewardOrder:
    parsed = parse(payload, **overrides)
    assert isinstance(parsed, RewardOrder), parsed
    return parsed


def complaint(payload: Any, **overrides: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        parse(payload, **overrides)
    return str(caught.value)


def sample(name: str) -> Any:
    return json.loads(files("reward_relay.sandbox").joinpath(f"samples/{name}.json").read_text())


# --- whose webhook counts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        InboundRequest(b"{}", headers={"x-webhook-token": "newer secret"}),
        InboundRequest(b"{}", headers={"x-webhook-token": "older secret"}),
        InboundRequest(b"{}", query={"token": "older secret"}),
    ],
)
def test_a_token_in_header_or_query_counts_while_either_secret_is_accepted(request_: InboundRequest) -> None:
    assert adapter().verify(request_) == b"{}"


@pytest.mark.parametrize("query", [{}, {"token": ""}, {"token": "oldest secret"}])
def test_no_token_and_a_wrong_one_do_not_count(query: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated, match=r"sources\.club\.secrets"):
        adapter().verify(InboundRequest(b"{}", query=query))


@pytest.mark.parametrize("prefix", ["", "sha256="])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("secret", [b"newer secret", b"older secret"])
def test_where_the_customer_has_signatures_they_count_over_the_raw_body(
    prefix: str, encoding: str, secret: bytes
) -> None:
    mac = hmac.new(secret, b'{ "a": 1 }', hashlib.sha256)
    text = mac.hexdigest().upper() if encoding == "hex" else base64.b64encode(mac.digest()).decode()
    signing = adapter(signature_header="X-Roster-Signature", signature_encoding=encoding)
    headers = {"x-roster-signature": prefix + text}
    assert signing.verify(InboundRequest(b'{ "a": 1 }', headers)) == b'{ "a": 1 }'
    with pytest.raises(Unauthenticated, match="signature_encoding"):
        signing.verify(InboundRequest(b'{"a":1}', headers))


def test_a_token_does_not_replace_the_configured_signature() -> None:
    with pytest.raises(Unauthenticated, match="X-Roster-Signature"):
        adapter(signature_header="X-Roster-Signature").verify(InboundRequest(b"{}", query={"token": "newer secret"}))


# --- what a webhook says ---------------------------------------------------------------------------------

FLAT = {"orderId": "ord-7", "fullName": "Ada Byrne", "emailAddress": "ada@example.com", "mobile": "+1-503-555-0100"}
FLAT |= {"address": "1 Elm Street", "address_2": "Apt 2", "City": "Salem", "province": "OR", "postcode": "97301"}
FLAT |= {"Country": "US", "sku": "MUG-12", "product_name": "Trail Mug", "qty": "2", "value": "18.50", "currency": "USD"}
LINE = {"productSku": "MUG-12", "title": "Trail Mug", "qty": "2", "amount": "$18.50", "currencyCode": "USD"}
NESTED = {"qty": 2.0, "product": {"sku": "MUG-12", "name": "Trail Mug", "price": {"amount": "18.5", "currency": "USD"}}}
SPELLINGS: dict[str, Any] = {
    "flat": ORDER,
    "flat, all in one object": FLAT,
    "under order": {"event": "reward.redeemed", "id": "evt-1", "order": ORDER},
    "under data": {"type": "Reward Redeemed", "id": "evt-1", "data": ORDER},
    "under payload.data.order": {"id": "evt-1", "payload": {"data": {"order": ORDER}}},
    "id, not the envelope's": {
        "id": "evt-1",
        "data": {"id": "ord-7", **{k: ORDER[k] for k in ORDER if k != "order_id"}},
    },
    "redemption_id": {"redemption_id": "ord-7", "id": 4, **{k: ORDER[k] for k in ORDER if k != "order_id"}},
    "reward_id": {"reward_id": "ord-7", **{k: ORDER[k] for k in ORDER if k != "order_id"}},
    "uuid": {"uuid": "ord-7", **{k: ORDER[k] for k in ORDER if k != "order_id"}},
    "people and address beside the order": {**ORDER, "items": None, "order": {"line_items": [LINE]}},
    "address under the member": {
        "id": "ord-7",
        "member": {**PERSON, "address": ORDER["shipping_address"]},
        "products": [ITEM],
    },
    "address in the recipient": {"id": "ord-7", "recipient": {**PERSON, **ADDRESS, "country": "US"}, "rewards": [ITEM]},
    "ship_to with a name": {
        "id": "ord-7",
        "shipTo": {"name": "Ada Byrne", "street": "1 Elm Street", "line2": "Apt 2", "city": "Salem", "stateCode": "OR"}
        | {"postalCode": 97301, "countryCode": "US", "phone": PERSON["phone"]},
        "customer": {"email": "ada@example.com"},
        "lineItems": [LINE],
    },
    "shipping.address": {
        **ORDER,
        "shipping_address": None,
        "shipping": {"method": "ground", "address": ORDER["shipping_address"]},
    },
    "items with products in them": {**ORDER, "items": [NESTED]},
    "one product, quantity on the order": {
        **ORDER,
        "items": None,
        "product": {**ITEM, "quantity": None},
        "quantity": 2,
    },
}


@pytest.mark.parametrize("payload", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_gives_the_same_reward(payload: Any) -> None:
    assert ordered(payload).model_dump() == CANONICAL.model_dump()


def test_the_sample_is_read_to_the_last_field() -> None:
    order = ordered(sample("roster_reward_redeemed"))
    assert (order.external_id, order.occurred_at) == ("480217", datetime(2026, 3, 12, 16, 4, 29, tzinfo=UTC))
    assert order.recipient.name == "Dana Whitfield" and order.recipient.phone == "+1-503-555-0142"
    assert order.recipient.address == Address(
        line1="1420 SW Harbor Lane", line2="Apt 5B", city="Portland", state="OR", postal_code="97201", country="US"
    )
    assert order.items[0] == Item(
        sku="TRAIL-MUG-12", name="Trail Mug 12 oz", quantity=2, value=Decimal("18.5"), currency="USD"
    )
    assert order.items[1].sku == "GIFT-CARD-25" and order.attributes["campaign"]["id"] == 3120


def test_the_sample_in_camel_case_is_read_too() -> None:
    order = ordered(sample("roster_reward_redeemed_camel"))
    assert order.external_id == "480218" and order.recipient.email == "miguel.ortega@example.com"
    assert order.recipient.address == Address(
        line1="88 Juniper Street", city="Austin", state="TX", postal_code="78702", country="US"
    )
    assert order.items == (Item(sku="TRAIL-CAP-GRN", name="Trail Cap, green", value=Decimal("22.00"), currency="USD"),)


@pytest.mark.parametrize(
    "when, utc",
    [
        ("2026-03-12T18:00:00+02:00", "2026-03-12T16:00:00+00:00"),
        ("2026-03-12 16:00:00 UTC", "2026-03-12T16:00:00+00:00"),
        ("2026-03-12T16:00:00", "2026-03-12T16:00:00+00:00"),
        (1_773_331_200, "2026-03-12T16:00:00+00:00"),
        ("1773331200000", "2026-03-12T16:00:00+00:00"),
        ("last Thursday", "None"),
        ("0001-01-01T00:00:00+14:00", "None"),
    ],
)
def test_times_are_utc_and_what_cannot_be_read_is_missing(when: Any, utc: str) -> None:
    occurred_at = ordered({**ORDER, "redeemed_at": when}).occurred_at
    assert (occurred_at.isoformat() if occurred_at else "None") == utc


def test_two_addresses_are_never_mixed() -> None:
    profile = {"address1": "9 Old Road", "address2": "Floor 9", "city": "Bend"}
    payload = {
        **ORDER,
        "shipping_address": {"address1": "1 Elm Street"},
        "ambassador": {**PERSON, **profile, "address": profile},
    }
    assert ordered(payload).recipient.address == Address(line1="1 Elm Street")


def test_the_name_of_a_product_is_not_taken_for_a_person() -> None:
    assert ordered({"id": 7, "sku": "MUG-12", "name": "Trail Mug", "address1": "1 Elm Street"}).recipient.name is None


@pytest.mark.parametrize("quantity", [0, -1, 1.5, "two", True, 10_001, 1e30, ["2"]])
def test_a_quantity_that_is_none_is_named(quantity: Any) -> None:
    assert complaint({**ORDER, "items": [ITEM, {**ITEM, "quantity": quantity}]}).startswith("items.1.quantity is ")


@pytest.mark.parametrize("price", ["free", -1, "1,50", [18.5], 0.00001])
def test_a_value_that_is_no_amount_is_named(price: Any) -> None:
    assert complaint({**ORDER, "items": [{**ITEM, "price": price}]}).startswith("items.0.value is ")


@pytest.mark.parametrize("word", ["cancelled", "Canceled", "voided"])
def test_a_withdrawn_order_comes_with_what_it_was(word: str) -> None:
    parsed = parse({"data": {**ORDER, "status": word}})
    assert isinstance(parsed, Withdrawn) and parsed.external_id == "ord-7"
    assert parsed.order is not None and parsed.order.model_dump() == CANONICAL.model_dump()


def test_a_withdrawal_needs_no_more_than_the_id() -> None:
    parsed = parse({"event": "reward.cancelled", "data": {"id": 7}}, event_types=["reward.redeemed"])
    assert parsed == Withdrawn("7", "Roster says that the order is cancelled")


@pytest.mark.parametrize("extra", [{"status": "shipped"}, {"event": "order.fulfilled"}])
def test_what_was_fulfilled_without_us_is_not_placed(extra: dict[str, str]) -> None:
    assert isinstance(parse({**ORDER, **extra}), Informational)


@pytest.mark.parametrize(
    "extra",
    [{"fulfillment_status": "unfulfilled"}, {"status": "pending"}, {"type": "product"}, {"event": "order.unfulfilled"}],
)
def test_other_words_leave_it_an_order(extra: dict[str, str]) -> None:
    assert ordered({**ORDER, **extra}).external_id == "ord-7"


@pytest.mark.parametrize("payload", [{"event": "ambassador.created"}, {"type": "points"}, {"event": {"name": "post"}}])
def test_another_event_is_informational_and_named(payload: Any) -> None:
    parsed = parse(payload)
    assert isinstance(parsed, Informational) and "sources.club.event_types" in parsed.reason


@pytest.mark.parametrize("names", [["Milestone reached", "order.fulfilled"], "milestone_reached, order.fulfilled"])
def test_the_customer_can_say_which_events_place_an_order(names: Any) -> None:
    chosen = {"event_types": names}
    assert ordered({"event": "milestone_reached", "order": ORDER}, **chosen).external_id == "ord-7"
    assert ordered({"event": "order.fulfilled", "order": ORDER}, **chosen).external_id == "ord-7"
    assert isinstance(parse({"event": "reward.redeemed", "order": ORDER}, **chosen), Informational)


def test_an_id_that_only_the_event_has_is_not_taken() -> None:
    assert "sources.club.fields.external_id" in complaint({"id": "evt-1", "data": {"items": [ITEM]}})


@pytest.mark.parametrize("id_", [None, "", " \x00 ", {}, True, "..", "x" * 201])
def test_an_id_that_is_none_is_refused(id_: Any) -> None:
    assert "sources.club.fields.external_id" in complaint({"id": id_, "sku": "MUG-12"})


@pytest.mark.parametrize(
    "payload", [{"id": 7}, {"id": 7, "items": []}, {"id": 7, "items": [{"qty": 1}]}, {"id": 7, "items": [3]}]
)
def test_a_payload_with_nothing_to_send_says_what_to_configure(payload: Any) -> None:
    assert "sources.club.fields." in complaint(payload)


# --- the fields table ------------------------------------------------------------------------------------

ODD = {
    "meta": {"ref": "ord-7", "when": 1_770_000_000, "wish": "Enjoy!"},
    "who": {"label": "Ada Byrne", "mail": "ada@example.com", "tel": "+1-503-555-0100"},
    "where": ["1 Elm Street", "Apt 2", {"place": "Salem", "region1": "OR", "code": 97301, "land": "US"}],
    "what": [{"article": {"no": "MUG-12"}, "text": "Trail Mug", "pieces": 2, "worth": 18.5, "in": "USD"}],
}
PATHS = {"external_id": "meta.ref", "occurred_at": "meta.when", "message": "meta.wish", "name": "who.label"}
PATHS |= {"email": "who.mail", "phone": "who.tel", "line1": "where.0", "line2": "where.1", "city": "where.2.place"}
PATHS |= {"state": "where.2.region1", "postal_code": "where.2.code", "country": "where.2.land", "items": "what"}
PATHS |= {"sku": "article.no", "item_name": "text", "quantity": "pieces", "value": "worth", "currency": "in"}


def test_a_configured_path_goes_before_every_guess() -> None:
    order = ordered({**ODD, **ORDER, "order_id": "other"}, fields=PATHS)
    when = datetime.fromtimestamp(1_770_000_000, UTC)
    assert order == CANONICAL.model_copy(
        update={"occurred_at": when, "message": "Enjoy!", "attributes": order.attributes}
    )


def test_paths_of_a_single_item_start_at_the_payload() -> None:
    paths = {"sku": "data.what.0.article.no", "quantity": "data.what.0.pieces"}
    assert ordered({"data": {"id": 7, **ODD}}, fields=paths).items == (Item(sku="MUG-12", quantity=2),)


@pytest.mark.parametrize("field", ["external_id", "items"])
def test_a_path_that_finds_nothing_is_named_where_the_field_is_needed(field: str) -> None:
    assert "'nowhere.at.all'" in complaint(ORDER, fields={field: "nowhere.at.all"})


@pytest.mark.parametrize("field", sorted(PATHS.keys() - {"external_id", "items"}))
def test_a_path_that_finds_nothing_is_a_missing_value_elsewhere(field: str) -> None:
    assert ordered(ORDER, fields={field: "nowhere.at.all"}).external_id == "ord-7"


# --- nonsense -------------------------------------------------------------------------------------------

SCALARS = st.sampled_from([None, True, 0, -1, 2, 10**400, 1.5, 1e308, "", "x", "\x00", "\ud800", "1e9999", "nan", "²"])
KEYS = st.sampled_from(
    ["id", "order", "data", "items", "sku", "quantity", "price", "address", "member", "date", "event"]
)
OBJECTS: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.dictionaries(KEYS, SCALARS | OBJECTS | st.lists(OBJECTS | SCALARS, max_size=2), max_size=4)
)
COMMON = st.fixed_dictionaries({"id": SCALARS, "sku": SCALARS}, optional={"quantity": SCALARS, "price": SCALARS})


@settings(max_examples=200, deadline=None)
@given(payload=st.builds(dict.__or__, COMMON, OBJECTS) | OBJECTS)
def test_whatever_json_comes_is_understood_or_unreadable(payload: Any) -> None:
    try:
        parsed = parse(payload, fields={"city": "items.0.city"})
    except Unreadable:
        return
    assert isinstance(parsed, RewardOrder | Informational | Withdrawn)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"[1]", b"7", b"null", b'{"id": NaN}', b"[" * 100_000, b'{"id": 1e999999}']
)
def test_what_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        adapter().parse(body, "application/json")
