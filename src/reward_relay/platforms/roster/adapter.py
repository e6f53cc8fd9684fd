"""Reads Roster's `reward redeemed` webhook, and tells its orders endpoint how a reward ended."""

import json
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from reward_relay.contracts import (
    ByHand,
    Closed,
    ClosingResult,
    Ending,
    InboundRequest,
    NothingToDo,
    OutboundRequest,
    Parsed,
    RewardOrder,
    SourceSettings,
    Withdrawn,
)
from reward_relay.errors import PartyRefusesUs, Rejected, Unauthenticated
from reward_relay.fields import HeaderSecret, HeaderText, HttpUrl, TextList
from reward_relay.inbound import check_signature, check_token
from reward_relay.outbound import Outbound
from reward_relay.platforms.roster import wire
from reward_relay.platforms.tolerant import FIELDS, known_fields
from reward_relay.states import Outcome

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def _template(value: Any) -> Any:
    unknown = wire.placeholders(value) - set(wire.PLACEHOLDERS)
    if unknown:
        known = ", ".join(f"{{{word}}}" for word in wire.PLACEHOLDERS)
        raise ValueError(f"unknown placeholder {', '.join(sorted(unknown))}; the relay knows {known}")
    return value


class Settings(SourceSettings):
    """`[sources.NAME]` with `platform = "roster"`."""

    platform: Literal["roster"] = Field(description="The loyalty platform: Roster.")
    api_url: HttpUrl = Field(default="https://api.getroster.com", description="Address of Roster's API.")
    api_token: HeaderSecret | None = Field(
        default=None, description="Private token of Roster's API; without it orders are closed by hand in Roster."
    )
    auth_header: HeaderName = Field(default="Authorization", description="Header in which Roster wants its token.")
    auth_scheme: Literal[""] | HeaderText = Field(
        default="Bearer", description='Word before the token; "" sends the token alone.'
    )
    signature_header: HeaderName | None = Field(
        default=None, description="Header with an HMAC-SHA256 of the body; if set, it is checked instead of a token."
    )
    signature_encoding: Literal["hex", "base64"] = Field(default="hex", description="How that signature is written.")
    fields: Annotated[dict[str, str], known_fields(*FIELDS)] = Field(
        default={}, description="Where a field is in your payload if the relay does not find it: field = dotted path."
    )
    event_types: TextList = Field(
        default=[], description="Names of the events that place an order; empty: all about redeemed rewards or orders."
    )
    close_method: Literal["PUT", "POST", "PATCH"] = Field(
        default="PUT", description="HTTP method of the closing call; it may be repeated, so it must bear that."
    )
    close_path: Annotated[str, Field(pattern=r"^/[!-~]*$"), AfterValidator(_template)] = Field(
        default="/v2/orders/{external_id}", description="Path of the closing call; may hold placeholders."
    )
    close_headers: dict[HeaderName, HeaderText] = Field(
        default={}, description="More headers of the closing call; people see them, so no secrets here."
    )
    close_body: Annotated[dict[str, Any] | None, AfterValidator(_template)] = Field(
        default=None, description="JSON body of the closing call, texts with placeholders; default: status and note."
    )
    fulfilled_status: str = Field(default="fulfilled", description="Roster's status word for a delivered order.")
    refused_status: str = Field(default="cancelled", description="Roster's status word for a refused order.")

    @field_validator("close_body")
    @classmethod
    def _body_is_json(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it cannot be sent as JSON ({error}); put dates and the like in quotes") from None
        return value

    @model_validator(mode="after")
    def _closing_call_names_the_order(self) -> "Settings":
        if "external_id" not in wire.placeholders([self.close_path, self.close_body or {}]):
            raise ValueError(
                "close_path or close_body must hold {external_id}, or Roster cannot know which order it is"
            )
        if self.auth_header.lower() in {name.lower() for name in self.close_headers}:
            raise ValueError(f"{self.auth_header} cannot be in close_headers; put the token in api_token")
        return self


class Adapter:
    """One Roster account; `name` is the source's name in the configuration."""

    enriches: Literal["never", "when_unreachable", "always"] = "never"

    def __init__(self, name: str, settings: Settings, outbound: Outbound) -> None:
        self._name = name
        self._settings = settings
        self._caller = outbound.caller(f"source {name}", settings.api_url)

    def verify(self, request: InboundRequest) -> bytes:
        """By `signature_header` if configured, else by the shared token; the body is stored verbatim.

        Raises:
            Unauthenticated: naming what is missing or wrong.
        """
        if self._settings.signature_header is None:
            check_token(request, self._name, self._settings.secrets)
        else:
            self._check_signature(request, self._settings.signature_header)
        return request.body

    def _check_signature(self, request: InboundRequest, header: str) -> None:
        given = request.headers.get(header.lower(), "").strip().removeprefix("sha256=")
        if not given:
            raise Unauthenticated(
                f"no signature in header {header}, which sources.{self._name}.signature_header asks for; if the "
                "platform does not sign, remove that key and let it send a token"
            )
        encoding = self._settings.signature_encoding
        given = given.lower() if encoding == "hex" else given
        if not check_signature(given, [request.body], self._settings.secrets, encoding):
            raise Unauthenticated(
                f"the signature in {header} fits none of sources.{self._name}.secrets; check the secret on both sides, "
                f"that signature_encoding is {encoding}, and that nothing in between rewrites the body"
            )

    def parse(self, body: bytes, content_type: str) -> Parsed:
        """A redeemed reward, a cancelled one, or news about something else.

        Raises:
            Unreadable: naming the missing field and its key in `fields`.
        """
        return wire.read(body, self._name, self._settings.fields, self._settings.event_types)

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        """The order as it is: the webhook says all that Roster knows."""
        return order

    async def poll(self) -> list[bytes]:
        """Nothing: Roster sends webhooks."""
        return []

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        """The configured closing call, by default `PUT /v2/orders/{external_id}`."""
        if ending.outcome is Outcome.CANCELLED:
            return NothingToDo("Roster took the order back, or a person ended it; there is nothing to tell Roster")
        settings = self._settings
        status = settings.fulfilled_status if ending.outcome is Outcome.FULFILLED else settings.refused_status
        if settings.api_token is None:
            return ByHand(
                f"set order {order.external_id} to {status!r} in Roster; with sources.{self._name}.api_token the relay "
                "would do it"
            )
        values = {
            "external_id": order.external_id,
            "outcome": ending.outcome.value,
            "status": status,
            "message": ending.message or "",
        }
        path = wire.filled(settings.close_path, {key: quote(value, safe="") for key, value in values.items()})
        token = f"{settings.auth_scheme} {settings.api_token.get_secret_value()}".strip()
        return OutboundRequest(
            settings.close_method,
            self._caller.url(path),
            json=self._body(ending, values),
            headers=settings.close_headers,
            secret_headers={settings.auth_header: SecretStr(token)},
        )

    def _body(self, ending: Ending, values: dict[str, str]) -> Any:
        if self._settings.close_body is not None:
            return wire.filled(self._settings.close_body, values)
        note = {"note": ending.message} if ending.outcome is Outcome.REFUSED and ending.message else {}
        return {"status": values["status"], **note}

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        """Send the closing call. It sets a status, so a repeat changes nothing.

        Raises:
            CallFailed: PartyRefusesUs where Roster refuses the token; else the verdict.
        """
        request = self.preview_close(order, ending)
        if not isinstance(request, OutboundRequest):
            return request
        try:
            answer = await self._caller.send(request)
        except Rejected as failure:
            raise self._explained(failure) from None
        return Closed(f"{request.method} {request.url} answered {answer.status}", answer.status, answer.kept())

    def _explained(self, failure: Rejected) -> Rejected:
        """With the settings that may be wrong: neither the token's header nor the closing call are public."""
        where, refused = f"sources.{self._name}", failure.status in (401, 403)
        keys = "api_token, auth_header and auth_scheme" if refused else "close_method, close_path and close_body"
        detail = f"{failure.detail}{' and refuses our token' if refused else ''}; check {keys} of {where}"
        return (PartyRefusesUs if refused else Rejected)(detail, status=failure.status, answer=failure.answer)
