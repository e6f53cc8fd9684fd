"""What the core and the adapters say to each other: the canonical reward, the vendor order, and two protocols.

Adapters import this module, `errors` and `outbound`, and nothing else of ours; the core knows adapters only as
`Platform` and `Vendor`. Money is `Decimal` in major units of its currency (20 is twenty dollars), never float.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StringConstraints

from reward_relay.amounts import Caps
from reward_relay.amounts import Money as Money
from reward_relay.errors import Unreadable
from reward_relay.states import Outcome


def clean_text(value: object) -> object:
    """Text that PostgreSQL and JSON can hold: no NUL, no lone surrogates, no surrounding space; '' becomes None."""
    if not isinstance(value, str):
        return value
    if "\x00" in value:
        value = value.replace("\x00", "")
    return value.strip().encode("utf-8", "replace").decode() or None


Text = Annotated[str, BeforeValidator(clean_text)]
"""Text from outside, cleaned."""
OptionalText = Annotated[str | None, BeforeValidator(clean_text)]
"""The same where it may be missing; an empty text counts as missing."""
MAX_ITEMS, MAX_JSON_PARTS = 200, 20_000  # a megabyte of commas takes half a second to read: no reward has so many
Quantity = Annotated[int, Field(ge=1, le=10_000)]
"""How many of one thing."""


class Frozen(BaseModel):
    """A value. Unknown fields are passed over: a newer version may have stored the order that we read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Address(Frozen):
    """A postal address. `country` is as the platform gives it, preferably ISO 3166-1 alpha-2."""

    line1: OptionalText = None
    line2: OptionalText = None
    city: OptionalText = None
    state: OptionalText = None
    postal_code: OptionalText = None
    country: OptionalText = None


class Recipient(Frozen):
    """Whom the reward is for."""

    name: OptionalText = None
    email: OptionalText = None
    phone: OptionalText = None
    address: Address | None = None


class Item(Frozen):
    """One thing to send: the platform's own `sku`, a human `name`, and the face `value` of each piece."""

    sku: OptionalText = None
    name: OptionalText = None
    quantity: Quantity = 1
    value: Money | None = None
    currency: OptionalText = None


class RewardOrder(Frozen):
    """One redeemed reward, in the relay's own words.

    `external_id` is the platform's stable business key: two deliveries with the same key are the same reward.
    `reference` holds what the adapter needs later for its closing call (ids, never secrets).
    `attributes` is the payload as routes see it under `payload.`; it is not stored with the order.
    """

    source: str
    external_id: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    occurred_at: datetime | None = None
    recipient: Recipient = Recipient()
    items: tuple[Item, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    message: OptionalText = None
    reference: dict[str, str] = {}
    attributes: dict[str, Any] = Field(default={}, exclude=True, repr=False)


@dataclass(frozen=True, slots=True)
class Informational:
    """A payload that asks nothing of us; `reason` says why, for the person who wonders where the order is."""

    reason: str
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The platform takes a reward back. `order` is the reward as the payload describes it, where it does."""

    external_id: str
    reason: str
    order: RewardOrder | None = None


Parsed = RewardOrder | Informational | Withdrawn


@dataclass(frozen=True, slots=True)
class InboundRequest:
    """A webhook as it came: header names in lower case, the query's last value of each name, the exact bytes."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_json(text: bytes | str) -> Any:
    """JSON with exact decimals.

    Raises:
        Unreadable: not JSON, not UTF-8, nested too deeply, of too many parts, or with NaN or an absurdly long number.
    """
    if sum(map(text.count, ",[{") if isinstance(text, str) else map(text.count, b",[{")) > MAX_JSON_PARTS:
        raise Unreadable(f"the JSON has more than {MAX_JSON_PARTS} values; no reward has so many")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    def number(digits: str) -> Decimal:
        value = Decimal(digits)
        if not value.is_finite() or abs(value.adjusted()) > 40:
            raise ValueError("a number is out of every sensible range")
        return value

    try:
        return json.loads(text, parse_float=number, parse_constant=refuse)
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply to be a reward; check what posts to this URL") from None
    except (ValueError, ArithmeticError) as error:
        raise Unreadable(f"the body is not JSON ({error}); check the webhook's format setting") from None


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """One request to a party, complete but for what its client adds (bearer token).

    `secret_headers` are sent like `headers` and shown to nobody.
    """

    method: str
    url: str
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, SecretStr] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """The request for people: as it would be sent, secrets as stars."""
        headers = {**self.headers, **dict.fromkeys(self.secret_headers, "***")}
        return {"method": self.method, "url": self.url, "headers": headers, "json": self.json}


class Delivery(StrEnum):
    """How the vendor hands the reward over."""

    DIGITAL = "DigitalDelivery"
    LINKS = "Links"
    PHYSICAL = "PhysicalShipment"


class Line(Frozen):
    """One line of a vendor order: the vendor's `product`, face `value` of each piece, how many."""

    product: str
    value: Money
    quantity: Quantity = 1


