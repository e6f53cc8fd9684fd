"""What happens to a webhook: verify → parse → route → one commit → an answer.

Authenticated means stored and answered 2xx, understood or not; a payload that we cannot read is quarantined and can
be replayed after a fix. What is not authenticated is counted, and a bounded few are kept without their bodies.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
import uuid_utils
from sqlalchemy.exc import DBAPIError

from reward_relay.beside import Beside
from reward_relay.contracts import InboundRequest, Informational, Item, Parsed, Platform, RewardOrder, Withdrawn
from reward_relay.db import orders
from reward_relay.db.deliveries import Arrival, NewOrder, Receipt, store, store_spooled, unstorable
from reward_relay.db.engine import Database
from reward_relay.db.groups import Groups
from reward_relay.db.spool import Spooled
from reward_relay.errors import RequestError, Unauthenticated, UnknownSource, UnknownToken, Unreadable
from reward_relay.guards import Guards, too_dear, too_much_for_one
from reward_relay.inbound import kept_headers
from reward_relay.jobs import source_party
from reward_relay.rejecting import Rejecting
from reward_relay.routing import route_order, start_of
from reward_relay.sealing import Sealing, Stored
from reward_relay.settings import Route
from reward_relay.shelter import Shelter
from reward_relay.states import Outcome, State, Step

if TYPE_CHECKING:
    from reward_relay.tracing import Tracing

log = structlog.get_logger()
MAX_TOKEN = 200
POLLED_AT_ONCE = 500
HINT_S = 5.0
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id() -> str:
    """A UUID of version 7: it sorts by the time it was made."""
    return str(uuid_utils.uuid7())


def po_number(order_id: str) -> str:
    """An order's key at the vendor: `RR-` and 16 characters of Crockford's base 32, made of the id's time and chance.

    40 bits of milliseconds (they repeat after 34 years) and 40 random bits: 19 characters of A-Z, 0-9 and '-'.
    """
    digits = order_id.replace("-", "")
    number = ((int(digits[:12], 16) & ((1 << 40) - 1)) << 40) | int(digits[-10:], 16)
    return "RR-" + "".join(ALPHABET[(number >> shift) & 31] for shift in range(75, -1, -5))


@dataclass(frozen=True, slots=True)
class Understood:
    """A body's meaning before it is stored."""

    verdict: str
    reason: str | None = None
    external_id: str | None = None
    order: NewOrder | None = None
    withdrawn: str | None = None


