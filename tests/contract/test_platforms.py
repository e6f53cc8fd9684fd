"""What every platform must do with a webhook: the protocol `Platform`, first half (the other: test_platforms_calls.py).

Each test runs for each member of `reward_relay.platforms.PLATFORMS` with what `cases.py` has recorded of it. A new
platform writes no test of these; it records its webhooks, and a test that fails here names the file it fails on.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from contract.cases import NAME, PLATFORM_CASES, RECORDED, Event, PlatformCase
from contract.replay import texts
from reward_relay.contracts import InboundRequest, Informational, Parsed, Platform, RewardOrder, Withdrawn
from reward_relay.errors import Unauthenticated, Unreadable
from reward_relay.platforms import PLATFORMS
from reward_relay.states import Outcome
from reward_relay.vendors import VENDORS

OTHER_SECRET = "somebody-elses-secret"

platforms = pytest.mark.parametrize("case", PLATFORM_CASES, ids=lambda case: case.member)


def webhooks(wanted: Callable[[Event], bool] = lambda event: True) -> pytest.MarkDecorator:
    """The test once for each recorded webhook that is `wanted`."""
    found = [(case, event) for case in PLATFORM_CASES for event in case.events if wanted(event)]
    ids = [f"{case.member}-{event.name.removeprefix('event_')}" for case, event in found]
    return pytest.mark.parametrize(("case", "event"), found, ids=ids)


def receiver(case: PlatformCase, event: Event, **changes: Any) -> Platform:
    """The platform as the event wants it configured."""
    return case.adapter(**{**event.settings, **changes})


def stored(case: PlatformCase, event: Event) -> bytes:
    """The webhook's body as the relay keeps it."""
    return receiver(case, event).verify(event.inbound())


def parse(case: PlatformCase, event: Event, body: bytes) -> Parsed:
    """A body of the same kind as the event's, understood."""
    return receiver(case, event).parse(body, event.inbound().content_type)


def as_recorded(parsed: Parsed) -> dict[str, Any]:
    """What was understood, as a recorded file has it."""
    if isinstance(parsed, RewardOrder):
        return {"order": parsed.model_dump(mode="json")}
    kind = "withdrawn" if isinstance(parsed, Withdrawn) else "informational"
    return {kind: {"external_id": parsed.external_id}}


# --- every member is here --------------------------------------------------------------------------------


def test_every_registered_platform_has_recorded_cases() -> None:
    assert sorted(case.member for case in PLATFORM_CASES) == sorted(PLATFORMS)
    assert {folder.name for folder in RECORDED.iterdir()} == PLATFORMS.keys() | VENDORS.keys()


@platforms
def test_the_recorded_files_of_a_platform_are_complete(case: PlatformCase) -> None:
    deliveries = Counter(event.external_id for event in case.events if event.is_order)
    assert max(deliveries.values()) >= 2, "record one reward in two spellings, or delivered in two ways"
    assert any(not event.is_order for event in case.events), "record a webhook that asks for nothing"
    assert {event.secret for event in case.events} == set(case.settings["secrets"]), "record one of each secret"
    assert {closing.outcome for closing in case.closings} == {Outcome.FULFILLED, Outcome.REFUSED}
    assert {event.path for event in case.events} == {f"/webhooks/{NAME}"}


# --- whose webhook it is ---------------------------------------------------------------------------------


@webhooks()
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_recorded_webhook_is_accepted_wherever_its_secret_is_in_the_list(
    case: PlatformCase, event: Event, place: int
) -> None:
    secrets = [OTHER_SECRET, f"{OTHER_SECRET}-2"]
    secrets.insert(place, event.secret)
    assert receiver(case, event, secrets=secrets).verify(event.inbound())


def assert_refused(case: PlatformCase, platform: Platform, request: InboundRequest) -> None:
    with pytest.raises(Unauthenticated) as refused:
        platform.verify(request)
    said = f"{refused.value} {refused.value!r} {refused.value.detail}"
    assert f"sources.{NAME}" in said
    assert [secret for secret in (*case.secrets, OTHER_SECRET) if secret in said] == []


@webhooks()
@pytest.mark.parametrize("secrets", [[OTHER_SECRET], []], ids=["another secret", "no secret"])
def test_a_webhook_under_a_secret_that_is_not_configured_is_refused(
    case: PlatformCase, event: Event, secrets: list[str]
) -> None:
    assert_refused(case, receiver(case, event, secrets=secrets), event.inbound())


@webhooks()
def test_a_webhook_that_brings_no_proof_is_refused(case: PlatformCase, event: Event) -> None:
    assert_refused(case, receiver(case, event), event.without_secret())


@webhooks(lambda event: event.scheme == "signature")
@pytest.mark.parametrize("change", [lambda body: body.replace(b"1", b"2", 1), lambda body: body + b"0", lambda _: b""])
def test_a_signed_webhook_with_another_body_is_refused(
    case: PlatformCase, event: Event, change: Callable[[bytes], bytes]
) -> None:
    sent = event.inbound()
    assert change(sent.body) != sent.body
    assert_refused(case, receiver(case, event), InboundRequest(change(sent.body), sent.headers, sent.query))


@webhooks()
def test_what_is_stored_of_a_webhook_holds_no_secret(case: PlatformCase, event: Event) -> None:
    kept = stored(case, event).decode()
    assert [secret for secret in case.secrets if secret in kept] == []


# --- what it says ----------------------------------------------------------------------------------------


