"""The canonical words: text that can be stored, exact money, requests that hide their secrets."""

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import SecretStr, ValidationError

from reward_relay.contracts import (
    InboundRequest,
    Informational,
    Item,
    Line,
    OutboundRequest,
    Recipient,
    RewardOrder,
    as_number,
    clean_text,
    listed,
    read_json,
)
from reward_relay.errors import Unreadable


def order(**changes: Any) -> RewardOrder:
    """A reward with one item."""
    return RewardOrder(**{"source": "s", "external_id": "1", "items": (Item(sku="a"),), **changes})


@given(some.text())
def test_cleaned_text_can_be_stored_and_stays_clean(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned is None or isinstance(cleaned, str)
    if cleaned is not None:
        assert "\x00" not in cleaned
        assert cleaned
        assert cleaned.encode().decode() == cleaned
        assert clean_text(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"), [(" a\x00b ", "ab"), ("", None), (" \t", None), ("\ud800x", "?x"), ("Zoë", "Zoë"), (5, 5)]
)
def test_text_is_cleaned_by_as_little_as_possible(text: object, cleaned: object) -> None:
    assert clean_text(text) == cleaned


def test_an_empty_text_of_a_recipient_is_a_missing_one() -> None:
    assert Recipient(name="", email=" ", phone="\x00") == Recipient()


@pytest.mark.parametrize("external_id", ["", " ", "\x00", None, "x" * 201])
def test_an_order_needs_a_business_key(external_id: object) -> None:
    with pytest.raises(ValidationError):
        order(external_id=external_id)


@pytest.mark.parametrize("changes", [{"items": ()}, {"items": (Item(),) * 201}])
def test_an_order_has_items_but_not_hundreds(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        order(**changes)


def test_a_field_that_a_newer_version_stored_is_passed_over() -> None:
    stored = {**order().model_dump(mode="json"), "gift_wrap": True}
    assert RewardOrder.model_validate(stored) == order()


@pytest.mark.parametrize("quantity", [0, -1, 10_001, "many", 1.5])
def test_a_quantity_is_a_small_whole_number(quantity: object) -> None:
    with pytest.raises(ValidationError):
        Item.model_validate({"quantity": quantity})


@pytest.mark.parametrize("value", ["-0.01", "NaN", "Infinity", "1.00001", "123456789012345", "much"])
def test_an_amount_is_finite_exact_and_not_negative(value: str) -> None:
    with pytest.raises(ValidationError):
        Item.model_validate({"value": value})


def test_a_stored_order_comes_back_as_it_was_without_the_payload() -> None:
    first = order(items=(Item(sku="a", value=Decimal("20.10")),), attributes={"secret": "x"}, reference={"id": "7"})
    stored = first.model_dump_json()
    assert "secret" not in stored
    assert "secret" not in repr(first)
    again = RewardOrder.model_validate_json(stored)
    assert again == first.model_copy(update={"attributes": {}})
    assert str(again.items[0].value) == "20.10"


def test_json_keeps_decimals_exact() -> None:
    assert read_json('{"value": 0.10, "many": 3}') == {"value": Decimal("0.10"), "many": 3}
    assert str(read_json("1234567890.1234")) == "1234567890.1234"


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "-Infinity", "1e400", "1e-400", "9" * 5000, "[" * 100_000, b"\xff\xfe\xfd"]
)
def test_what_is_no_sensible_json_is_unreadable(text: str | bytes) -> None:
    with pytest.raises(Unreadable):
        read_json(text)


@given(some.one_of(some.binary(), some.text()))
def test_bytes_are_json_or_unreadable_and_nothing_else_happens(body: bytes | str) -> None:
    with suppress(Unreadable):
        read_json(body)


@given(some.recursive(some.none() | some.booleans() | some.integers() | some.text(), some.lists))
def test_json_comes_back_as_it_was_written(value: Any) -> None:
    assert read_json(json.dumps(value)) == value


def test_a_request_is_shown_with_stars_for_its_secrets() -> None:
    request = OutboundRequest(
        "POST",
        "https://far.test/orders",
        json={"a": 1},
        headers={"X-Kind": "test"},
        secret_headers={"Authorization": SecretStr("Bearer hidden")},
    )
    assert request.shown() == {
        "method": "POST",
        "url": "https://far.test/orders",
        "headers": {"X-Kind": "test", "Authorization": "***"},
        "json": {"a": 1},
    }
    assert "hidden" not in repr(request)


@pytest.mark.parametrize(
    ("header", "media_type"),
    [("application/json; charset=utf-8", "application/json"), ("TEXT/Plain", "text/plain"), ("", "")],
)
def test_the_media_type_is_without_parameters(header: str, media_type: str) -> None:
    assert InboundRequest(b"", {"content-type": header}).content_type == media_type
    assert InboundRequest(b"").content_type == ""


@pytest.mark.parametrize(
    ("given", "found"), [("a,b", ["a", "b"]), (" a , ,b ", ["a", "b"]), ("", []), (["a,b"], ["a,b"]), (None, None)]
)
def test_a_list_given_as_text_is_split(given: object, found: object) -> None:
    assert listed(given) == found


@pytest.mark.parametrize(("amount", "number"), [("20.00", 20), ("20.50", 20.5), ("0", 0), ("0.1", 0.1), ("1E+2", 100)])
def test_an_amount_is_the_number_json_should_carry(amount: str, number: float) -> None:
    found = as_number(Decimal(amount))
    assert found == number
    assert type(found) is type(number)


@given(some.decimals(min_value=0, max_value=Decimal(9_999_999_999), places=4))
def test_every_amount_survives_as_a_json_number(amount: Decimal) -> None:
    line = Line(product="p", value=amount)
    assert Decimal(repr(as_number(line.value))) == amount


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        order().source = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Informational("x").reason = "y"  # type: ignore[misc]
