"""Influitive's words.

Documented ("Creating a custom reward fulfillment integration"): webhook and list of open redemptions hold the reward's
metadata and an id, and with that id a redemption is fulfilled or refused. From public client code: the list's two keys
`reward_redemptions` and `contacts`, and the path of a decision. All other names here are assumed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from reward_relay.contracts import Informational, Item, Parsed, Recipient, read_json
from reward_relay.errors import Unreadable
from reward_relay.inbound import dig, folded
from reward_relay.platforms.tolerant import (
    FIELDS,
    NAMES,
    PEOPLE,
    Levels,
    Reader,
    View,
    event_name,
    first_of,
    objects,
    read_object,
    says,
    scalar,
    status_of,
    unwrap,
)

FIELDS_HERE = (*FIELDS, "metadata")
ENVELOPES = ("reward_redemption", "redemption", "data", "payload", "attributes")
IDS = ("redemption_id", "reward_redemption_id")
PLAIN_IDS = ("id", "uuid")
REWARDS = ("reward", "perk")
METADATA = ("metadata", "reward_metadata")
VALUES = ("value", "face_value", "amount")

REDEEMED = ("redeem", "redempt", "reward", "perk")
DECIDED = re.compile(r"(?<!un)fulfill?ed|refused|rejected|declined|cancell?ed")

Entry = Mapping[str, Any]
POLLED = frozenset({"reward_redemption", "contact", "reward"})
"""The keys of a body that `body_of` made."""


def read(body: bytes, source: str, fields: Mapping[str, str], sku_key: str) -> Parsed:
    """What a webhook, or one entry of the open list, says.

    Raises:
        Unreadable: it is no redemption; the message names the missing field and its key in the settings.
    """
    payload = read_object(body)
    levels = unwrap(payload, ENVELOPES)
    event = event_name(levels, flat_type=False)
    if event is not None and not says(event, REDEEMED):
        return Informational(f"the event is {event[:80]!r}, which is not about a redeemed reward")
    reader = Reader(payload, source, _paths(payload, fields))
    external_id = reader.external_id(levels, named=_ids(payload, fields), plain=PLAIN_IDS, last=())
    decided = DECIDED.fullmatch(folded(status_of(levels) or "")) or DECIDED.search(folded(event or ""))
    if decided:
        return Informational(f"Influitive says that the redemption is {decided[0]} already", external_id)
    metadata = _metadata(reader, levels)
    item = reader.items(levels) if "items" in reader.paths else (_item(reader, levels, View(metadata), sku_key),)
    attributes = {
        "redemption": levels[0].data,
        "reward": _first(objects(levels, REWARDS)),
        "contact": _first(objects(levels, PEOPLE)),
        "metadata": metadata,
    }
    return reader.order(levels, external_id=external_id, items=item, attributes=attributes)


def _first(found: Levels) -> Entry:
    return found[0].data if found else {}


def _is_polled(payload: Entry) -> bool:
    return "reward_redemption" in payload and payload.keys() <= POLLED


def _paths(payload: Entry, fields: Mapping[str, str]) -> Mapping[str, str]:
    """The paths that count. They are written for the webhook: in a polled body only those that lead somewhere."""
    if not _is_polled(payload):
        return fields
    return {field: path for field, path in fields.items() if dig(payload, path) is not None}


def _ids(payload: Entry, fields: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the id. Where the webhook's is configured, a polled one is looked up by the same last name."""
    if not _is_polled(payload) or "external_id" not in fields:
        return IDS
    return (fields["external_id"].rpartition(".")[2], *IDS)


def _metadata(reader: Reader, levels: Levels) -> dict[str, Any]:
    """The reward's metadata, over that of the redemption itself."""
    path = reader.paths.get("metadata")
    if path is not None:
        return _entries(dig(reader.payload, path))
    places = [*objects(levels, REWARDS), *levels]
    return {key: value for place in reversed(places) for key, value in _entries(place.raw(METADATA)).items()}


