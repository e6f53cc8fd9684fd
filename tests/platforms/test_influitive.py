"""Influitive: whose webhook counts, and every spelling of webhook and open list that gives the same reward."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_relay.contracts import Address, InboundRequest, Informational, Item, Recipient, RewardOrder
from reward_relay.errors import Unauthenticated, Unreadable
from reward_relay.outbound import Outbound
from reward_relay.platforms.influitive.adapter import Adapter, Settings

CONTACT = {"id": 9, "name": "Ada Byrne", "email": "ada@example.com", "address": "1 Elm Street", "address_2": "Apt 2"}
CONTACT |= {"city": "Salem", "state": "OR", "zip": "97301", "country": "US", "phone_number": "+1-503-555-0100"}
REWARD = {"id": 33, "name": "Coffee", "metadata": {"sku": "COFFEE-25", "value": "25.00"}}
ADDRESS = Address(line1="1 Elm Street", line2="Apt 2", city="Salem", state="OR", postal_code="97301", country="US")
CANONICAL = RewardOrder(
    source="hub",
    external_id="77",
    recipient=Recipient(name="Ada Byrne", email="ada@example.com", phone="+1-503-555-0100", address=ADDRESS),
    items=(Item(sku="COFFEE-25", name="Coffee", quantity=1, value=Decimal("25.00")),),
)


def adapter(**overrides: Any) -> Adapter:
    given = {"platform": "influitive", "secrets": ["newer secret", "older secret"], **overrides}
    return Adapter("hub", Settings.model_validate(given), Outbound())


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


@pytest.mark.parametrize("headers, query", [({"x-webhook-token": "newer secret"}, {}), ({}, {"token": "older secret"})])
def test_the_shared_token_counts_in_header_or_query(headers: dict[str, str], query: dict[str, str]) -> None:
    assert adapter().verify(InboundRequest(b"{ }", headers, query)) == b"{ }"


@pytest.mark.parametrize("query", [{}, {"token": "oldest secret"}])
def test_no_token_and_a_wrong_one_do_not_count(query: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated, match=r"sources\.hub\.secrets"):
        adapter().verify(InboundRequest(b"{}", query=query))


# --- what a webhook says ---------------------------------------------------------------------------------

SHIPPING = {k: v for k, v in CONTACT.items() if k not in ("id", "name", "email", "phone_number")}
NAMED = {"first_name": "Ada", "last_name": "Byrne", "email": "ada@example.com", "phone": "+1-503-555-0100"}
KEYS_AND_VALUES = [{"key": "sku", "value": "COFFEE-25"}, {"name": "Value", "value": 25.0}, "odd", {"value": "no key"}]
SPELLINGS: dict[str, Any] = {
    "side by side": {"redemption": {"id": 77}, "reward": REWARD, "contact": CONTACT},
    "as text, and in an envelope with its own id": {
        "id": "evt-1",
        "event": "Reward Redemption Requested",
        "data": {"redemption": {"id": "77"}, "reward": REWARD, "contact": CONTACT},
    },
    "all under the redemption": {"rewardRedemption": {"id": 77, "reward": REWARD, "contact": CONTACT}},
    "flat": {"redemption_id": 77, "id": 5, "reward": REWARD, "advocate": CONTACT},
    "as the open list has it": {"reward_redemption": {"id": 77, "reward": REWARD, "contact_id": 9}, "contact": CONTACT},
    "shipping on the redemption": {
        "redemption": {"id": 77, "shipping": SHIPPING | {"phone_number": "+1-503-555-0100"}},
        "reward": REWARD,
        "contact": {**NAMED, "phone": None, "city": "Bend", "address": "9 Old Road"},
    },
    "address of the contact in an object": {"id": 77, "reward": REWARD, "contact": {**NAMED, "address": SHIPPING}},
    "metadata as keys and values": {"id": 77, "reward": {**REWARD, "metadata": KEYS_AND_VALUES}, "contact": CONTACT},
    "metadata as text": {
        "id": 77,
        "reward": {**REWARD, "metadata": '{"SKU": "COFFEE-25", "amount": "$25"}'},
        "contact": CONTACT,
    },
    "metadata beside the reward": {
        "id": 77,
        "reward": {"name": "Coffee"},
        "reward_metadata": REWARD["metadata"],
        "contact": CONTACT,
    },
}


@pytest.mark.parametrize("payload", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_gives_the_same_reward(payload: Any) -> None:
    assert ordered(payload).model_dump() == CANONICAL.model_dump()


def test_the_sample_is_read_to_the_last_field() -> None:
    order = ordered(sample("influitive_redemption_requested"))
    assert (order.external_id, order.occurred_at) == ("771204", datetime(2026, 3, 12, 18, 40, 11, tzinfo=UTC))
    assert order.recipient == Recipient(
        name="Priya Raman",
        email="priya.raman@example.com",
        phone="+1-303-555-0119",
        address=Address(
            line1="301 Larkspur Avenue", line2="Suite 12", city="Denver", state="CO", postal_code="80203", country="US"
        ),
    )
    assert order.items == (Item(sku="COFFEE-25", name="$25 Coffee Gift Card", value=Decimal("25.00"), currency="USD"),)


def test_routes_see_redemption_reward_contact_and_metadata_whatever_the_payload_looks_like() -> None:
    webhook, listed = ordered(SPELLINGS["side by side"]), ordered(SPELLINGS["as the open list has it"])
    for order in (webhook, listed):
        assert order.attributes["reward"]["name"] == "Coffee" and order.attributes["contact"]["city"] == "Salem"
        assert order.attributes["metadata"]["sku"] == "COFFEE-25" and order.attributes["redemption"]["id"] == 77


@pytest.mark.parametrize(
    "reward, sku",
    [
        ({**REWARD, "metadata": {"vendor_sku": "V-1", "sku": "other"}}, "V-1"),
        ({"id": 33, "code": "C-1"}, "C-1"),
        ({"id": 33, "sku": "S-1", "code": "C-1"}, "S-1"),
        ({"id": 33, "metadata": "not json"}, "33"),
    ],
)
def test_the_sku_is_the_metadata_s_then_the_reward_s_own_then_its_id(reward: Any, sku: str) -> None:
    assert ordered({"id": 77, "reward": reward}, sku_key="Vendor SKU").items[0].sku == sku


def test_the_reward_s_metadata_goes_over_the_redemption_s() -> None:
    payload = {"redemption": {"id": 77, "metadata": {"sku": "other", "currency": "CAD"}}, "reward": REWARD}
    assert ordered(payload).items == (Item(sku="COFFEE-25", name="Coffee", value=Decimal(25), currency="CAD"),)


def test_a_flat_reward_id_is_the_last_resort_and_never_the_id_of_the_redemption() -> None:
    assert ordered({"id": 77, "reward_id": 33, "reward_name": "Coffee"}).items == (Item(sku="33", name="Coffee"),)
    assert "fields.external_id" in complaint({"reward_id": 33})


@pytest.mark.parametrize("word", ["fulfilled", "Refused", "rejected", "cancelled", "canceled"])
def test_what_is_decided_already_is_informational(word: str) -> None:
    parsed = parse({"redemption": {"id": 77, "status": word}, "reward": REWARD})
    assert isinstance(parsed, Informational) and parsed.external_id == "77" and word.lower() in parsed.reason


def test_an_event_about_a_decision_or_about_something_else_is_informational() -> None:
    payload = {"redemption": {"id": 77}, "reward": REWARD}
    assert isinstance(parse({**payload, "event": "Reward Fulfilled"}), Informational)
    assert isinstance(parse({"event": "challenge_completed", "id": 3}), Informational)
    assert ordered({**payload, "event": "Reward Redemption Requested"}).external_id == "77"


def test_a_payload_without_a_reward_says_what_to_configure() -> None:
    assert "sources.hub.fields.sku" in complaint({"id": 77, "contact": CONTACT})


@pytest.mark.parametrize("extra", [{"quantity": 0}, {"quantity": "some"}])
def test_a_quantity_that_is_none_is_named(extra: Any) -> None:
    assert complaint({"id": 77, "reward": REWARD, **extra}).startswith("the redemption.quantity is ")


def test_a_value_that_is_no_amount_is_named() -> None:
    reward = {**REWARD, "metadata": {"sku": "COFFEE-25", "value": "a lot"}}
    assert "the redemption.value is a text of 5 characters" in complaint({"id": 77, "reward": reward})


# --- the fields table ------------------------------------------------------------------------------------


def test_a_configured_path_goes_before_every_guess() -> None:
    odd = {
        "ref": "77",
        "perks": {"extra": {"sku": "COFFEE-25", "value": 25}},
        "n": 3,
        "who": {"mail": "ada@example.com"},
    }
    paths = {"external_id": "ref", "metadata": "perks.extra", "quantity": "n", "email": "who.mail"}
    order = ordered({"id": 1, "reward": {"sku": "other"}, **odd}, fields=paths)
    assert order.external_id == "77" and order.recipient.email == "ada@example.com"
    assert order.items == (Item(sku="COFFEE-25", quantity=3, value=Decimal(25)),)


def test_a_list_of_items_can_be_configured() -> None:
    payload = {"id": 77, "cart": [{"code": "A"}, {"code": "B", "quantity": 2}]}
    order = ordered(payload, fields={"items": "cart", "sku": "code"})
    assert order.items == (Item(sku="A"), Item(sku="B", quantity=2))


def test_a_path_that_finds_nothing_is_named_where_the_field_is_needed_and_else_a_missing_value() -> None:
    payload = {"id": 77, "reward": REWARD, "contact": CONTACT}
    assert "'nowhere.id'" in complaint(payload, fields={"external_id": "nowhere.id"})
    assert "'nowhere'" in complaint(payload, fields={"items": "nowhere"})
    order = ordered(payload, fields={"email": "nowhere", "metadata": "nowhere", "sku": "nowhere"})
    assert order.recipient.email is None and order.items == (Item(name="Coffee"),)


def test_a_configured_id_is_found_in_the_open_list_too() -> None:
    ids = {"id": 77, "uuid": "u-77"}
    fields = {"external_id": "data.redemption.uuid", "email": "data.person.mail"}
    webhook = {"data": {"redemption": ids, "reward": REWARD, "person": {"mail": "ada@example.com"}}}
    listed = {"reward_redemption": {**ids, "reward": REWARD}, "contact": CONTACT}
    one, other = ordered(webhook, fields=fields), ordered(listed, fields=fields)
    assert one.external_id == other.external_id == "u-77"
    assert one.recipient.email == other.recipient.email == "ada@example.com"


# --- nonsense --------------------------------------------------------------------------------------------

SCALARS = st.sampled_from([None, True, 0, -1, 2, 10**400, 1.5, "", "x", "\x00", "\ud800", "nan", '{"sku": 1}', "[[]]"])
KEYS = st.sampled_from(
    ["id", "redemption", "reward", "contact", "metadata", "sku", "value", "address", "status", "event"]
)
OBJECTS: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.dictionaries(KEYS, SCALARS | OBJECTS | st.lists(OBJECTS | SCALARS, max_size=2), max_size=4)
)
COMMON = st.fixed_dictionaries({"id": SCALARS, "reward": OBJECTS}, optional={"contact": OBJECTS, "quantity": SCALARS})


@settings(max_examples=200, deadline=None)
@given(payload=st.builds(dict.__or__, COMMON, OBJECTS) | OBJECTS)
def test_whatever_json_comes_is_understood_or_unreadable(payload: Any) -> None:
    try:
        parsed = parse(payload, fields={"city": "contact.0"})
    except Unreadable:
        return
    assert isinstance(parsed, RewardOrder | Informational)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[1]", b"null", b'{"id": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        adapter().parse(body, "application/json")
