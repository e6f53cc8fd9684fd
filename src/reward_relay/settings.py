"""What can be configured: the models. `loading` reads file and environment into them."""

import os
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from reward_relay.amounts import Caps
from reward_relay.contracts import Delivery, Money, SourceSettings, VendorSettings, listed
from reward_relay.fields import EncryptionKeys, HostList, HttpUrl, SecretUrl, TextList


def default_data_dir() -> Path:
    """Where embedded PostgreSQL keeps its data: for root a system folder, so that no private folder is above it."""
    if os.geteuid() == 0:
        return Path("/var/lib/reward-relay")
    return platformdirs.user_data_path("reward-relay")


class Strict(BaseModel):
    """Frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiKey(Strict):
    """A person's or program's key to the ops API and console."""

    role: Literal["viewer", "operator"] = Field("viewer", description="viewer reads, operator also acts.")
    key: SecretStr = Field(description="The key itself, at least 16 characters.")
    person: str | None = Field(None, description="Whose it is, where one person has several keys; default: its name.")


class Product(Strict):
    """What one of the platform's SKUs is at the vendor."""

    product: str | None = Field(None, description="Vendor product.")
    value: Money | None = Field(None, description="Face value of each piece.")


Scalar = str | int | Decimal | bool | None


def plain(value: object) -> object:
    """One value or a list of them; TOML reads a dotted path without quotes as tables."""
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str | int | float | Decimal | None):
            raise ValueError('must be a text, a number or a list of them; quote the path: "payload.reward.type" = "x"')
    return value


Condition = Annotated[Scalar | list[Scalar], BeforeValidator(plain)]


class Route(Strict):
    """Which rewards go to which vendor, as what. The first route that matches wins."""

    name: str = Field(min_length=1, description="Shown on every order that took this route.")
    sources: Annotated[list[str] | None, BeforeValidator(listed)] = Field(None, description="Omitted = all sources.")
    vendor: str = Field(description="A name of [vendors].")
    delivery: Delivery = Field(Delivery.DIGITAL, description="DigitalDelivery, Links or PhysicalShipment.")
    product: str | None = Field(None, description="Default vendor product.")
    value: Money | None = Field(None, description="Default face value; omitted = the item's own.")
    when: dict[str, Condition] = Field({}, description="Dotted path = one value or a list; all must hold.")
    products: dict[str, Product] = Field({}, description="By the platform's SKU; goes before the defaults.")
    caps: Caps = Field(default=Caps(), description="[routes.caps]: what holds its orders instead of sending.")


def _networks(values: list[str]) -> list[str]:
    for each in values:
        try:
            ip_network(each)
        except ValueError as error:
            raise ValueError(f"{error}; write addresses or networks such as 10.0.0.0/8") from None
    return values


class Alerts(Strict):
    """Whom to tell, and when. Conditions are looked at every `every_s` seconds, and told in one message."""

    url: SecretUrl | None = Field(
        None, description="Webhook that gets them, as Slack's incoming ones do; a secret, never shown; unset = none."
    )
    secret: SecretStr | None = Field(None, description="whsec_… of Standard Webhooks; signs each message.")
    every_s: float = Field(30, ge=1, le=3600, description="How often the conditions are looked at.")
    gather_s: float = Field(300, ge=0, description="More of what was told is told together, so long after it.")
    calm_s: float = Field(180, ge=0, description="An alert is over when it stays away so long; back before, it lasts.")
    repeat_s: float = Field(14_400, ge=60, description="An alert that lasts is told again after so long.")
    due_after_s: float = Field(300, gt=0, description="An order that is due for so long is an alert.")
    quiet_after_s: float = Field(86_400, ge=0, description="A source without a delivery so long is an alert; 0 = none.")
    quiet_after: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="The same for single sources: NAME = seconds; 0 = it may be quiet."
    )
    unclosed_after_s: float = Field(3600, gt=0, description="A reward delivered but not told to the platform so long.")
    rejected_from: int = Field(5, ge=1, description="So many rejected deliveries of a source in an hour are an alert.")


class Settings(Strict):
    """Everything that can be configured. Times are in seconds unless the name says otherwise."""

    public_url: HttpUrl | None = Field(None, description="The relay's address from outside; vendors call back here.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    database_url: SecretStr | None = Field(
        None, description="postgresql://user:password@host/name; unset = PostgreSQL from the wheel in data_dir."
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of the embedded PostgreSQL.")
    spool_mb: int = Field(
        256, ge=0, description="MiB of webhooks that this machine keeps while PostgreSQL is away; 0 = none, answer 503."
    )
    spool_dir: Path | None = Field(
        None, description="Folder of the spool, on a local disk that outlives the process; unset = spool in data_dir."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto = text on a terminal, else JSON.")
    lease_s: float = Field(60, gt=0, le=3600, description="How long a worker may hold an order; over call_deadline_s.")
    call_deadline_s: float = Field(20, gt=0, le=600, description="Total time one step's calls may take.")
    retention_days: int = Field(365, ge=1, description="Days after its end that an order keeps personal data.")
    encryption_keys: EncryptionKeys = Field(
        [], description="Keys that seal stored webhooks, newest first (`reward-relay config new-key`); none = plain."
    )
    breaker_failures: int = Field(5, ge=1, description="Failures in a row that open a party's breaker.")
    breaker_open_s: float = Field(15, gt=0, description="How long an open breaker waits before it sends a probe.")
    first_check_s: float = Field(5, gt=0, description="First look at a placed order; later ones back off to minutes.")
    pending_days: int = Field(14, ge=1, description="Days of checks after which an order still pending is held.")
    private_hosts: HostList = Field([], description="Hosts that may be, or resolve to, private addresses.")
    trusted_proxies: Annotated[TextList, AfterValidator(_networks)] = Field(
        [], description="Addresses or networks of your proxies, whose X-Forwarded-For and -Proto count; [] = none."
    )
    rejections_per_minute: int = Field(
        60, ge=1, description="Calls of one address with a wrong secret or key before it is answered 429 unheard."
    )
    otlp_endpoint: HttpUrl | None = Field(
        None, description="OpenTelemetry collector (OTLP over HTTP) that gets each order's trace; needs the extra otel."
    )
    reconcile_days: int = Field(30, ge=1, le=365, description="Days back that the daily reconciliation looks.")
    placing: Literal["on", "paused"] = Field(
        "on", description="paused = accept everything, place nothing; goes before the switch at run time."
    )
    second_person_above: Money | None = Field(
        None, description="A release of an order worth more, or so far beyond a cap, needs two persons' keys."
    )
    caps: Caps = Field(default=Caps(), description="[caps]: what holds orders of all sources and routes together.")
    alerts: Alerts = Field(default_factory=lambda: Alerts(), description="[alerts]: whom to tell what goes wrong.")
    api_keys: dict[str, ApiKey] = Field({}, description="[api_keys.NAME]: who may use the ops API and console.")
    sources: dict[str, SourceSettings] = Field({}, description="[sources.NAME]: the platforms that post to us.")
    vendors: dict[str, VendorSettings] = Field({}, description="[vendors.NAME]: who fulfils.")
    routes: list[Route] = Field([], description="[[routes]]: which reward goes where, first match first.")

    @property
    def callback_base(self) -> str:
        """The address that vendors call back."""
        return self.public_url or f"http://{self.host}:{self.port}"
