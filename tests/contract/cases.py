"""What each registered platform and vendor was recorded doing, for the suites beside this file.

A new member needs three things here, and inherits every test of its suite:

1. a folder `recorded/<member>/` of JSON files. The beginning of a file's name says what it is:

   ===========  =========================================================================================
   `event_`     a webhook: method, path, query, headers, the exact signed body, and what it must parse to
   `closing_`   one way a reward ends: the request that must go out, and the answers to it and to a repeat
   `read_`      a look-up at the platform: request, answer, and what `enrich` or `poll` make of it
   `login_`     what a vendor wants before any other call (a token); request and answer
   `order_`     one vendor order: placement, key, the request, its answer, and what that must be read as
   `repeat_`    the vendor's answer to an order whose key it knows already
   `find_`      the vendor's answer to the question for an order by its key, where it takes such questions
   `check_`     the vendor's answer to a question about an order, and what that must be read as
   `verdict_`   an answer to an order that this vendor means in its own way, and the verdict on it
   ===========  =========================================================================================

   The models below are strict: a key that they do not have is a mistake in the file. Headers hold the secrets of
   the case as they are sent; nothing recorded is a real one.
2. an entry in `PLATFORM_CASES` or `VENDOR_CASES`: its settings as the configuration file has them, and its secrets.
3. nothing else. What only this member does is tested in tests/platforms or tests/vendors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from reward_relay.contracts import (
    Delivery,
    Ending,
    InboundRequest,
    Line,
    Placement,
    Plan,
    Platform,
    Recipient,
    SourceSettings,
    Vendor,
    VendorSettings,
)
from reward_relay.outbound import Outbound
from reward_relay.platforms import PLATFORMS
from reward_relay.states import Outcome
from reward_relay.vendors import VENDORS

RECORDED = Path(__file__).parent / "recorded"
NAME = "shop"
"""What every member is called in the configuration here: `sources.shop`, `vendors.shop`."""


class Recorded(BaseModel):
    """Part of a recorded file; `name` is the file's, `about` says what it shows and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = ""
    about: str = ""


class Request(Recorded):
    """One request of ours, to the byte."""

    method: str
    url: str
    headers: dict[str, str] = {}
    body: str | None = None


class Answer(Recorded):
    """What the far side said."""

    status: int = 200
    headers: dict[str, str] = {}
    body: str = ""


class Exchange(Recorded):
    """A request and its answer."""

    request: Request
    answer: Answer


class Event(Recorded):
    """A webhook. `scheme` says what the secret vouches for: with `token` the caller, with `signature` the body too.

    `parses_to` has one key: `order` (its whole JSON), `withdrawn` or `informational` (their external id).
    """

    method: Literal["POST"]
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str]
    body: str
    secret: str
    scheme: Literal["token", "signature"]
    settings: dict[str, Any] = {}
    parses_to: dict[Literal["order", "withdrawn", "informational"], dict[str, Any]]

    @property
    def external_id(self) -> str | None:
        """The business key that it must parse to."""
        found: str | None = next(iter(self.parses_to.values()))["external_id"]
        return found

    @property
    def is_order(self) -> bool:
        """Whether it asks for a reward."""
        return "order" in self.parses_to

    def inbound(self) -> InboundRequest:
        """The webhook as the web layer hands it over."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return InboundRequest(self.body.encode(), headers, self.query)

    def without_secret(self) -> InboundRequest:
        """The same from somebody who sends neither secret nor signature."""
        proofs = ("token", "signature")
        headers = {name.lower(): text for name, text in self.headers.items() if not name.lower().endswith(proofs)}
        query = {name: text for name, text in self.query.items() if name != "token"}
        return InboundRequest(self.body.replace(self.secret, "").encode(), headers, query)


class Closing(Exchange):
    """How the platform is told of an end of the reward in `event`; `repeat` is what it then answers to a repeat."""

    event: str
    outcome: Outcome
    message: str | None = None
    repeat: list[Exchange]

    @property
    def ending(self) -> Ending:
        """The end as the core puts it."""
        return Ending(self.outcome, self.message)


class Read(Exchange):
    """A look-up that belongs to the reward in `event`.

    `enriches_to` is the recipient of a reward that came without one; `polls` are the external ids found.
    """

    event: str
    enriches_to: dict[str, Any] | None = None
    polls: list[str] = []


class Order(Exchange):
    """One vendor order. `needs` are the recipient's fields without which it cannot be, and how each is called."""

    delivery: Delivery
    lines: list[Line]
    recipient: Recipient
    message: str | None = None
    key: str
    needs: dict[str, str]
    reads_as: dict[str, Any]

    @property
    def placement(self) -> Placement:
        """The order as the core puts it."""
        plan = Plan(route="gifts", vendor=NAME, delivery=self.delivery, lines=tuple(self.lines))
        return Placement(plan, self.recipient, "https://relay.example.com/vendor-webhooks/shop/tok", self.message)


class Check(Exchange):
    """One question about an order, and how the answer must be read."""

    vendor_order_id: str
    reads_as: dict[str, Any]


class Find(Exchange):
    """One question for the order under a key; read as nothing where there is none."""

    key: str
    reads_as: dict[str, Any] | None


class Verdict(Recorded):
    """An answer to an order, and the word of the verdict on it (`CallFailed.verdict`)."""

    answer: Answer
    verdict: str


File = TypeVar("File", bound=Recorded)


