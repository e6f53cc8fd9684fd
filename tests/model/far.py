"""Vendors and platforms in memory: exact, counting, and as unreliable as the next fate says.

They keep the books that the invariants are held against. What should never be asked of them is a `breach`.
"""

import json
from collections import Counter, defaultdict
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_relay.contracts import (
    ByHand,
    Closed,
    ClosingResult,
    Ending,
    InboundRequest,
    Informational,
    Item,
    NothingToDo,
    OutboundRequest,
    Parsed,
    Placement,
    Progress,
    Recipient,
    RewardOrder,
    VendorOrder,
    Withdrawn,
)
from reward_relay.errors import NotSent, PartyRefusesUs, Rejected, Unauthenticated, Unknown, Unreadable
from reward_relay.states import Outcome

SECRET = "right"
TROUBLE = ("unknown", "not_sent", "put_off", "rejected", "refuses_us", "too_late", "fault")
"""Fates of every call that leave nothing behind at the party."""
LEFT = ("lost", "too_late_after", "fault_after")
"""Fates of a call that was carried out, and whose answer never came."""
PLACING = ("well", *LEFT, "at_once", "refused", "lost_at_once", "under_way", "unreadable", *TROUBLE)
ASKING = ("well", *TROUBLE)
CHECKING = ("well", "odd_word", *TROUBLE)
ENRICHING = ("well", "withdrawn", "still_missing", *TROUBLE)
CLOSING = ("well", *LEFT, "nobody", "by_hand", *TROUBLE)
FATES: ContextVar[list[int]] = ContextVar("FATES")
"""What the next calls of this task come to: places in the tuples above, counted round; then all goes well."""


def fate(of: tuple[str, ...]) -> str:
    """What this call comes to."""
    left = FATES.get([])
    return of[left.pop(0) % len(of)] if left else of[0]


def trouble(name: str) -> None:
    """Raise what a call of this fate ends with; nothing where it ends well."""
    errors: dict[str, Exception] = {
        "unknown": Unknown("the answer never came"),
        "not_sent": NotSent("the line is dead"),
        "put_off": NotSent("later, please", status=429, retry_after_s=3_600),
        "rejected": Rejected("no such product", status=400),
        "refuses_us": PartyRefusesUs("the account is empty", status=402),
        "too_late": TimeoutError(),
        "fault": RuntimeError("a fault of the adapter"),
        "unreadable": Unreadable("it lacks what this vendor needs"),
    }
    name = {"lost": "unknown", "lost_at_once": "unknown"}.get(name, name.removesuffix("_after"))
    if name in errors:
        raise errors[name]


@dataclass
class Purchase:
    """An order at a vendor."""

    vendor: str
    key: str
    vendor_order_id: str
    quantity: int
    progress: Progress = Progress.PENDING

    def told(self, *, existed: bool) -> VendorOrder:
        """As the vendor tells it."""
        return VendorOrder(self.vendor_order_id, self.progress, word=self.progress.title(), existed=existed)


@dataclass
class Books:
    """What really happened, outside."""

    bought: dict[str, list[Purchase]] = field(default_factory=lambda: defaultdict(list))
    """By key, at whichever vendor."""
    under_way: list[tuple[str, str, int]] = field(default_factory=list)
    """Vendor, key and quantity of requests that have not arrived yet."""
    placings: Counter[str] = field(default_factory=Counter)
    """How often each key was sent."""
    told: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    """By the reward's id: what its platform was told."""
    attempted: Counter[str] = field(default_factory=Counter)
    """Closing calls that arrived, by the reward's id."""
    withdrawn: set[str] = field(default_factory=set)
    breaches: list[str] = field(default_factory=list)

    def purchases(self) -> list[Purchase]:
        """Everything bought, in order."""
        return [each for found in self.bought.values() for each in found]

    def buy(self, vendor: str, key: str, quantity: int, progress: Progress = Progress.PENDING) -> Purchase:
        """One more order."""
        count = sum(len(found) for found in self.bought.values())
        self.bought[key].append(Purchase(vendor, key, f"V{count + 1}", quantity, progress))
        return self.bought[key][-1]

    def arrive(self, vendor: str, key: str, quantity: int) -> Purchase:
        """A request with a key arrives, now or late: the same key is the same order."""
        found = [each for each in self.bought[key] if each.vendor == vendor]
        return found[0] if found else self.buy(vendor, key, quantity)


