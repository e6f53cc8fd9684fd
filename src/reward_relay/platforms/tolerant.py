"""Reads payloads that are not described in public: the source's `fields` table first, then the usual spellings.

A payload is seen as *levels*: the objects wrapped in one another, innermost first. What an inner level says goes
before what an outer one says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from reward_relay.contracts import MAX_ITEMS, Address, Item, Money, Recipient, RewardOrder, clean_text, read_json
from reward_relay.errors import Unreadable
from reward_relay.inbound import dig, folded, quoted_number, text_of

ADDRESS_FIELDS = ("line1", "line2", "city", "state", "postal_code", "country")
ITEM_FIELDS = ("sku", "item_name", "quantity", "value", "currency")
FIELDS = ("external_id", "occurred_at", "name", "email", "phone", *ADDRESS_FIELDS, "items", *ITEM_FIELDS, "message")

NAMES: dict[str, tuple[str, ...]] = {
    "occurred_at": ("redeemed_at", "occurred_at", "requested_at", "ordered_at", "created_at", "timestamp", "date"),
    "name": ("full_name", "recipient_name", "customer_name", "contact_name", "ambassador_name", "member_name"),
    "email": ("email", "email_address", "recipient_email", "customer_email", "contact_email", "ambassador_email"),
    "phone": ("phone", "phone_number", "telephone", "mobile", "mobile_phone", "recipient_phone", "customer_phone"),
    "line1": ("line1", "address_line1", "address1", "street_address", "street", "street1", "address"),
    "line2": ("line2", "address_line2", "address2", "street2", "apartment", "suite"),
    "city": ("city", "town", "locality"),
    "state": ("state_code", "province_code", "state", "province", "region"),
    "postal_code": ("postal_code", "zip", "zip_code", "postcode", "zip_postal_code"),
    "country": ("country_code", "country_iso", "country"),
    "sku": ("sku", "product_sku", "variant_sku", "item_sku", "sku_code"),
    "item_name": ("product_name", "item_name", "reward_name", "product_title", "title", "name"),
    "quantity": ("quantity", "qty"),
    "value": ("face_value", "value", "unit_price", "price", "amount"),
    "currency": ("currency", "currency_code"),
    "message": ("gift_message", "personal_message", "message"),
}
"""How each canonical field may be spelled, the surest first; letter case, `_`, `-` and spaces do not count."""

FIRST_NAMES, LAST_NAMES = ("first_name", "given_name"), ("last_name", "family_name", "surname")
ADDRESSES = ("shipping_address", "delivery_address", "ship_to", "shipping", "recipient_address", "address")
PEOPLE = ("recipient", "ambassador", "advocate", "contact", "member", "customer", "user")
LISTS = ("items", "line_items", "order_items", "products", "rewards")
SINGLES = ("item", "product", "variant", "reward")
EVENTS = ("event", "event_type", "event_name", "topic")
STATUSES = ("status", "order_status", "redemption_status", "fulfillment_status")

T = TypeVar("T")
_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)
_MONEY: TypeAdapter[Decimal] = TypeAdapter(Money)


def known_fields(*known: str) -> AfterValidator:
    """The check of a `fields` table: each key is a field of ours, each value a dotted path."""

    def check(paths: dict[str, str]) -> dict[str, str]:
        unknown = sorted(paths.keys() - set(known))
        if unknown:
            raise ValueError(f"unknown field {', '.join(unknown)}; the relay knows {', '.join(known)}")
        for field, path in paths.items():
            if not all(part.strip() for part in path.split(".")):
                raise ValueError(f"{field} needs a dotted path into the payload, such as data.order.{field}")
        return paths

    return AfterValidator(check)


# --- objects and levels ----------------------------------------------------------------------------------


class View:
    """One object of a payload, its fields found however their names are spelled. Empty ones count as missing."""

    __slots__ = ("_fields", "_views", "data")

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self._fields = {folded(name): value for name, value in data.items() if value not in (None, "", {}, [])}
        self._views: dict[str, View] = {}

    def raw(self, names: Iterable[str]) -> Any:
        """The value of the first of `names` that is there."""
        return next((self._fields[key] for key in map(folded, names) if key in self._fields), None)

    def text(self, names: Iterable[str]) -> str | None:
        """The first of `names` that holds a text or number."""
        found = (scalar(self._fields.get(folded(name))) for name in names)
        return next((text for text in found if text is not None), None)

    def listed(self, names: Iterable[str]) -> list[Any] | None:
        """The first of `names` that holds a list."""
        found = (self._fields.get(folded(name)) for name in names)
        return next((value for value in found if isinstance(value, list)), None)

    def object(self, name: str) -> "View | None":
        """The object under a name."""
        key = folded(name)
        if key not in self._views and isinstance(self._fields.get(key), Mapping):
            self._views[key] = View(self._fields[key])
        return self._views.get(key)


Levels = Sequence[View]


def read_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        Unreadable: it is none.
    """
    payload = read_json(body)
    if not isinstance(payload, dict):
        raise Unreadable("the body is JSON but not an object; check the webhook's format setting")
    return payload