class Intake:
    """Takes deliveries for the configured sources. `routes` and `guards` are asked anew for every order."""

    def __init__(
        self,
        database: Database,
        platforms: Mapping[str, Platform],
        routes: Callable[[], list[Route]],
        tracing: "Tracing | None" = None,
        shelter: Shelter | None = None,
        guards: Callable[[], Guards] = Guards,
        sealing: Sealing | None = None,
    ) -> None:
        self._database = database
        self._shelter = shelter
        self._guards = guards
        self._tracing = tracing
        self._sealing = sealing or Sealing()
        self._platforms = platforms
        self._routes = routes
        self._groups: Groups[Arrival, Receipt] = Groups(self._store)
        self._webhooks: Groups[Arrival, Receipt] = Groups(self._take_in)
        self._hints: Groups[tuple[str, str], str | None] = Groups(self._store_hints)
        self._polled: dict[str, frozenset[bytes]] = {}
        self._rejecting = Rejecting(self._groups.submit)
        self._beside = Beside()

    async def receive(self, source: str, request: InboundRequest) -> Receipt:
        """Take a webhook; returns once it is committed, or safe in the spool while the database is away.

        Raises:
            UnknownSource: no such source is configured.
            Unauthenticated: wrong or missing signature or secret.
            DatabaseUnavailable, Unavailable: it could not be stored; the platform should try again.
        """
        platform, began_ns = self._platform(source), time.time_ns()
        try:
            body = await self._beside.run(request.body, platform.verify, request)
        except Unauthenticated as error:
            self.rejected(source, request, error)
            raise
        arrival = await self._beside.run(
            body, self._arrival, source, new_id(), "webhook", body, request.content_type, kept_headers(request)
        )
        return await self._submit(replace(arrival, traceparent=request.headers.get("traceparent")), began_ns)

    async def take_spooled(self, spooled: Sequence[Spooled]) -> list[Receipt]:
        """Store what was answered while the database was away; the second time changes nothing.

        Raises:
            DatabaseUnavailable: it is away again; nothing is known to be stored.
        """
        arrivals = [self._spooled_arrival(each) for each in spooled]
        try:
            async with self._database.transaction() as connection:
                receipts = await store_spooled(connection, arrivals)
        except DBAPIError as error:
            if len(arrivals) > 1:
                raise  # they come again one by one
            log.exception("not_storable", source=arrivals[0].source)
            async with self._database.transaction() as connection:
                receipts = await store_spooled(connection, [unstorable(arrivals[0], error)])
        for arrival, receipt in zip(arrivals, receipts, strict=True):
            self._tell(arrival, receipt, time.time_ns())
        return receipts

    async def feed(self, source: str, bodies: Sequence[bytes], *, by_hand: bool = False) -> list[Receipt]:
        """Take what polling the platform brought, but for what the last poll brought already; receipts of the rest.

        `by_hand`: a person had it taken, who may not be enough for what it is worth.
        """
        self._platform(source)
        seen = self._polled.get(source, frozenset())
        receipts: list[Receipt] = []
        fresh = [body for body in bodies if body not in seen]
        for start in range(0, len(fresh), POLLED_AT_ONCE):
            some = fresh[start : start + POLLED_AT_ONCE]
            arrivals = [self._arrival(source, new_id(), "poll", body, "application/json", {}) for body in some]
            arrivals = [self._by_hand(each) for each in arrivals] if by_hand else arrivals
            receipts += await asyncio.gather(*(self._submit(each) for each in arrivals))
        self._polled[source] = frozenset(bodies)
        return receipts

    async def replay(
        self, delivery_id: str, source: str, stored: Stored, content_type: str, headers: Mapping[str, str]
    ) -> Receipt:
        """Take a stored delivery once more, after a fix; it keeps its id.

        Raises:
            KeyMissing: its body cannot be opened.
        """
        self._platform(source)
        arrival = self._arrival(source, delivery_id, "replay", self.opened(stored), content_type, headers)
        return await self._submit(self._by_hand(arrival))

    async def hint(self, vendor: str, token: str) -> None:
        """Take a vendor's callback: its order is looked at soon. No state changes, for it may be forged or early.

        Raises:
            UnknownToken: no order of this vendor has the token.
        """
        possible = len(token) <= MAX_TOKEN and token.isprintable()  # PostgreSQL refuses a NUL
        began_ns = time.time_ns()
        order_id = await self._hints.submit((vendor, token)) if possible else None
        if order_id is None:
            raise UnknownToken("no order has this token; take the URL that came with the order")
        if self._tracing is not None:
            self._tracing.callback(order_id, vendor, began_ns)

    async def close(self) -> None:
        """Wait until everything taken is stored."""
        await self._rejecting.close()
        await self._webhooks.close()
        await self._groups.close()
        await self._hints.close()
        self._beside.close()

    def understand(self, source: str, body: bytes, content_type: str) -> Understood:
        """What a body means and what would come of it; nothing is stored."""
        try:
            parsed = self.parse(source, body, content_type)
        except Unreadable as error:
            return Understood("quarantined", str(error))
        if isinstance(parsed, Informational):
            return Understood("informational", parsed.reason, parsed.external_id)
        if isinstance(parsed, Withdrawn):
            order = self._withdrawn_order(source, parsed)
            return Understood("accepted", parsed.reason, parsed.external_id, order, withdrawn=parsed.reason)
        return Understood("accepted", external_id=parsed.external_id, order=self.new_order(source, parsed))

    def parse(self, source: str, body: bytes, content_type: str) -> Parsed:
        """The adapter's reading of a body.

        Raises:
            Unreadable: also where the adapter fails in a way that nobody foresaw, so that nothing is lost.
        """
        try:
            return self._platform(source).parse(body, content_type)
        except (Unreadable, UnknownSource):
            raise
        except Exception as error:
            log.exception("parse_failed", source=source)
            raise Unreadable(
                f"the adapter could not read this payload ({type(error).__name__}); this is a fault of ours, "
                f"report it with the delivery and replay it after the fix"
            ) from error

    def opened(self, stored: Stored) -> bytes:
        """A stored body as it came: the one way to read one.

        Raises:
            KeyMissing: the key that sealed it is not configured.
        """
        return self._sealing.open(stored)

    def reread(self, stored: RewardOrder, body: Stored, content_type: str) -> RewardOrder:
        """A stored reward with what routes ask of its payload, which is not stored with it.

        Raises:
            KeyMissing: the body cannot be opened, and without it the reward could take another route.
        """
        try:
            parsed = self.parse(stored.source, self.opened(body), content_type) if body else None
        except Unreadable:
            return stored
        if parsed is None or isinstance(parsed, Withdrawn):
            return stored
        attributes = parsed.attributes if isinstance(parsed, RewardOrder) else {}
        return stored.model_copy(update={"attributes": attributes})

    def _platform(self, source: str) -> Platform:
        try:
            return self._platforms[source]
        except KeyError:
            known = ", ".join(sorted(self._platforms)) or "none"
            raise UnknownSource(f"no source {source[:80]!r} is configured (there is: {known}); check the URL") from None

    def _arrival(
        self, source: str, delivery_id: str, via: str, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> Arrival:
        meaning = self.understand(source, body, content_type)
        return Arrival(
            id=delivery_id,
            source=source,
            via=via,
            content_type=content_type,
            headers=headers,
            body=self._sealing.seal(body),
            verdict=meaning.verdict,
            reason=meaning.reason,
            external_id=meaning.external_id,
            order=meaning.order,
            withdrawn=meaning.withdrawn,
        )

    def _by_hand(self, arrival: Arrival) -> Arrival:
        """What one person may not send alone enters on hold."""
        order = arrival.order
        if order is None or order.plan is None or order.state is not State.RECEIVED:
            return arrival
        reason = too_much_for_one(self._guards(), order.plan)
        if reason is None:
            return arrival
        held = replace(order, state=State.ON_HOLD, event=f"held: {reason}", step=None, party=None, hold_reason=reason)
        return replace(arrival, order=held)

    def new_order(self, source: str, reward: RewardOrder) -> NewOrder:
        """The order as it enters the table: due for its first step, or held with a reason."""
        order_id = new_id()
        routed = route_order(reward, self._routes())
        plan, start = routed.plan, start_of(source, routed, self._platform(source).enriches)
        over = too_dear(self._guards(), source, plan) if plan and not start.hold_reason else None
        hold = over.reason if over else start.hold_reason
        return NewOrder(
            id=order_id,
            po_number=po_number(order_id),
            callback_token=secrets.token_urlsafe(24),
            reward=reward,
            state=State.ON_HOLD if hold else State.RECEIVED,
            event=f"held: {hold}" if hold else f"accepted; route {routed.route!r}",
            step=None if over else start.step,
            party=None if over else start.party,
            hold_reason=hold,
            cap=over.cap if over else None,
            plan=plan,
            route=routed.route,
            vendor=plan.vendor if plan else None,
        )

    def _withdrawn_order(self, source: str, withdrawn: Withdrawn) -> NewOrder:
        """A reward that was taken back before we heard of it: recorded, so that a late copy of it places nothing."""
        order_id = new_id()
        undescribed = Item(name="withdrawn before it was described")
        reward = withdrawn.order or RewardOrder(source=source, external_id=withdrawn.external_id, items=(undescribed,))
        return NewOrder(
            id=order_id,
            po_number=po_number(order_id),
            callback_token=secrets.token_urlsafe(24),
            reward=reward,
            state=State.SETTLED,
            event=f"{withdrawn.reason}; nothing is placed",
            step=Step.CLOSE,
            party=source_party(source),
            outcome=Outcome.CANCELLED,
            message=withdrawn.reason,
        )

    def _spooled_arrival(self, spooled: Spooled) -> Arrival:
        """A delivery from the spool, understood as the configuration is now."""
        kept = (spooled.body, spooled.content_type, spooled.headers)
        try:
            arrival = self._arrival(spooled.source, spooled.id, spooled.via, *kept)
        except UnknownSource as error:
            arrival = Arrival(
                spooled.id, spooled.source, spooled.via, spooled.content_type, spooled.headers,
                self._sealing.seal(spooled.body),
                "quarantined", reason=f"it came while PostgreSQL was away, and now {error.detail}",
            )  # fmt: skip
        return replace(arrival, received_at=spooled.received_at, traceparent=spooled.traceparent)

    async def _submit(self, arrival: Arrival, began_ns: int = 0) -> Receipt:
        began_ns = began_ns or time.time_ns()
        groups = self._webhooks if arrival.via == "webhook" else self._groups
        try:
            receipt = await groups.submit(arrival)
        except DBAPIError as error:
            log.exception("not_storable", source=arrival.source)
            receipt = await groups.submit(unstorable(arrival, error))
        self._tell(arrival, receipt, began_ns)
        return receipt

    def _tell(self, arrival: Arrival, receipt: Receipt, began_ns: int) -> None:
        log.info(
            "delivery",
            source=arrival.source,
            delivery_id=receipt.delivery_id,
            verdict=receipt.verdict,
            order_id=receipt.order_id,
            via=arrival.via,
            **({"spooled": True} if receipt.spooled else {}),
        )
        if self._tracing is not None and not receipt.spooled:
            self._tracing.delivery(
                receipt.delivery_id,
                receipt.order_id,
                made=arrival.order is not None and arrival.order.id == receipt.order_id,
                source=arrival.source,
                verdict=receipt.verdict,
                via=arrival.via,
                began_ns=began_ns,
                traceparent=arrival.traceparent,
            )

    async def _take_in(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        """Into the database, or into the spool while it is away."""
        if self._shelter is None:
            return await self._store(arrivals)
        return await self._shelter.take(arrivals, self._store)

    async def _store(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        async with self._database.transaction() as connection:
            return await store(connection, arrivals)

    async def _store_hints(self, callbacks: Sequence[tuple[str, str]]) -> list[str | None]:
        async def store_them() -> list[str | None]:
            async with self._database.transaction() as connection:
                return await orders.hint(connection, callbacks)

        return await self._database.promptly(HINT_S, store_them())

    def rejected(self, source: str, request: InboundRequest, error: RequestError) -> None:
        """Keep a few rejected deliveries for the person who wonders why nothing arrives.

        Raises:
            UnknownSource: no such source is configured.
        """
        self._platform(source)
        self._rejecting.note(new_id(), source, request, error)