def load(member: str, kind: str, model: type[File]) -> list[File]:
    """A member's recorded files of one kind, by name."""
    paths = sorted((RECORDED / member).glob(f"{kind}_*.json"))
    return [model.model_validate_json(path.read_bytes()).model_copy(update={"name": path.stem}) for path in paths]


@dataclass(frozen=True)
class PlatformCase:
    """One platform, with two secrets for its webhook and all that it needs to close.

    `secrets` is every text that nobody may ever see; without any one of `credentials` closing is left to a person.
    """

    member: str
    settings: Mapping[str, Any]
    secrets: tuple[str, ...]
    credentials: tuple[str, ...]

    @cached_property
    def events(self) -> list[Event]:
        """Its webhooks."""
        return load(self.member, "event", Event)

    @cached_property
    def closings(self) -> list[Closing]:
        """Its ways to end a reward."""
        return load(self.member, "closing", Closing)

    @cached_property
    def reads(self) -> list[Read]:
        """Its look-ups."""
        return load(self.member, "read", Read)

    def event(self, name: str) -> Event:
        """The webhook of that name."""
        return next(event for event in self.events if event.name == name)

    def configured(self, **changes: Any) -> SourceSettings:
        """Its settings; a change to None leaves the key out."""
        return PLATFORMS[self.member].settings.model_validate(_changed(self.settings, changes))

    def adapter(self, outbound: Outbound | None = None, **changes: Any) -> Platform:
        """The platform, in front of a far side."""
        build: Any = PLATFORMS[self.member].build
        adapter: Platform = build(NAME, self.configured(**changes), outbound or Outbound())
        return adapter


@dataclass(frozen=True)
class VendorCase:
    """One vendor, able to deliver in every way. `claims` is what its recorded answers hold that is worth money.

    A vendor that neither takes a key nor can be asked says in `never_repeats` why the relay may use it all the same.
    """

    member: str
    settings: Mapping[str, Any]
    secrets: tuple[str, ...]
    claims: tuple[str, ...]
    never_repeats: str = ""

    @cached_property
    def logins(self) -> list[Exchange]:
        """What it wants before any other call."""
        return load(self.member, "login", Exchange)

    @cached_property
    def orders(self) -> list[Order]:
        """Its orders, one for each kind of delivery."""
        return load(self.member, "order", Order)

    @cached_property
    def repeats(self) -> list[Exchange]:
        """Its answers to orders that it has already."""
        return load(self.member, "repeat", Exchange)

    @cached_property
    def checks(self) -> list[Check]:
        """Its answers about orders."""
        return load(self.member, "check", Check)

    @cached_property
    def finds(self) -> list[Find]:
        """Its answers to questions for a key."""
        return load(self.member, "find", Find)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Its own meaning of some answers."""
        return load(self.member, "verdict", Verdict)

    def configured(self, **changes: Any) -> VendorSettings:
        """Its settings; a change to None leaves the key out."""
        return VENDORS[self.member].settings.model_validate(_changed(self.settings, changes))

    def adapter(self, outbound: Outbound | None = None, **changes: Any) -> Vendor:
        """The vendor, in front of a far side."""
        build: Any = VENDORS[self.member].build
        adapter: Vendor = build(NAME, self.configured(**changes), outbound or Outbound())
        return adapter


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**settings, **changes}.items() if value is not None}


PLATFORM_CASES = [
    PlatformCase(
        member="influitive",
        settings={
            "platform": "influitive",
            "secrets": ["influitive-newest-secret", "influitive-previous-secret"],
            "api_token": "influitive-api-token",
            "org_id": "9774649d-5e6c-49f0-b559-694b3f9c76e3",
        },
        secrets=("influitive-newest-secret", "influitive-previous-secret", "influitive-api-token"),
        credentials=("api_token", "org_id"),
    ),
    PlatformCase(
        member="roster",
        settings={
            "platform": "roster",
            "secrets": ["roster-newest-secret", "roster-previous-secret"],
            "api_token": "roster-api-token",
        },
        secrets=("roster-newest-secret", "roster-previous-secret", "roster-api-token"),
        credentials=("api_token",),
    ),
    PlatformCase(
        member="talkable",
        settings={
            "platform": "talkable",
            "secrets": ["talkable-newest-secret", "talkable-previous-secret"],
            "api_token": "talkable-api-token",
            "site_slug": "trail-shop",
            "close": "custom_property",
        },
        secrets=("talkable-newest-secret", "talkable-previous-secret", "talkable-api-token"),
        credentials=("api_token", "site_slug"),
    ),
    PlatformCase(
        member="voucherify",
        settings={
            "platform": "voucherify",
            "secrets": ["voucherify-newest-secret", "voucherify-previous-secret"],
            "app_id": "voucherify-app-id",
            "app_token": "voucherify-app-token",
        },
        secrets=("voucherify-newest-secret", "voucherify-previous-secret", "voucherify-app-token"),
        credentials=("app_id", "app_token"),
    ),
]

VENDOR_CASES = [
    VendorCase(
        member="giftcard_partners",
        settings={
            "kind": "giftcard_partners",
            "base_url": "https://gcp.example.com/b2b",
            "email": "api@trail-shop.example",
            "access_token": "gcp-access-token",
            "from_name": "Trail Shop",
            "shipping_method_id": "ground",
            "carrier_id": "ups",
        },
        secrets=("gcp-access-token", "gcp-bearer-token"),
        claims=("https://claim.example/9f3a", "CLAIM-CODE-4411", "PIN-7788"),
    ),
]