def unwrap(payload: Mapping[str, Any], envelopes: Sequence[str]) -> list[View]:
    """The levels of a payload: what is found under `envelopes`, at most three deep, innermost first."""
    levels = [View(payload)]
    while len(levels) <= 3 and (inner := objects(levels[:1], envelopes)):
        levels.insert(0, inner[0])
    return levels


def objects(places: Iterable[View], names: Sequence[str]) -> list[View]:
    """The objects found under `names` in each of `places`."""
    return [found for place in places for name in names if (found := place.object(name)) is not None]


def scalar(value: Any) -> str | None:
    """A text or number as clean text; None for anything else, and for blanks."""
    text = clean_text(text_of(value))
    return text if isinstance(text, str) else None


def first_of(places: Iterable[View], names: Sequence[str]) -> str | None:
    """The text of the first of `places` that has one of `names`."""
    return next((text for place in places if (text := place.text(names)) is not None), None)


def event_name(levels: Levels, *, flat_type: bool) -> str | None:
    """What the payload calls itself, outermost first.

    `type` counts on an object that wraps another; on a flat one it may be the reward's, so the caller says.
    """
    for level in reversed(levels):
        names = (*EVENTS, "type") if flat_type or level is not levels[0] else EVENTS
        found = level.text(names) or first_of(objects([level], EVENTS), ("type", "name"))
        if found is not None:
            return found
    return None


def status_of(levels: Levels) -> str | None:
    """The platform's status word, of the innermost level that has one."""
    return first_of(levels, STATUSES)


def says(text: str, words: Iterable[str]) -> bool:
    """Whether one of `words` (folded) is part of `text`, however that is spelled."""
    plain = folded(text)
    return any(word in plain for word in words)


def has_lines(levels: Levels) -> bool:
    """Whether a payload says what to send, under one of the usual names."""
    return _listed(levels) is not None or _single(levels) is not None


def _listed(levels: Levels) -> list[Any] | None:
    return next((found for level in levels if (found := level.listed(LISTS)) is not None), None)


def _single(levels: Levels) -> View | None:
    """The one thing to send: an object of its own, else the order itself where it has a SKU."""
    places = (*objects(levels, (*SINGLES, *LISTS)), *levels)
    return next((place for place in places if _sku(place) is not None), None)


def _sku(entry: View) -> str | None:
    places = (entry, *objects([entry], SINGLES))
    return first_of(places, NAMES["sku"]) or first_of(places, ("product_id",))


def _full_name(place: View, *, bare: bool) -> str | None:
    """A person's name in `place`; `bare` says that a field called just `name` is one."""
    parts = [part for names in (FIRST_NAMES, LAST_NAMES) if (part := place.text(names))]
    return place.text(NAMES["name"]) or " ".join(parts) or (place.text(("name",)) if bare else None)


