"""Which vendor gets a reward, as what, and the sentence for the person where nobody does."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from reward_relay.contracts import Address, Delivery, Item, Line, Recipient, RewardOrder
from reward_relay.routing import completed, differences, matches, never_reached, route_order, unreachable
from reward_relay.settings import Product, Route

HOME = Address(line1="1 Main St", city="Springfield", postal_code="12345", country="US")


def order(*items: Item, **changes: Any) -> RewardOrder:
    """A reward for somebody with an e-mail address."""
    given: dict[str, Any] = {
        "source": "talkable",
        "external_id": "1",
        "recipient": Recipient(email="a@example.com"),
        "items": items or (Item(sku="card", value=Decimal(10)),),
    }
    return RewardOrder(**{**given, **changes})


def route(**changes: Any) -> Route:
    """A route that takes everything."""
    return Route(**{"name": "cards", "vendor": "gcp", "product": "CVS", **changes})


def test_the_first_route_that_matches_wins() -> None:
    routes = [route(name="a", sources=["roster"]), route(name="b"), route(name="c")]
    routed = route_order(order(), routes)
    assert routed.plan is not None
    assert (routed.route, routed.plan.route, routed.hold_reason) == ("b", "b", None)
    assert routed.plan.lines == (Line(product="CVS", value=Decimal(10)),)
    assert (routed.plan.vendor, routed.plan.delivery) == ("gcp", Delivery.DIGITAL)


def test_no_route_holds_and_says_for_what() -> None:
    routed = route_order(order(Item(sku="mug"), Item(name="A hat")), [route(sources=["roster"])])
    assert routed.plan is None
    assert routed.hold_reason == (
        "no route matches this reward of talkable (mug, A hat); add one to [[routes]] and release"
    )


PAYLOAD = {
    "reward": {"incentive_type": "rebate", "amount": Decimal("20.00"), "count": 3, "paid": True, "said": "True"},
    "tags": ["vip", 7],
    "items": [{"sku": "a"}, {"sku": "b"}],
}


@pytest.mark.parametrize(
    ("path", "wanted", "holds"),
    [
        ("payload.reward.incentive_type", "rebate", True),
        ("payload.reward.incentive_type", ["coupon", "rebate"], True),
        ("payload.reward.incentive_type", ["coupon"], False),
        ("payload.reward.incentive_type", "Rebate", False),
        ("payload.reward.amount", 20, True),
        ("payload.reward.amount", Decimal("20.0"), True),
        ("payload.reward.amount", "20.00", True),
        ("payload.reward.amount", 21, False),
        ("payload.reward.count", "3", True),
        ("payload.reward.count", True, False),
        ("payload.reward.paid", True, True),
        ("payload.reward.said", True, True),
        ("payload.reward.paid", 1, False),
        ("payload.reward.paid", False, False),
        ("payload.tags", "vip", True),
        ("payload.tags", 7, True),
        ("payload.tags", "gone", False),
        ("payload.items.1.sku", "b", True),
        ("payload.items.2.sku", "b", False),
        ("payload.reward.missing", "x", False),
        ("payload.reward.missing", "None", False),
        ("payload.reward.incentive_type.deeper", "rebate", False),
        ("payload", "x", False),
        ("order.recipient.email", "a@example.com", True),
        ("order.items.0.sku", "card", True),
        ("order.source", "talkable", True),
        ("nowhere", "x", False),
    ],
)
def test_a_condition_compares_a_path_with_one_value_or_several(path: str, wanted: Any, holds: bool) -> None:
    assert matches(route(when={path: wanted}), order(attributes=PAYLOAD)) is holds


def test_every_condition_must_hold() -> None:
    reward = order(attributes=PAYLOAD)
    both = {"payload.reward.incentive_type": "rebate", "payload.reward.amount": 20}
    assert matches(route(when=both), reward)
    assert not matches(route(when={**both, "payload.reward.count": 4}), reward)
    assert not matches(route(when=both, sources=["roster"]), reward)


@given(some.recursive(some.none() | some.booleans() | some.integers() | some.text(), some.lists), some.text())
def test_no_payload_breaks_a_condition(value: Any, path: str) -> None:
    reward = order(attributes={"a": value})
    assert matches(route(when={f"payload.a.{path}": "x", "payload.b": 1}), reward) is False


def test_a_product_of_a_sku_goes_before_the_route_and_the_item() -> None:
    found = route(value=Decimal(20), products={"mug": Product(product="MUG", value=Decimal(25)), "hat": Product()})
    items = [
        Item(sku="mug", value=Decimal(1), quantity=2),
        Item(sku="hat", value=Decimal(1)),
        Item(value=Decimal(1)),
    ]
    plan = route_order(order(*items), [found]).plan
    assert plan is not None
    assert plan.lines == (
        Line(product="MUG", value=Decimal(25), quantity=2),
        Line(product="CVS", value=Decimal(20)),
        Line(product="CVS", value=Decimal(20)),
    )


@pytest.mark.parametrize(
    ("changes", "item", "says"),
    [
        ({"product": None}, Item(sku="mug", value=Decimal(1)), 'route "cards" has no vendor product for SKU mug'),
        ({}, Item(sku="mug"), 'route "cards" has no value for mug, and the platform sent none'),
        ({}, Item(name="A mug"), 'route "cards" has no value for A mug'),
        ({}, Item(sku="mug", value=Decimal(0)), "the value of mug is 0; set one above 0"),
        ({"products": {"mug": Product(value=Decimal(0))}}, Item(sku="mug", value=Decimal(5)), "the value of mug is 0"),
    ],
)
def test_what_a_route_lacks_is_a_hold_that_says_how_to_free_it(changes: dict[str, Any], item: Item, says: str) -> None:
    routed = route_order(order(item), [route(**changes)])
    assert routed.plan is None
    assert routed.route == "cards"
    assert routed.hold_reason is not None
    assert says in routed.hold_reason
    assert "then release" in routed.hold_reason


def test_one_bad_item_holds_the_whole_reward() -> None:
    assert route_order(order(Item(sku="a", value=Decimal(5)), Item(sku="b")), [route()]).plan is None


@pytest.mark.parametrize(
    ("delivery", "recipient", "missing"),
    [
        (Delivery.DIGITAL, Recipient(email="a@example.com"), None),
        (Delivery.DIGITAL, Recipient(phone="+15550100"), None),
        (
            Delivery.DIGITAL,
            Recipient(name="Ann", address=HOME),
            "neither an e-mail address nor a phone number of the recipient is known",
        ),
        (Delivery.LINKS, Recipient(), None),
        (Delivery.PHYSICAL, Recipient(name="Ann", address=HOME), None),
        (Delivery.PHYSICAL, Recipient(address=HOME), "the postal address of the recipient lacks: name"),
        (
            Delivery.PHYSICAL,
            Recipient(name="Ann", address=HOME.model_copy(update={"city": None, "country": None})),
            "the postal address of the recipient lacks: city, country",
        ),
        (
            Delivery.PHYSICAL,
            Recipient(name="Ann"),
            "the postal address of the recipient lacks: street, city, postal code, country",
        ),
    ],
)
def test_what_is_missing_to_reach_the_recipient_is_named(
    delivery: Delivery, recipient: Recipient, missing: str | None
) -> None:
    assert unreachable(delivery, recipient) == missing
    routed = route_order(order(recipient=recipient), [route(delivery=delivery)])
    assert routed.plan is not None
    assert routed.unreachable == missing


def test_a_second_delivery_differs_where_it_says_something_else() -> None:
    first = order(recipient=Recipient(name="Ann", email="a@example.com", address=HOME))
    moved = HOME.model_copy(update={"line1": "2 Main St"})
    later = order(Item(sku="mug"), recipient=Recipient(email="b@example.com", address=moved))
    assert differences(first, later) == ["recipient.email", "recipient.address.line1", "items"]


def test_silence_and_repetition_are_no_differences() -> None:
    first = order(recipient=Recipient(name="Ann", email="a@example.com", address=HOME))
    assert differences(first, first) == []
    assert differences(first, order(recipient=Recipient(email="a@example.com"))) == []


def test_what_only_the_later_one_knows_completes_and_replaces_nothing() -> None:
    later = order(recipient=Recipient(email="a@example.com", name="Ann", address=HOME))
    assert differences(order(), later) == []
    assert completed(order().recipient, later.recipient) == later.recipient
    assert completed(Recipient(name="Bo"), Recipient(name="Ann", phone="+1")) == Recipient(name="Bo", phone="+1")


NARROW = {"payload.kind": ["a", "b"], "payload.paid": True}


@pytest.mark.parametrize(
    ("above", "last", "named"),
    [
        ([{}], {}, '"0" above it takes every reward of its sources; move it up, or remove it'),
        ([{}], {"when": NARROW}, '"0" above it takes every reward of its sources that its [routes.when] lets through'),
        ([{"sources": ["roster"]}, {"sources": ["talkable"]}], {}, '"0" and "1" above it take every reward'),
        ([{"sources": ["roster"]}], {"sources": ["roster"]}, '"0" above it takes'),
        ([{"when": {"payload.kind": ["b", "a", "c"]}}], {"when": NARROW}, '"0" above it takes'),
        ([{"sources": ["roster"]}], {}, None),
        ([{"sources": ["roster"]}], {"sources": ["talkable"]}, None),
        ([{"when": {"payload.kind": ["a"]}}], {"when": NARROW}, None),
        ([{"when": NARROW}], {}, None),
        ([{"when": {"payload.paid": 1}}], {"when": NARROW}, None),
        ([], {}, None),
    ],
)
def test_a_route_that_is_never_reached_is_named_with_those_above_it(
    above: list[dict[str, Any]], last: dict[str, Any], named: str | None
) -> None:
    routes = [route(name=str(number), **each) for number, each in enumerate(above)] + [route(name="last", **last)]
    found = list(never_reached(routes, ["talkable", "roster"]))
    assert len(found) == (named is not None)
    if named is not None:
        assert found[0].startswith('route "last" is never reached: ')
        assert named in found[0]


@pytest.mark.parametrize(
    ("wanted", "value", "holds"),
    [(True, True, True), (True, "true", True), ("true", "true", True), ("true", True, False), (["true"], True, False)],
)
def test_true_without_quotes_matches_both_and_in_quotes_only_the_text(
    wanted: object, value: object, holds: bool
) -> None:
    found = matches(route(when={"payload.paid": wanted}), order(attributes={"paid": value}))
    assert found is holds
