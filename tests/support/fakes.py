"""A platform and a vendor that say what a test tells them to."""

from dataclasses import dataclass, field
from typing import Any, Literal

from reward_relay.contracts import (
    ByHand,
    ClosingResult,
    Ending,
    InboundRequest,
    NothingToDo,
    OutboundRequest,
    Parsed,
    Placement,
    Progress,
    RewardOrder,
    VendorOrder,
    Withdrawn,
)
from reward_relay.errors import Unreadable

PENDING = VendorOrder("V1", Progress.PENDING, word="New", status=201, answer="kept")
"""An order that the vendor has and works on."""
Said = Any
"""An answer, or the error to raise."""


@dataclass
class FakePlatform:
    """Answers with `says`, or raises it."""

    says: Said = None
    asked: list[Any] = field(default_factory=list)
    enriches: Literal["never", "when_unreachable", "always"] = "always"

    def verify(self, request: InboundRequest) -> bytes:
        return request.body

    def parse(self, body: bytes, content_type: str) -> Parsed:
        raise Unreadable("not part of a step")

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        found: RewardOrder | Withdrawn = _said(self.says)
        return found

    async def poll(self) -> list[bytes]:
        return []

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        return NothingToDo("not part of a step")

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        self.asked.append((ending, again))
        found: ClosingResult = _said(self.says)
        return found


@dataclass
class FakeVendor:
    """Answers each question with what it was given for it, and notes what it was asked."""

    placed: Said = PENDING
    found: Said = None
    checked: Said = PENDING
    takes_key: bool = False
    can_find: bool = True
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        return OutboundRequest("POST", "http://far.test")

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        self.asked.append(("place", key))
        self.placement = placement
        order: VendorOrder = _said(self.placed)
        return order

    async def find(self, key: str) -> VendorOrder | None:
        self.asked.append(("find", key))
        order: VendorOrder | None = _said(self.found)
        return order

    async def check(self, vendor_order_id: str) -> VendorOrder:
        self.asked.append(("check", vendor_order_id))
        order: VendorOrder = _said(self.checked)
        return order


def _said(said: Said) -> Any:
    if isinstance(said, Exception):
        raise said
    return said