# --- the canonical reward --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reader:
    """One payload of one source; `paths` is the source's `fields` table."""

    payload: Mapping[str, Any]
    source: str
    paths: Mapping[str, str]

    def text(self, field: str, places: Iterable[View]) -> str | None:
        """The text of a canonical field: at its configured path, else in the first of `places` that has it."""
        path = self.paths.get(field)
        return first_of(places, NAMES[field]) if path is None else scalar(dig(self.payload, path))

    def value(self, field: str, places: Iterable[View], *, names: Sequence[str] = (), start: Sequence[Any] = ()) -> Any:
        """The raw value of a canonical field, likewise; its path leads from the first of `start` that has it."""
        path = self.paths.get(field)
        if path is not None:
            found = (dig(origin, path) for origin in start or (self.payload,))
        else:
            found = (place.raw(names or NAMES[field]) for place in places)
        return next((value for value in found if value is not None), None)

    def external_id(self, levels: Levels, *, named: Sequence[str], plain: Sequence[str], last: Sequence[str]) -> str:
        """The business key: under a `named` field of any level, else a `plain` one, else one of the `last` resort.

        The `plain` ones (`id`) do not count on the outermost envelope: there they are the event's, and each
        delivery of the same reward may have another.

        Raises:
            Unreadable: there is none, or none at the configured path.
        """
        path, key = self.paths.get("external_id"), self._where("external_id")
        if path is None:
            found = first_of(levels, named) or first_of(levels[:-1] or levels, plain) or first_of(levels, last)
            problem = f"no id of the reward was found (looked for {', '.join((*named, *plain, *last))})"
        else:
            found = scalar(dig(self.payload, path))
            problem = f"there is no id at {path!r}, where {key} expects it"
        if found is None or not found.strip("."):
            raise Unreadable(f"{problem}; name its place in {key}")
        if len(found) > 200:
            raise Unreadable(f"the reward's id has {len(found)} characters, more than any id; name another in {key}")
        return found

    def order(
        self, levels: Levels, *, external_id: str, items: Sequence[Item], attributes: Mapping[str, Any]
    ) -> RewardOrder:
        """The canonical reward.

        Raises:
            Unreadable: more items than any reward has.
        """
        try:
            return RewardOrder(
                source=self.source,
                external_id=external_id,
                occurred_at=self._occurred_at(levels),
                recipient=self.recipient(levels),
                items=tuple(items),
                message=self.text("message", levels[:1]),
                attributes=dict(attributes),
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Unreadable(f"{place}: {first['msg']}; is this the webhook of a single reward?") from None

    def _occurred_at(self, levels: Levels) -> datetime | None:
        """In UTC, and taken as UTC where no zone is given; None where no time can be read."""
        text = self.text("occurred_at", levels)
        try:
            found = _TIME.validate_python((text or "").replace(" UTC", "Z"))
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValidationError, OverflowError):
            return None

    def recipient(self, levels: Levels) -> Recipient:
        """Whom it goes to. All parts of the address come from one object, so that two are never mixed."""
        people = objects(levels, PEOPLE)
        address = _address_place(levels, people)
        places = (address, *people, *levels)
        parts = {field: self.text(field, [address]) for field in ADDRESS_FIELDS}
        return Recipient(
            name=self._name(address, people, levels),
            email=self.text("email", places),
            phone=self.text("phone", places),
            address=Address(**parts) if any(parts.values()) else None,
        )

    def _name(self, address: View, people: Levels, levels: Levels) -> str | None:
        """On the order itself a bare `name` is a person's only where the address is too, and no SKU."""
        if "name" in self.paths:
            return self.text("name", ())
        for place in (address, *people, *levels):
            bare = place not in levels or (place is address and _sku(place) is None)
            if name := _full_name(place, bare=bare):
                return name
        return None

    def items(self, levels: Levels) -> tuple[Item, ...]:
        """What to send. Configured paths of an item's fields start at the item where the payload has a list.

        Raises:
            Unreadable: nothing to send was found, or an item does not say what or how many.
        """
        listed, entries = self._entries(levels)
        if len(entries) > MAX_ITEMS:
            raise Unreadable(f"the reward has {len(entries)} items, more than {MAX_ITEMS}; is this a single reward?")
        of_order = levels if len(entries) == 1 else ()
        return tuple(self._item(entry, f"items.{n}", listed, of_order, levels) for n, entry in enumerate(entries))

    def _entries(self, levels: Levels) -> tuple[bool, list[Any]]:
        path = self.paths.get("items")
        if path is not None:
            found = dig(self.payload, path)
            if not found or not isinstance(found, list | Mapping):
                raise Unreadable(f"there is nothing to send at {path!r}; correct {self._where('items')}")
            return isinstance(found, list), found if isinstance(found, list) else [found]
        entries = _listed(levels)
        if entries is not None:
            return True, entries
        single = _single(levels)
        if single is None and not self.paths.keys() & {"sku", "item_name"}:
            raise Unreadable(
                f"nothing to send was found (looked for {', '.join((*LISTS, *SINGLES))} and a SKU); name the place of "
                f"the list in {self._where('items')}, or of a single SKU in {self._where('sku')}"
            )
        return False, [(levels[0] if single is None else single).data]

    def _item(self, data: Any, where: str, listed: bool, of_order: Levels, levels: Levels) -> Item:
        if not isinstance(data, Mapping):
            raise Unreadable(f"{where} is not an object; name the list of items in {self._where('items')}")
        entry, start = View(data), (data,) if listed else (data, self.payload)
        inside = objects([entry], SINGLES)
        sku = scalar(self.value("sku", (), start=start)) if "sku" in self.paths else _sku(entry)
        return self.item(
            where,
            sku=sku,
            name=scalar(self.value("item_name", (entry, *inside), start=start)),
            quantity=self.value("quantity", (entry, *of_order), start=start),
            value=self.value("value", (entry, *inside), start=start),
            currency=scalar(self.value("currency", (entry, *inside, *levels), start=start)),
        )

    def item(
        self, where: str, *, sku: str | None, name: str | None, quantity: Any, value: Any, currency: str | None
    ) -> Item:
        """An item out of raw values; `where` names it in messages.

        Raises:
            Unreadable: neither SKU nor name, or a quantity or value that is none.
        """
        if sku is None and name is None:
            raise Unreadable(f"{where} has neither SKU nor name; name the place of the SKU in {self._where('sku')}")
        if isinstance(value, Mapping):
            price = View(value)
            value, currency = price.raw(("amount", "value")), price.text(NAMES["currency"]) or currency
        amount = self._checked(_amount, value, where, "value", "an amount such as 25 or 25.00")
        count = self._checked(_count, quantity, where, "quantity", "a whole number from 1 to 10000")
        return Item(sku=sku, name=name, quantity=count, value=amount, currency=currency)

    def _checked(self, read: Callable[[Any], T], raw: Any, where: str, field: str, wanted: str) -> T:
        try:
            return read(raw)
        except (ValueError, ArithmeticError):
            raise Unreadable(
                f"{where}.{field} is {quoted_number(raw)}, not {wanted}; correct it on the platform, or "
                f"name its place in {self._where(field)}"
            ) from None

    def _where(self, field: str) -> str:
        return f"sources.{self.source}.fields.{field}"


def _address_place(levels: Levels, people: Levels) -> View:
    """The first object with a street, else with a town; an empty one where there is none."""
    outer = [*objects(levels, ADDRESSES), *objects(people, ADDRESSES)]
    places = [*outer, *objects(outer, ADDRESSES), *people, *levels]
    for names in (NAMES["line1"], (*NAMES["city"], *NAMES["postal_code"])):
        found = next((place for place in places if place.text(names) is not None), None)
        if found is not None:
            return found
    return View({})


def _count(raw: Any) -> int:
    number = Decimal(1) if raw is None else Decimal(scalar(raw) or "")
    if not 1 <= number <= 10_000 or number != number.to_integral_value():
        raise ValueError("not a count")
    return int(number)


def _amount(raw: Any) -> Decimal | None:
    """A currency sign before the number is dropped; the currency has its own field."""
    return None if raw is None else _MONEY.validate_python((scalar(raw) or "").lstrip("$€£ "))