class Plan(Frozen):
    """What routing decided: which vendor gets what. Stored with the order, so that every repeat sends the same."""

    route: str
    vendor: str
    delivery: Delivery
    lines: tuple[Line, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Placement:
    """All a vendor adapter needs to place one order."""

    plan: Plan
    recipient: Recipient
    callback_url: str
    message: str | None = None


class Progress(StrEnum):
    """What a vendor's status word means."""

    PENDING = "pending"
    FULFILLED = "fulfilled"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class VendorOrder:
    """An order as the vendor tells it.

    `word` is the vendor's own status word, `known` whether its documentation has it; `detail` is the vendor's
    reason for a refusal; `existed` says that it was there before this call; `status` is the HTTP status and
    `answer` what of the answer may be kept (never claim data); `amount` is the face value of all its lines, where told.
    """

    vendor_order_id: str
    progress: Progress
    word: str = ""
    known: bool = True
    detail: str | None = None
    existed: bool = False
    status: int | None = None
    answer: str = ""
    amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a reward ended, for the platform: `message` is for the person who redeemed it."""

    outcome: Outcome
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The platform has been told; `detail` says how."""

    detail: str
    status: int | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """There is nobody to tell; `detail` says why."""

    detail: str


@dataclass(frozen=True, slots=True)
class ByHand:
    """Only a person can tell the platform; `instruction` says where and what."""

    instruction: str


ClosingResult = Closed | NothingToDo | ByHand


def listed(value: object) -> object:
    """A list given as text, as environment variables do: `a,b` is two entries."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class PartySettings(BaseModel):
    """Base of every adapter's settings: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSettings(PartySettings):
    """What every `[sources.NAME]` has; adapters add their own keys.

    `max_in_flight` counts calls at a time; worker processes share it.
    """

    platform: str
    secrets: Annotated[list[SecretStr], BeforeValidator(listed)] = Field(
        default=[], description="Accepted webhook secrets, newest first; two of them rotate without a gap."
    )
    max_in_flight: int = Field(default=16, ge=1, le=1000, description="Calls to the platform at a time.")
    caps: Caps = Field(default=Caps(), description="[sources.NAME.caps]: what holds its orders instead of sending.")


class VendorSettings(PartySettings):
    """What every `[vendors.NAME]` has; adapters add their own keys."""

    kind: str
    max_in_flight: int = Field(default=16, ge=1, le=1000, description="Calls to the vendor at a time.")


class Platform(Protocol):
    """A loyalty platform: reads its webhooks, and tells it how a reward ended."""

    enriches: Literal["never", "when_unreachable", "always"]
    """When `enrich` is to be called before placing: never, only if the recipient cannot be reached, or always."""

    def verify(self, request: InboundRequest) -> bytes:
        """Authenticate a webhook over its raw bytes, in constant time.

        Returns:
            The body as it may be stored: verbatim, but for a secret of the platform's that travels in it.

        Raises:
            Unauthenticated: naming what is missing or wrong and the likely cause, never a secret.
        """
        ...

    def parse(self, body: bytes, content_type: str) -> Parsed:
        """Understand a body that `verify` returned, or that a person gives to `explain`.

        Raises:
            Unreadable: naming what the payload lacks and what the customer would have to add.
        """
        ...

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        """The order with what the webhook left out, or Withdrawn where the platform no longer wants it.

        Raises:
            CallFailed: as `outbound` gives it.
        """
        ...

    async def poll(self) -> list[bytes]:
        """Bodies, each one that `parse` understands, of rewards the platform still waits for.

        Raises:
            CallFailed: as `outbound` gives it.
        """
        ...

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        """What `close` would do, without doing it."""
        ...

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        """Tell the platform. Safe to repeat; `again` says that an earlier attempt may have reached it.

        Raises:
            CallFailed: as `outbound` gives it.
        """
        ...


class Vendor(Protocol):
    """A fulfilment vendor: places exactly one order for each key."""

    takes_key: bool
    """Whether a repeated `place` with the same key answers with the first order instead of making a second."""
    can_find: bool
    """Whether `find` works."""

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        """The request that `place` would send.

        Raises:
            Unreadable: the placement lacks what this vendor needs.
        """
        ...

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        """Place the order under `key` (at most 20 characters of A-Z, 0-9 and '-'), the same on every repeat.

        Raises:
            CallFailed: NotSent, Rejected (PartyRefusesUs where the account or key is refused), or Unknown.
        """
        ...

    async def find(self, key: str) -> VendorOrder | None:
        """The order placed under `key`, None where the vendor says that there is none.

        Raises:
            CallFailed: as for `place`.
        """
        ...

    async def check(self, vendor_order_id: str) -> VendorOrder:
        """How the order is doing.

        Raises:
            CallFailed: as for `place`.
        """
        ...


def as_number(amount: Decimal) -> int | float:
    """An amount as the number JSON should carry: 20 for 20.00, 20.5 for 20.50. Exact within `Money`'s 14 digits."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)
