"""Voucherify's events in its own words (its documentation, EVENTS.CUSTOMER.REWARDED and Introduction to webhooks).

A webhook wraps its data in `id, project_id, created_at, type, data, source, event`; a distribution in raw mode sends
the data alone.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from reward_relay.contracts import Address, Recipient, clean_text, read_json
from reward_relay.errors import Unreadable
from reward_relay.inbound import dig, text_of

SIGNATURE_HEADER = "x-voucherify-signature"
ALREADY_ROLLED_BACK = "already_rolled_back"
SUCCEEDED = frozenset({"SUCCEEDED", "SUCCESS"})
ROLLED_BACK = "ROLLED_BACK"
MAX_ID_CHARS = 200
MAX_MARKS = 100_000
_ALREADY = re.compile(r"already.{0,20}roll(ed)?.{0,3}back", re.IGNORECASE | re.DOTALL)
# A string that never ends takes the rest of the body with it: looking for its end again and again would be quadratic.
_STRING_OR_SPACE = re.compile(rb'("(?:[^"\\]++|\\.)*+"?)|[ \t\r\n]+', re.DOTALL)


class Kind(StrEnum):
    """What an event means to us."""

    REWARDED = "rewarded"
    ROLLED_BACK = "rolled back"
    OTHER = "other"


def text(data: Any, *names: str) -> str | None:
    """The first of the named fields that holds a scalar, as clean text; None where there is none."""
    if not isinstance(data, Mapping):
        return None
    found = (clean_text(text_of(data.get(name))) for name in names)
    return next((each for each in found if isinstance(each, str)), None)


def at(data: Any, path: str) -> str | None:
    """The scalar at a dotted path as clean text, None where there is none."""
    return text({path: dig(data, path)}, path)


def _id(found: str | None) -> str | None:
    """An id as it may go into a URL's path; None for one that is absurdly long, or that a path reads as its parent."""
    return found if found and len(found) <= MAX_ID_CHARS and found.strip(".") else None


def compact(body: bytes) -> bytes:
    """JSON without insignificant white space, every other byte as it was; Voucherify signs this form.

    A body of more texts and gaps than any event has stays as it is: whoever posts it has not signed it either.
    """
    if body.count(b'"') + sum(map(body.count, (b" ", b"\n", b"\t", b"\r"))) > MAX_MARKS:
        return body
    return _STRING_OR_SPACE.sub(lambda found: found[1] or b"", body)


class Event:
    """One event: its `name` as Voucherify gives it (None in raw mode), what `kind` that is, and its `data`."""

    def __init__(self, name: str | None, data: dict[str, Any]) -> None:
        self.name = name
        self.data = data
        self.kind = _kind_of_data(data) if name is None else _kind_of_name(name)
        self.redemption = data.get("redemption")
        rewards = (dig(self.redemption, "reward"), data.get("reward"))
        # The official sample calls one reward CAMPAIGN at the top and MATERIAL under redemption: the latter is true.
        self.reward = next((each for each in rewards if isinstance(each, Mapping) and each), None)

    @property
    def redemption_id(self) -> str | None:
        """The redemption that was made, or that is rolled back."""
        made = _id(at(self.redemption, "id"))
        if self.kind is not Kind.ROLLED_BACK:
            return made
        paths = ("redemption_rollback.redemption.id", "redemption_rollback.redemption")
        return next((found for path in paths if (found := _id(at(self.data, path)))), made)

    @property
    def status(self) -> str | None:
        """Status or result of the redemption in upper case, the worse of them; None where it has neither."""
        words = [word.upper() for name in ("status", "result") if (word := text(self.redemption, name))]
        return next((word for word in words if word not in SUCCEEDED), words[0] if words else None)

    @property
    def reward_type(self) -> str | None:
        """MATERIAL, CAMPAIGN or COIN, in upper case."""
        kind = text(self.reward, "type")
        return None if kind is None else kind.upper()

    @property
    def sku(self) -> str | None:
        """The merchant's own product id, else Voucherify's id of the SKU, else that of the product."""
        paths = (
            "product.source_id",
            "parameters.product.sku_id",
            "product.sku_id",
            "product.id",
            "parameters.product.id",
        )
        return next((found for path in paths if (found := at(self.reward, path))), None)

    @property
    def product_name(self) -> str | None:
        """The product's name, else the reward's."""
        return at(self.reward, "product.name") or text(self.reward, "name")

    @property
    def customer(self) -> Any:
        """Who redeemed; the loyalty card's `holder` may be somebody else."""
        candidates = (self.data.get("customer"), dig(self.redemption, "customer"), dig(self.reward, "customer"))
        return next((each for each in candidates if isinstance(each, Mapping) and each), None)

    @property
    def occurred_at(self) -> datetime | None:
        """When the redemption was made, None where the date is missing or unreadable."""
        date = text(self.redemption, "date")
        try:
            moment = datetime.fromisoformat(date or "")
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            return None

    def reference(self) -> dict[str, str]:
        """The ids that the closing calls need."""
        ids = {
            "redemption_id": self.redemption_id,
            "order_id": _id(at(self.redemption, "order.id")),
            "customer_id": _id(text(self.customer, "id") or text(self.redemption, "customer_id")),
            "source_id": text(self.customer, "source_id"),
        }
        return {name: value for name, value in ids.items() if value is not None}


