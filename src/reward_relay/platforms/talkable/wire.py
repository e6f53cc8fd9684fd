"""Talkable's reward webhook in its own words (Talkable documentation, Reward Webhook, Custom App and API 2).

Three shapes hold the same reward: the classic form with `payload` as JSON text, the same fields as one JSON object,
and the body that a customer designs for a Custom App, nested like a payload or flat.
"""

import codecs
import re
from collections.abc import Mapping
from typing import Any

from reward_relay.contracts import Address, Recipient, clean_text, read_json
from reward_relay.errors import Unreadable
from reward_relay.inbound import folded, pick, read_form, text_of

SIGNATURE_HEADER = "x-talkable-signature"
REWARD_WEBHOOK = "reward_web_hook"
COUPON, REBATE, OTHER = "discount_coupon", "rebate", "other"
PAID, UNPAID, VOIDED = "paid", "unpaid", "voided"
ADVOCATE_REASONS = frozenset({"signup", "shared", "referrer"})
FRIEND_REASONS = frozenset({"click", "referred"})
RECIPIENT_FIELDS = frozenset({"person", "email", "personemail", "recipientemail", "phone", "phonenumber"})
# The documented cURL call does not encode its form: there a plus is a plus, of a phone number for example.
_UNENCODED = re.compile(rb"(?:^|&)payload=(\{.*\})", re.DOTALL)
TEMPLATE_ADVICE = (
    'add to the body template of the Custom App: "reward_id" (the id of the reward), "email" (the e-mail address of '
    'the person who gets it) and "incentive_type"; "incentive_identifier", "reason" and "status" are understood as well'
)


def text(data: Any, *names: str) -> str | None:
    """The first of the named fields as clean text, None where it is missing, empty or no scalar."""
    found = clean_text(text_of(pick(data, *names)))
    return found if isinstance(found, str) else None


def is_json(body: bytes) -> bool:
    """Whether a body is a JSON object rather than a form; its content type is left out of it, being wrong too often."""
    return body.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n").startswith(b"{")


def read_fields(body: bytes) -> dict[str, Any]:
    """The outermost fields of a body.

    Raises:
        Unreadable: neither a form nor a JSON object.
    """
    if not is_json(body):
        form, unencoded = dict(read_form(body)), _UNENCODED.search(body)
        return form | {"payload": unencoded[1].decode("utf-8", "replace")} if unencoded else form
    fields = read_json(body)
    if not isinstance(fields, dict):
        raise Unreadable("the body is JSON, but no object; check the template of the Talkable Custom App")
    return fields


def other_webhook(fields: Mapping[str, Any]) -> str | None:
    """The type of a classic webhook that is not about rewards; None where it is, or where nothing says so."""
    if "payload" not in fields and "key" not in fields:
        return None
    kind = text(fields, "type")
    return None if kind is None or folded(kind) == folded(REWARD_WEBHOOK) else kind


def payload_of(fields: dict[str, Any], *, bare: bool) -> dict[str, Any]:
    """The payload, taken out of its envelope; `bare` says that the fields may be the payload themselves.

    Raises:
        Unreadable: no payload, or one that is no JSON object.
    """
    if bare and "payload" not in fields and "key" not in fields:
        return fields
    payload = fields.get("payload")
    if isinstance(payload, str):
        payload = read_json(payload)
    if not isinstance(payload, dict):
        raise Unreadable("there is no `payload` with a JSON object; Talkable's reward webhook carries the reward in it")
    return payload


class RewardEvent:
    """What one payload says of a reward and of the person who gets it; nothing here is checked yet."""

    def __init__(self, payload: dict[str, Any]) -> None:
        nested = payload.get("reward")
        self.payload = payload
        self.is_flat = not isinstance(nested, Mapping)
        self._reward = payload if self.is_flat else nested
        self._person = payload.get("person")

    @property
    def reward_id(self) -> str | None:
        """Talkable's id of the reward. A flat template has to say `reward_id`: its `id` could be anybody's."""
        return text(self._reward, "reward_id") if self.is_flat else text(self._reward, "id", "reward_id")

    @property
    def incentive_type(self) -> str | None:
        """The incentive's type in lower case; where a template leaves it out, what coupon and amount say."""
        named = text(self._reward, "incentive_type")
        if named is not None:
            return named.lower()
        if not self._names("coupon_code", "coupon"):
            return None
        if pick(self._reward, "coupon_code", "coupon") is not None:
            return COUPON
        return OTHER if self.amount is None else REBATE

    @property
    def status(self) -> str | None:
        """The status in lower case, None where a template leaves it out."""
        status = text(self._reward, "status")
        return None if status is None else status.lower()

    @property
    def reason(self) -> str | None:
        """Why the reward was given, which says whose it is."""
        return text(self._reward, "reason")

    @property
    def amount(self) -> str | None:
        """The money of a rebate, in major units."""
        return text(self._reward, "amount")

    @property
    def identifier(self) -> str | None:
        """The incentive's name for machines: the SKU of routes."""
        return text(self._reward, "incentive_identifier")

    @property
    def description(self) -> str | None:
        """The incentive's name for people."""
        names = ("incentive_description", "incentive_custom_description", "description")
        return text(self._reward, *names)

    @property
    def currency(self) -> str | None:
        """Currency of the purchase behind the reward, the only one that a payload names."""
        names = ("currency_iso_code", "currency")
        return text(self.payload.get("origin"), *names) or text(self.payload, *names)

    @property
    def names_nobody(self) -> bool:
        """Whether it is a flat template without any field for the person who gets the reward."""
        return self.is_flat and RECIPIENT_FIELDS.isdisjoint(folded(name) for name in self.payload)

    def recipient(self) -> Recipient:
        """The person who gets the reward; without an address where the payload names none."""
        person, payload = self._person, self.payload
        names = [self._personal("first_name"), self._personal("last_name")]
        properties = pick(person, "custom_properties") or pick(payload, "custom_properties") or payload
        return Recipient(
            name=" ".join(name for name in names if name) or text(person, "name", "full_name"),
            email=self._personal("email", "recipient_email", "person_email") or self._by_reason(),
            phone=self._personal("phone_number", "phone") or text(properties, "phone_number", "phone"),
            address=postal_address(properties),
        )

    def _personal(self, *names: str) -> str | None:
        return text(self._person, *names) or text(self.payload, *names)

    def _by_reason(self) -> str | None:
        """The address of the side the reason rewards: a friend's reward never goes to the advocate."""
        payload, reason = self.payload, (self.reason or "").lower()
        if reason in ADVOCATE_REASONS:
            return text(payload.get("advocate_origin"), "email") or text(payload.get("offer"), "email")
        if reason in FRIEND_REASONS:
            return text(payload.get("friend_origin"), "email")
        return None

    def _names(self, *names: str) -> bool:
        given = {folded(name) for name in self._reward or {}}
        return any(folded(name) in given for name in names)


def postal_address(properties: Any) -> Address | None:
    """The address among a person's custom properties, None where there is no street line.

    Talkable has no postal address of its own: these are the names that customers are likely to choose.
    """
    nested = pick(properties, "shipping_address", "postal_address", "address")
    fields = nested if isinstance(nested, Mapping) else properties
    line1 = text(fields, "address1", "address_line1", "line1", "street_address", "street", "address")
    if line1 is None:
        return None
    return Address(
        line1=line1,
        line2=text(fields, "address2", "address_line2", "line2"),
        city=text(fields, "city", "town"),
        state=text(fields, "state", "province", "region"),
        postal_code=text(fields, "zip", "zip_code", "postal_code", "postcode"),
        country=text(fields, "country", "country_code"),
    )