@webhooks()
def test_what_is_stored_of_a_webhook_parses_to_the_recorded_value(case: PlatformCase, event: Event) -> None:
    parsed = parse(case, event, stored(case, event))
    assert as_recorded(parsed) == event.parses_to
    if isinstance(parsed, RewardOrder):
        assert parsed.attributes, "routes would see nothing under payload."
    else:
        assert parsed.reason


@webhooks(lambda event: event.is_order)
def test_every_delivery_of_one_reward_has_the_same_external_id_and_items(case: PlatformCase, event: Event) -> None:
    twins = [each for each in case.events if each.is_order and each.external_id == event.external_id]
    orders = [parse(case, each, stored(case, each)) for each in (*twins, event, event)]
    assert {(order.external_id, order.items) for order in orders if isinstance(order, RewardOrder)} == {
        (event.external_id, getattr(orders[0], "items", None))
    }


def dirtied(value: Any, dirt: str) -> Any:
    """A JSON value with dirt at the end of each of its texts."""
    if isinstance(value, str):
        return value + dirt
    if isinstance(value, list):
        return [dirtied(each, dirt) for each in value]
    return {key: dirtied(each, dirt) for key, each in value.items()} if isinstance(value, dict) else value


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all texts in a JSON value."""
    if isinstance(value, str):
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, each in inner for leaf in leaves(each, (*path, key))]


def with_dirt_at(value: Any, path: tuple[Any, ...], dirt: str) -> Any:
    """A JSON value with dirt at the end of one of its texts."""
    if not path:
        return value + dirt
    copy = value.copy()
    copy[path[0]] = with_dirt_at(value[path[0]], path[1:], dirt)
    return copy


def is_json_order(event: Event) -> bool:
    return event.is_order and event.body.lstrip().startswith("{")


@webhooks(is_json_order)
def test_nul_characters_in_every_text_change_nothing(case: PlatformCase, event: Event) -> None:
    payload = json.loads(stored(case, event))
    assert as_recorded(parse(case, event, json.dumps(dirtied(payload, "\x00")).encode())) == event.parses_to


@webhooks(is_json_order)
def test_a_lone_surrogate_in_any_text_becomes_one_that_can_be_stored(case: PlatformCase, event: Event) -> None:
    payload, cleaned = json.loads(stored(case, event)), 0
    for path in leaves(payload):
        body = json.dumps(with_dirt_at(payload, path, "\ud800")).encode()
        try:
            parsed = parse(case, event, body)
        except Unreadable as unreadable:
            assert str(unreadable).encode()
            continue
        found = as_recorded(parsed)
        assert "\ud800" not in "".join(texts(found)) and json.dumps(found, ensure_ascii=False).encode()
        cleaned += found != event.parses_to
    assert cleaned, "no text of the payload reached the order"


# --- whatever comes --------------------------------------------------------------------------------------

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ODD = st.sampled_from(["\x00", "\ud800", ".."])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ODD
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
ANY_BYTES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


def assert_understood_or_unreadable(platform: Platform, body: bytes, content_type: str) -> None:
    try:
        parsed = platform.parse(body, content_type)
    except Unreadable as unreadable:
        assert str(unreadable).encode()
        return
    assert isinstance(parsed, RewardOrder | Withdrawn | Informational)
    assert json.dumps(as_recorded(parsed), ensure_ascii=False).encode()


@platforms
@UNHURRIED
@given(body=ANY_BYTES, content_type=st.sampled_from(["application/json", "application/x-www-form-urlencoded", ""]))
def test_whatever_bytes_come_are_understood_or_unreadable(case: PlatformCase, body: bytes, content_type: str) -> None:
    assert_understood_or_unreadable(case.adapter(), body, content_type)


@webhooks()
@settings(UNHURRIED, max_examples=50)
@given(data=st.data())
def test_a_webhook_damaged_anywhere_is_understood_or_unreadable(
    case: PlatformCase, event: Event, data: st.DataObject
) -> None:
    body = stored(case, event)
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(start + 40, len(body))))
    damage = data.draw(ANY_BYTES | st.sampled_from([b"null", b"[]", b"{}", b'"\\ud800"', b"1e400", b'"', b"}"]))
    assert_understood_or_unreadable(
        receiver(case, event), body[:start] + damage + body[end:], event.inbound().content_type
    )


@webhooks(is_json_order)
@settings(UNHURRIED, max_examples=50)
@given(data=st.data())
def test_a_webhook_with_any_value_in_any_place_is_understood_or_unreadable(
    case: PlatformCase, event: Event, data: st.DataObject
) -> None:
    payload = json.loads(stored(case, event))
    holder: Any = payload
    while True:
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.integers(0, 3)) == 0:
            break
        holder = holder[key]
    holder[key] = data.draw(JSON)
    assert_understood_or_unreadable(receiver(case, event), json.dumps(payload).encode(), event.inbound().content_type)


# --- settings --------------------------------------------------------------------------------------------


@platforms
def test_every_setting_of_a_platform_is_described(case: PlatformCase) -> None:
    fields = type(case.configured()).model_fields
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []


def secrets_in(settings: Any) -> set[str]:
    """The values of all secrets in an adapter's settings."""
    values = [value for _, value in settings]
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return {each.get_secret_value() for each in flat if isinstance(each, SecretStr)}


@platforms
def test_a_platform_and_its_settings_show_no_secret(case: PlatformCase) -> None:
    configured, adapter = case.configured(), case.adapter()
    assert secrets_in(configured) == set(case.secrets), "list in the case what nobody may see"
    shown = f"{configured!r} {configured} {configured.model_dump_json()} {adapter!r} {adapter} {vars(adapter)}"
    assert [secret for secret in case.secrets if secret in shown] == []