def _entries(raw: Any) -> dict[str, Any]:
    """Metadata as an object, as a list of keys and values, or as either in JSON text."""
    if isinstance(raw, str):
        try:
            raw = read_json(raw)
        except Unreadable:
            return {}
    if isinstance(raw, Mapping):
        return dict(raw)
    pairs = [View(entry) for entry in raw if isinstance(entry, Mapping)] if isinstance(raw, list) else []
    named = ((pair.text(("key", "name", "label")), pair.raw(("value",))) for pair in pairs)
    return {key: value for key, value in named if key is not None}


def _item(reader: Reader, levels: Levels, metadata: View, sku_key: str) -> Item:
    rewards = objects(levels, REWARDS)
    if "sku" in reader.paths:
        sku = scalar(reader.value("sku", ()))
    else:
        sku = metadata.text((sku_key,)) or first_of(rewards, (*NAMES["sku"], "code"))
        sku = sku or first_of(rewards, PLAIN_IDS) or first_of(levels, ("reward_id",))
    name = reader.text("item_name", rewards) or first_of(levels, ("reward_name", "reward_title"))
    return reader.item(
        "the redemption",
        sku=sku,
        name=name,
        quantity=reader.value("quantity", levels),
        value=reader.value("value", [metadata], names=VALUES),
        currency=scalar(reader.value("currency", [metadata])),
    )


# --- the list of open redemptions ------------------------------------------------------------------------


def open_entries(answer: Any) -> list[dict[str, Any]] | None:
    """The entries of the open list, each with its contact; None where the answer is no such list."""
    redemptions = answer.get("reward_redemptions") if isinstance(answer, Mapping) else None
    if not isinstance(redemptions, list):
        return None
    contacts, rewards = _by_id(answer.get("contacts")), _by_id(answer.get("rewards"))
    entries = []
    for redemption in redemptions:
        entry = {"reward_redemption": redemption, "contact": _referred(redemption, "contact", contacts)}
        reward = _referred(redemption, "reward", rewards)
        entries.append(entry if reward is None else {**entry, "reward": reward})
    return entries


def _by_id(listed: Any) -> dict[str, Entry]:
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    return {key: entry for entry in entries for key in _texts(View(entry), PLAIN_IDS)}


def _texts(view: View, names: Iterable[str]) -> set[str]:
    return {text for name in names if (text := view.text((name,))) is not None}


def _referred(redemption: Any, kind: str, known: Mapping[str, Entry]) -> Entry | None:
    """The contact (or reward) that a redemption names by `contact_id`, `contact` or `contact.id`."""
    if not isinstance(redemption, Mapping):
        return None
    view = View(redemption)
    named = _texts(view, (f"{kind}_id", f"{kind}_uuid", kind))
    named |= {key for inner in objects([view], (kind,)) for key in _texts(inner, PLAIN_IDS)}
    return next((known[key] for key in sorted(named) if key in known), None)


def is_about(entry: Entry, external_id: str, fields: Mapping[str, str]) -> bool:
    """Whether an entry of the open list is the redemption with this id or uuid."""
    redemption, names = entry["reward_redemption"], (*_ids(entry, fields), *PLAIN_IDS)
    return isinstance(redemption, Mapping) and external_id in _texts(View(redemption), names)


def recipient_of(entry: Entry, source: str) -> Recipient:
    """The recipient as the open list knows them."""
    return Reader(entry, source, {}).recipient(unwrap(entry, ENVELOPES))


def body_of(entry: Entry) -> bytes:
    """An entry as a body that `read` understands; the same entry always gives the same bytes."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def next_page(page: Entry) -> str | None:
    """The link (or number) of the next page; None where there is none, and '' where it cannot be made out."""
    view = View(page)
    for place in (view, *objects([view], ("links", "meta", "pagination"))):
        link = place.raw(("next", "next_page", "next_page_url", "next_url"))
        link = View(link).raw(("href", "url")) if isinstance(link, Mapping) else link
        if link is not None and link is not False:
            return scalar(link) or ""
    return None
