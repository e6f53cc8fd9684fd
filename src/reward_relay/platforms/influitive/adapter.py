"""Reads Influitive's redemptions from webhook and open list, and fulfils or refuses them there."""

from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field, model_validator

from reward_relay.contracts import (
    ByHand,
    Closed,
    ClosingResult,
    Ending,
    InboundRequest,
    NothingToDo,
    OptionalText,
    OutboundRequest,
    Parsed,
    Recipient,
    RewardOrder,
    SourceSettings,
    Withdrawn,
)
from reward_relay.fields import HeaderSecret, HeaderText, HttpUrl
from reward_relay.inbound import check_token
from reward_relay.outbound import Outbound
from reward_relay.platforms.influitive import wire
from reward_relay.platforms.influitive.listing import Api
from reward_relay.platforms.tolerant import known_fields
from reward_relay.states import Outcome

PathWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Settings(SourceSettings):
    """`[sources.NAME]` with `platform = "influitive"`."""

    platform: Literal["influitive"] = Field(description="The loyalty platform: Influitive AdvocateHub.")
    api_url: HttpUrl = Field(default="https://api.influitive.com", description="Address of Influitive's API.")
    api_token: HeaderSecret | None = Field(
        default=None, description="Token of Influitive's API; without it redemptions are decided by hand in the hub."
    )
    org_id: HeaderText | None = Field(
        default=None, description="Id of your organisation at Influitive (a UUID), needed with the token."
    )
    fields: Annotated[dict[str, str], known_fields(*wire.FIELDS_HERE)] = Field(
        default={}, description="Where a field is in your payload if the relay does not find it: field = dotted path."
    )
    sku_key: Annotated[str, Field(min_length=1)] = Field(
        default="sku", description="Name of the entry in the Reward Metadata that holds the SKU."
    )
    confirm: bool = Field(
        default=False, description="Ask Influitive before each order is placed whether the redemption is still open."
    )
    refuse_path: PathWord = Field(default="refuse", description="Last word of the address that refuses a redemption.")
    fulfil_path: PathWord = Field(default="fulfill", description="Last word of the address that fulfils a redemption.")
    fulfil_message: OptionalText = Field(
        default=None, description="What the advocate reads about a fulfilled reward where the order has no message."
    )
    poll_every_s: float | None = Field(
        default=None,
        ge=10,
        le=86_400,
        description="Seconds between two readings of the open list; empty: webhook only.",
    )

    @model_validator(mode="after")
    def _asking_needs_credentials(self) -> "Settings":
        asks = [key for key in ("confirm", "poll_every_s") if getattr(self, key)]
        missing = [key for key in ("api_token", "org_id") if getattr(self, key) is None]
        if asks and missing:
            raise ValueError(f"{' and '.join(asks)} cannot work without {' and '.join(missing)}")
        return self


class Adapter:
    """One AdvocateHub; `name` is the source's name in the configuration."""

    enriches: Literal["never", "when_unreachable", "always"]

    def __init__(self, name: str, settings: Settings, outbound: Outbound) -> None:
        self._name = name
        self._settings = settings
        caller = outbound.caller(f"source {name}", settings.api_url)
        self._api = Api(caller, f"sources.{name}", settings.fields, settings.api_token, settings.org_id)
        if settings.confirm:
            self.enriches = "always"
        else:
            self.enriches = "never" if self._api.missing() else "when_unreachable"

    def verify(self, request: InboundRequest) -> bytes:
        """By the shared token; the body is stored verbatim.

        Raises:
            Unauthenticated: no token, or a wrong one.
        """
        check_token(request, self._name, self._settings.secrets)
        return request.body

    def parse(self, body: bytes, content_type: str) -> Parsed:
        """A webhook, or a body of `poll`: both give the same reward the same id.

        Raises:
            Unreadable: naming the missing field and its key in `fields`.
        """
        return wire.read(body, self._name, self._settings.fields, self._settings.sku_key)

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        """The order with the contact details of the open list; Withdrawn where the redemption is not open any more.

        Raises:
            CallFailed: the list could not be read, or not to its end.
        """
        if self._api.missing():
            return order
        entry = (await self._api.open_redemptions()).find(order.external_id)
        if entry is None:
            reason = "the redemption is no longer open in Influitive: it was decided or taken back there"
            return Withdrawn(order.external_id, reason, order)
        return _completed(order, wire.recipient_of(entry, self._name))

    async def poll(self) -> list[bytes]:
        """One body for each open redemption, with its contact.

        Raises:
            CallFailed: as `outbound` gives it.
        """
        if self._api.missing():
            return []
        return [wire.body_of(entry) for entry in (await self._api.open_redemptions()).entries]

    async def open_list(self) -> tuple[list[bytes], bool] | None:
        """The bodies of `poll`, and whether they are all there are; None without credentials.

        Raises:
            CallFailed: as `outbound` gives it.
        """
        if self._api.missing():
            return None
        found = await self._api.open_redemptions()
        return [wire.body_of(entry) for entry in found.entries], found.complete

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        """`POST /reward_redemptions/{id}/decision/…`, with a message where there is one."""
        if ending.outcome is Outcome.CANCELLED:
            return NothingToDo("Influitive took the redemption back, or a person ended it; there is nothing to decide")
        settings, fulfilled = self._settings, ending.outcome is Outcome.FULFILLED
        if missing := self._api.missing():
            todo = f"{'fulfil' if fulfilled else 'refuse'} redemption {order.external_id} in the AdvocateHub"
            return ByHand(f"{todo}; with {' and '.join(missing)} the relay would do it")
        message = ending.message or (settings.fulfil_message if fulfilled else None)
        decision = settings.fulfil_path if fulfilled else settings.refuse_path
        path = f"/reward_redemptions/{quote(order.external_id, safe='')}/decision/{decision}"
        return self._api.request("POST", path, {"message": message} if message else {})

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        """Decide the redemption. What a second decision does is not known: before a repeat the open list is read.

        Raises:
            CallFailed: PartyRefusesUs where Influitive refuses token or organisation; else the verdict.
        """
        request = self.preview_close(order, ending)
        if not isinstance(request, OutboundRequest):
            return request
        if again and (await self._api.open_redemptions()).find(order.external_id) is None:
            return Closed(f"redemption {order.external_id} is not open any more: it was already decided")
        answer = await self._api.send(request)
        return Closed(f"{request.method} {request.url} answered {answer.status}", answer.status, answer.kept())


def _completed(order: RewardOrder, listed: Recipient) -> RewardOrder:
    """What the order says goes first; an address is taken whole or not at all."""
    own = order.recipient
    has_address = own.address is not None and own.address.line1 is not None
    recipient = Recipient(
        name=own.name or listed.name,
        email=own.email or listed.email,
        phone=own.phone or listed.phone,
        address=own.address if has_address else listed.address or own.address,
    )
    return order.model_copy(update={"recipient": recipient})