def read_event(body: bytes) -> Event:
    """The event of a body, with its envelope or without.

    Raises:
        Unreadable: not a JSON object, or one that is no event.
    """
    fields = read_json(body)
    if not isinstance(fields, dict):
        raise Unreadable("the body is JSON, but no object; an event of Voucherify's is one")
    data = fields.get("data")
    if "redemption" in fields or "data" not in fields:
        return Event(None, fields)
    name = text(fields, "type") or at(fields, "event.type")
    if not isinstance(data, dict) and name is None:
        raise Unreadable("`data` is no JSON object; an event of Voucherify's carries redemption and reward in it")
    return Event(name, data if isinstance(data, dict) else {})


def _kind_of_name(name: str) -> Kind:
    """By the documented names, however they are spelled: `customer.rewarded`, `EVENTS.CUSTOMER.REWARDED`.

    `customer.rewarded.loyalty_points` is another event: points were given, not spent.
    """
    word = re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("events")
    if "rollback" in word or "rolledback" in word:
        return Kind.OTHER if "fail" in word else Kind.ROLLED_BACK
    return Kind.REWARDED if word == "customerrewarded" else Kind.OTHER


def _kind_of_data(data: Mapping[str, Any]) -> Kind:
    rollback = data.get("redemption_rollback")
    if not isinstance(rollback, Mapping):
        return Kind.REWARDED
    return Kind.OTHER if "FAIL" in (text(rollback, "status", "result") or "").upper() else Kind.ROLLED_BACK


def recipient_of(customer: Any) -> Recipient:
    """The person behind a customer object, of an event or of `GET /v1/customers/{id}`."""
    return Recipient(
        name=text(customer, "name"),
        email=text(customer, "email"),
        phone=text(customer, "phone"),
        address=_address(dig(customer, "address")),
    )


def _address(address: Any) -> Address | None:
    """None where there is no street line: a country alone is no address."""
    line1 = text(address, "line_1")
    if line1 is None:
        return None
    return Address(
        line1=line1,
        line2=text(address, "line_2"),
        city=text(address, "city"),
        state=text(address, "state"),
        postal_code=text(address, "postal_code"),
        country=text(address, "country"),
    )


def says_already_rolled_back(answer: Any) -> bool:
    """Whether an error answer says that the redemption is rolled back already.

    Its `key` is documented; `message` and `details` are texts that a project may have changed.
    """
    words = (text(answer, name) for name in ("key", "failure_code", "message", "details"))
    return any(word == ALREADY_ROLLED_BACK or _ALREADY.search(word or "") for word in words)


def failure_in(answer: Any) -> str | None:
    """What a 2xx answer to a rollback says went wrong, None where it worked."""
    if (text(answer, "result") or "").upper() != "FAILURE":
        return None
    return text(answer, "failure_message", "failure_code") or "without a reason"