@dataclass
class CountingVendor:
    """A vendor that may take keys, or be asked, or neither."""

    name: str
    books: Books
    takes_key: bool
    can_find: bool

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        return OutboundRequest("POST", f"http://far.test/{key}", json={"lines": len(placement.plan.lines)})

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        (line,) = placement.plan.lines
        if not placement.recipient.email:
            self.books.breaches.append(f"{key} was sent to a vendor without a recipient")
        self.books.placings[key] += 1
        found = fate(PLACING)
        if found in TROUBLE or found == "unreadable":
            trouble(found)
        if found == "under_way" and self.takes_key:
            self.books.under_way.append((self.name, key, line.quantity))
            raise Unknown("still under way")
        ends = {"at_once": Progress.FULFILLED, "lost_at_once": Progress.FULFILLED, "refused": Progress.REFUSED}
        existed = self.takes_key and bool(self.books.bought.get(key))
        order = self.books.arrive(self.name, key, line.quantity) if self.takes_key else None
        order = order or self.books.buy(self.name, key, line.quantity)
        if not existed:
            order.progress = ends.get(found, Progress.PENDING)
        trouble(found)
        return order.told(existed=existed)

    async def find(self, key: str) -> VendorOrder | None:
        if not self.can_find:
            self.books.breaches.append(f"{self.name} was asked for {key}, and cannot be")
        trouble(fate(ASKING))
        found = [each for each in self.books.bought.get(key, []) if each.vendor == self.name]
        return found[0].told(existed=True) if found else None

    async def check(self, vendor_order_id: str) -> VendorOrder:
        known = [each for each in self.books.purchases() if each.vendor_order_id == vendor_order_id]
        if not known or known[0].vendor != self.name:
            self.books.breaches.append(f"{self.name} was asked about {vendor_order_id}, which it does not have")
            raise Rejected("no such order", status=404)
        found = fate(CHECKING)
        trouble(found)
        if found == "odd_word" and known[0].progress is Progress.PENDING:
            return VendorOrder(vendor_order_id, Progress.PENDING, word="Teleported", known=False)
        return known[0].told(existed=False)


@dataclass
class CountingPlatform:
    """A platform whose webhooks are small JSON objects; `odd` ones are understood once the adapter is `mended`."""

    source: str
    books: Books
    enriches: Literal["never", "when_unreachable", "always"]
    mended: bool = False

    def verify(self, request: InboundRequest) -> bytes:
        if request.headers.get("x-secret") != SECRET:
            raise Unauthenticated("the secret is wrong")
        return request.body

    def parse(self, body: bytes, content_type: str) -> Parsed:
        said: dict[str, Any] = json.loads(body)
        kind, order = said["kind"], None
        if kind == "odd" and not self.mended:
            raise Unreadable("nobody knows what this means")
        if kind == "informational":
            return Informational("asks nothing of us", said["id"])
        item = Item(sku=said["sku"], quantity=said["quantity"])
        order = RewardOrder(
            source=self.source,
            external_id=said["id"],
            recipient=Recipient(name="Ann Lee", email=said["email"]),
            items=(item,),
            reference={"id": said["id"]},
            attributes=said,
        )
        return Withdrawn(said["id"], "the platform took it back", order) if kind == "withdrawn" else order

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        found = fate(ENRICHING)
        trouble(found)
        if found == "withdrawn":
            self.books.withdrawn.add(order.external_id)
        if order.external_id in self.books.withdrawn:
            return Withdrawn(order.external_id, "withdrawn at the platform")
        if found == "still_missing":
            return order
        email = order.recipient.email or "ann@example.com"
        return order.model_copy(update={"recipient": order.recipient.model_copy(update={"email": email})})

    async def poll(self) -> list[bytes]:
        return []

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        return NothingToDo("only previewed")

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        found, key = fate(CLOSING), order.external_id
        if order.reference.get("id") != key:
            self.books.breaches.append(f"{key} is closed without its reference")
        if self.books.attempted[key] and not again:
            self.books.breaches.append(f"{key} is told once more, and not as a repeat")
        if found in TROUBLE:
            trouble(found)
        if found == "by_hand":
            return ByHand("tell them yourself")
        self.books.attempted[key] += 1
        self.books.told[key].append(ending.outcome)
        trouble(found)
        return NothingToDo("nobody listens") if found == "nobody" else Closed("told", status=200)
