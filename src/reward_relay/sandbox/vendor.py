"""The simulated vendor under `/gcp`: GiftCard Partners B2B API v1, as far as its documentation tells.

The second one under `/keyless` is the same but for two things: it knows no PONumber again, so that a repeated order is
a second order, and it can be asked which orders have a PONumber. It is for adapters of vendors like that.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any

import httpx
from fastapi import APIRouter
from httpx_aiohttp import AiohttpTransport
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reward_relay.sandbox.far_side import FarSide, now, read_json
from reward_relay.sandbox.modes import CALLBACK_MODES, KEYLESS, VENDOR, Mode, Rule, magic_rule
from reward_relay.sandbox.orders import Order, OrderBody, by_field, peek

LISTINGS: dict[str, list[dict[str, Any]]] = {
    "Products": [
        {"Id": "CVS", "Name": "CVS Pharmacy gift card", "MinValue": 5, "MaxValue": 500, "Currency": "USD"},
        {"Id": "COFFEE", "Name": "Coffee gift card", "MinValue": 5, "MaxValue": 100, "Currency": "USD"},
        {"Id": "TUMBLER", "Name": "Steel tumbler", "MinValue": 25, "MaxValue": 25, "Currency": "USD"},
    ],
    "ShippingMethods": [
        {"Id": "GROUND", "Name": "Ground, 3 to 5 days", "CarrierId": "UPS"},
        {"Id": "EXPRESS", "Name": "Next day", "CarrierId": "FEDEX"},
    ],
    "Brandings": [{"Id": "PLAIN", "Name": "Plain"}, {"Id": "PARTY", "Name": "Balloons"}],
}


class GiftCards:
    """The account of the vendor of that name; `transport` is what its callbacks go out through."""

    def __init__(
        self, far_side: FarSide, transport: httpx.AsyncBaseTransport | None = None, name: str = VENDOR
    ) -> None:
        self.name = name
        self._far_side = far_side
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.forget()

    def forget(self) -> None:
        """Lose every order and token, and call nobody back any more."""
        for task in self._tasks:
            task.cancel()
        self._tokens: dict[str, float] = {}
        self._orders: dict[str, Order] = {}
        self._by_po_number: dict[str, Order] = {}
        self._posted: Counter[str] = Counter()
        self._random = random.Random(self._far_side.options.seed)

    async def close(self) -> None:
        """Stop calling back and close connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def router(self) -> APIRouter:
        """The vendor's API."""
        router = APIRouter(prefix=f"/{self.name}/v1", tags=[f"vendor: {self.name}"])
        router.add_api_route("/Tokens", self.token, methods=["POST"])
        router.add_api_route("/Orders", self.place, methods=["POST"])
        if self.name == KEYLESS:
            router.add_api_route("/Orders", self.find, methods=["GET"])
        router.add_api_route("/Orders/{order_id}", self.check, methods=["GET"])
        router.add_api_route("/{listing}", self.catalogue, methods=["GET"])
        return router

    def state(self) -> dict[str, Any]:
        """Orders without claim data, and how often each PONumber was posted and ordered."""
        orders = [
            {
                **order.head(),
                "Vendor": self.name,
                "LineItems": order.lines,
                "callbacks": order.callbacks,
                "posted": self._posted[order.body.po_number],
            }
            for order in self._orders.values()
        ]
        made = Counter(order.body.po_number for order in self._orders.values())
        return {"orders": orders, "counts": {"orders": dict(made), "posts": dict(self._posted)}}

    def statement(self) -> str:
        """Every order as a line of an invoice's export."""
        lines = ["Order Date,PO Number,Order Id,Status,Total"]
        for order in self._orders.values():
            head = order.head()
            lines.append(",".join(str(head[name]) for name in ("CreatedAt", "PONumber", "Id", "Status", "Total")))
        return "\n".join(lines) + "\n"

    # --- endpoints ---------------------------------------------------------------------------------------

    async def token(self, request: Request) -> Response:
        """A bearer token for an account."""
        return await self._far_side.answer(
            request, self.name, "token", partial(self._issue, request), key=request.headers.get("email")
        )

    async def place(self, request: Request) -> Response:
        """Take an order; where PONumbers are known again, once for each."""
        body = await request.body()
        po_number, email = peek(body)
        if po_number is not None:
            self._posted[po_number] += 1
        magic = None if po_number in self._by_po_number else magic_rule(email, self._far_side.options.slow_s)
        work = partial(self._take, request, body)
        return await self._far_side.answer(request, self.name, "place", work, key=po_number, magic=magic)

    async def find(self, request: Request) -> Response:
        """The orders with a PONumber, oldest first."""
        po_number = request.query_params.get("PONumber", "")
        known = self._by_po_number.get(po_number)
        work, about = partial(self._find, request, po_number), f"{known.lines if known else ''}"
        return await self._far_side.answer(request, self.name, "find", work, key=po_number, about=about)

    async def check(self, request: Request, order_id: str) -> Response:
        """How an order is doing."""
        order = self._orders.get(order_id)
        key, about = (order.body.po_number, f"{order.lines}") if order else (order_id, "")
        work = partial(self._tell, request, order_id)
        return await self._far_side.answer(request, self.name, "check", work, key=key, about=about)

    async def catalogue(self, request: Request, listing: str) -> Response:
        """Products, ShippingMethods or Brandings."""
        work = partial(self._list, request, listing)
        return await self._far_side.answer(request, self.name, "list", work, key=listing)

    # --- what they do ------------------------------------------------------------------------------------

    async def _issue(self, request: Request, _: Rule | None) -> Response:
        options, given = self._far_side.options, request.headers.get("accesstoken")
        if not request.headers.get("email") or not given:
            return _no(401, "Headers Email and AccessToken are needed")
        if options.access_token is not None and given != options.access_token:
            return _no(401, "The access token is not valid")
        value = f"sandbox-{self._random.getrandbits(96):024x}"
        self._tokens[value] = time.monotonic() + options.token_life_s
        return JSONResponse({"Value": value, "ExpiresIn": options.token_life_s})

    async def _take(self, request: Request, body: bytes, rule: Rule | None) -> Response:
        if not self._knows_bearer(request):
            return _no(401, "The bearer token is missing, unknown or expired")
        try:
            given = read_json(body)
            wanted = OrderBody.model_validate(given)
        except ValidationError as mistakes:
            return JSONResponse({"Message": "The order is not valid", "Errors": by_field(mistakes)}, status_code=400)
        except ValueError as error:
            return _no(400, f"The body is not JSON ({error})")
        first = self._by_po_number.get(wanted.po_number)
        if first is not None and self.name != KEYLESS:
            message = f"PONumber {wanted.po_number} was used before"
            return JSONResponse({"Message": message, "PreviousOrderIds": [first.id]}, status_code=409)
        order = self._make(wanted, given["LineItems"], rule)
        await self._arrange_callback(order, rule)
        return JSONResponse(order.answer(self._claims(order)), status_code=201)

    async def _find(self, request: Request, po_number: str, _: Rule | None) -> Response:
        if not self._knows_bearer(request):
            return _no(401, "The bearer token is missing, unknown or expired")
        found = [order.head() for order in self._orders.values() if order.body.po_number == po_number]
        return JSONResponse({"Orders": found})

    async def _tell(self, request: Request, order_id: str, rule: Rule | None) -> Response:
        if not self._knows_bearer(request):
            return _no(401, "The bearer token is missing, unknown or expired")
        order = self._orders.get(order_id)
        mode = rule.mode if rule else None
        if order is None or mode is Mode.LOST:
            return _no(404, f"There is no order {order_id}")
        told = order.answer(self._claims(order))
        if mode is Mode.OTHER_AMOUNT:
            told["LineItems"][0] |= {"Value": float(order.body.line_items[0].value) + 5}
        return JSONResponse(told)

    async def _list(self, request: Request, listing: str, _: Rule | None) -> Response:
        if not self._knows_bearer(request):
            return _no(401, "The bearer token is missing, unknown or expired")
        found = LISTINGS.get(listing)
        return JSONResponse(found) if found is not None else _no(404, f"There is no {listing}")

    def _knows_bearer(self, request: Request) -> bool:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and time.monotonic() < self._tokens.get(value, 0)

    def _make(self, wanted: OrderBody, lines: list[dict[str, Any]], rule: Rule | None) -> Order:
        refused_for = rule.reason if rule and rule.mode is Mode.REFUSE else None
        complete_at = time.monotonic() + self._far_side.options.complete_after_s
        order = Order(f"{self._random.getrandbits(40):010X}", wanted, lines, now(), complete_at, refused_for)
        self._orders[order.id] = order
        self._by_po_number.setdefault(wanted.po_number, order)
        return order

    def _claims(self, order: Order) -> list[dict[str, str]]:
        """Made-up claim data for each line, the same at every look."""
        draws = random.Random(f"{self._far_side.options.seed}/{order.id}")
        codes = [f"SANDBOX-{draws.getrandbits(48):012X}" for _ in order.lines]
        pins = [f"{draws.randrange(10_000):04}" for _ in order.lines]
        return [
            {"ClaimUrl": f"https://claim.example/{code}", "ClaimCode": code, "Pin": pin}
            for code, pin in zip(codes, pins, strict=True)
        ]

    # --- calling back ------------------------------------------------------------------------------------

    async def _arrange_callback(self, order: Order, placed_under: Rule | None) -> None:
        """Documented: FulfillmentComplete is called when an order completes later than its answer."""
        url = order.body.webhook_settings.fulfillment_complete
        if not url or order.refused_for or order.status != "Pending":
            return
        shaped = placed_under if placed_under and placed_under.mode in CALLBACK_MODES else None
        text = f"{url}\n{order.id}\n{order.body.po_number}\n{order.lines}"
        rule = shaped or self._far_side.misbehaviour(self.name, "callback", text)
        if rule and rule.mode is Mode.NEVER_CALL_BACK:
            return
        if rule and rule.mode is Mode.CALL_BACK_FIRST:
            order.complete_at = time.monotonic()
            await self._call_back(order, url)
            return
        if rule and rule.mode is Mode.SCATTER:
            within = 2.0 if rule.delay_s is None else rule.delay_s
            for _ in range(3):
                self._start(self._call_back_in(order, url, self._random.uniform(0, within)))
            return
        self._start(self._call_back_later(order, url, rule))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call_back_in(self, order: Order, url: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._call_back(order, url)

    async def _call_back_later(self, order: Order, url: str, rule: Rule | None) -> None:
        late = (5.0 if rule.delay_s is None else rule.delay_s) if rule and rule.mode is Mode.SLOW else 0.0
        await asyncio.sleep(max(0.0, order.complete_at - time.monotonic()) + late)
        order.complete_at = min(order.complete_at, time.monotonic())
        for _ in range(3 if rule and rule.mode is Mode.DUPLICATE else 1):
            await self._call_back(order, url)

    async def _call_back(self, order: Order, url: str) -> None:
        """Post the hint. Its real body is not published; ours names the order and holds no claim data."""
        if self._client is None:
            self._client = httpx.AsyncClient(transport=self._transport or AiohttpTransport(), timeout=10)
        ended: dict[str, Any]
        try:
            ended = {"status": (await self._client.post(url, json=order.head())).status_code}
        except Exception as error:  # a vendor shrugs, whatever went wrong at our end
            ended = {"error": f"{type(error).__name__}: {error}"}
        order.callbacks.append({"at": now(), **ended})


def _no(status: int, message: str) -> Response:
    return JSONResponse({"Message": message}, status_code=status)
