"""Roster's words.

Documented (help centre, "Setting up product reward orders via webhook"): the `reward redeemed` webhook sends JSON with
shipping address, SKU and quantity. Names, envelope and statuses are not public; those here are the usual ones.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reward_relay.contracts import Informational, Parsed, RewardOrder, Withdrawn
from reward_relay.errors import Unreadable
from reward_relay.inbound import folded
from reward_relay.platforms.tolerant import Levels, Reader, event_name, has_lines, read_object, says, status_of, unwrap

ENVELOPES = ("order", "reward_order", "redemption", "reward_redemption", "data", "payload", "attributes")
IDS = ("order_id", "reward_order_id", "redemption_id", "reward_redemption_id")
PLAIN_IDS = ("id", "uuid")
LAST_IDS = ("reward_id",)
"""Last, because it may be the catalogue's id, which two redemptions share."""

REDEEMED = ("redeem", "redempt", "order")
WITHDRAWN = re.compile(r"cancell?ed|voided")
DONE = re.compile(r"(?<!un)(fulfilled|shipped|delivered)")

PLACEHOLDERS = ("external_id", "outcome", "status", "message")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read(body: bytes, source: str, fields: Mapping[str, str], event_types: Sequence[str]) -> Parsed:
    """What a webhook says.

    Raises:
        Unreadable: it is no reward order; the message names the missing field and its key in the settings.
    """
    payload = read_object(body)
    levels = unwrap(payload, ENVELOPES)
    reader = Reader(payload, source, fields)
    listed = has_lines(levels) or bool(fields.keys() & {"items", "sku", "item_name"})
    event = event_name(levels, flat_type=not listed)
    if event is not None and not _is_ours(event, event_types):
        key = f"sources.{source}.event_types"
        return Informational(f"the event is {event[:80]!r}; {key} names the events that place an order")
    return _reward(reader, levels, folded(event or ""), chosen=bool(event_types))


def _is_ours(event: str, event_types: Sequence[str]) -> bool:
    """Whether an event is about a redeemed reward; a withdrawal is, also where the customer lists events."""
    if WITHDRAWN.search(folded(event)) and says(event, (*REDEEMED, "reward")):
        return True
    return folded(event) in {folded(name) for name in event_types} if event_types else says(event, REDEEMED)


def _reward(reader: Reader, levels: Levels, event: str, *, chosen: bool) -> Parsed:
    """The reward, or what became of it: a status is one of the words, the name of an event contains one.

    An event that the customer has `chosen` places an order, whatever its name.
    """
    external_id = reader.external_id(levels, named=IDS, plain=PLAIN_IDS, last=LAST_IDS)
    status = folded(status_of(levels) or "")
    if withdrawn := WITHDRAWN.fullmatch(status) or WITHDRAWN.search(event):
        order = _order_if_readable(reader, levels, external_id)
        return Withdrawn(external_id, f"Roster says that the order is {withdrawn[0]}", order)
    if done := DONE.fullmatch(status) or (None if chosen else DONE.search(event)):
        return Informational(f"Roster says that the order is {done[0]} already; it was not ours to place", external_id)
    return _order(reader, levels, external_id)


def _order(reader: Reader, levels: Levels, external_id: str) -> RewardOrder:
    return reader.order(levels, external_id=external_id, items=reader.items(levels), attributes=levels[0].data)


def _order_if_readable(reader: Reader, levels: Levels, external_id: str) -> RewardOrder | None:
    try:
        return _order(reader, levels, external_id)
    except Unreadable:
        return None


def placeholders(template: Any) -> set[str]:
    """The `{words}` in the texts of a template."""
    if isinstance(template, str):
        return set(_PLACEHOLDER.findall(template))
    children = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return {word for child in children for word in placeholders(child)}


def filled(template: Any, values: Mapping[str, str]) -> Any:
    """A template with its placeholders replaced, once: what a value itself contains stays as it is."""
    if isinstance(template, str):
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)
    if isinstance(template, dict):
        return {key: filled(value, values) for key, value in template.items()}
    return [filled(value, values) for value in template] if isinstance(template, list) else template
