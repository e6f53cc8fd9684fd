"""The simulated platforms: what each one's API takes when a reward's end is told to it."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reward_relay.sandbox.far_side import FarSide, read_json
from reward_relay.sandbox.modes import Rule


async def read_object(request: Request) -> dict[str, Any] | None:
    """The body as a JSON object; {} where there is none, None where it is something else."""
    body = await request.body()
    if not body:
        return {}
    try:
        found = read_json(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def refusal(status: int, message: str) -> Response:
    """An error as these platforms word it."""
    return JSONResponse({"error": message}, status_code=status)


class Roster:
    """`/roster`: verb and path are not published, so both likely verbs are taken."""

    def __init__(self, far_side: FarSide) -> None:
        self._far_side = far_side

    def router(self) -> APIRouter:
        """Roster's API, version 2."""
        router = APIRouter(prefix="/roster/v2", tags=["platform: Roster"])
        router.add_api_route("/orders/{order_id:path}", self.update, methods=["PUT", "POST", "PATCH"])
        return router

    async def update(self, request: Request, order_id: str) -> Response:
        """Take the fulfilment status of an order."""

        async def work(_: Rule | None) -> Response:
            body = await read_object(request)
            if not body:
                return refusal(400, "a JSON object with the order's status is needed")
            self._far_side.closed("roster", order_id, method=request.method, body=body)
            return JSONResponse({"id": order_id, **body})

        return await self._far_side.answer(request, "roster", "close", work, key=order_id)


class Influitive:
    """`/influitive`: lists the redemptions still owed, and takes one decision on each.

    A redemption that was not put here through the control API is taken as open: its webhook came from elsewhere.
    """

    DECISIONS = ("fulfill", "refuse", "reject")

    def __init__(self, far_side: FarSide) -> None:
        self._far_side = far_side
        self.forget()

    def forget(self) -> None:
        """No redemption is owed, none was decided."""
        self._open: dict[str, dict[str, Any]] = {}
        self._contacts: dict[str, dict[str, Any]] = {}
        self._decided: dict[str, str] = {}

    def owe(self, redemption: dict[str, Any], contact: dict[str, Any] | None) -> None:
        """Open a redemption, with the contact who asked for it."""
        key = str(redemption["id"])
        self._open[key] = redemption
        self._decided.pop(key, None)
        if contact is not None:
            self._contacts[key] = contact

    def owed(self) -> list[dict[str, Any]]:
        """The redemptions still open."""
        return list(self._open.values())

    def router(self) -> APIRouter:
        """Influitive's API."""
        router = APIRouter(prefix="/influitive", tags=["platform: Influitive"])
        router.add_api_route("/reward_redemptions", self.still_owed, methods=["GET"])
        router.add_api_route("/reward_redemptions/{redemption_id}/decision/{decision}", self.decide, methods=["POST"])
        return router

    async def still_owed(self, request: Request) -> Response:
        """The redemptions still owed."""

        async def work(_: Rule | None) -> Response:
            contacts = [self._contacts[key] for key in self._open if key in self._contacts]
            return _no_account(request) or JSONResponse({"reward_redemptions": self.owed(), "contacts": contacts})

        return await self._far_side.answer(request, "influitive", "list", work, key=None)

    async def decide(self, request: Request, redemption_id: str, decision: str) -> Response:
        """Fulfil or refuse a redemption; a second decision is refused."""

        async def work(_: Rule | None) -> Response:
            return _no_account(request) or await self._decide(request, redemption_id, decision)

        return await self._far_side.answer(request, "influitive", "close", work, key=redemption_id)

    async def _decide(self, request: Request, redemption_id: str, decision: str) -> Response:
        body = await read_object(request)
        if decision not in self.DECISIONS:
            return refusal(404, f"there is no decision {decision}, only {', '.join(self.DECISIONS)}")
        if body is None:
            return refusal(400, "the body is not a JSON object")
        if redemption_id in self._decided:
            return refusal(422, f"redemption {redemption_id} was decided already: {self._decided[redemption_id]}")
        self._open.pop(redemption_id, None)
        self._decided[redemption_id] = decision
        self._far_side.closed("influitive", redemption_id, decision=decision, body=body)
        return JSONResponse({"id": redemption_id, "status": decision})


def _no_account(request: Request) -> Response | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Token" or not token:
        return refusal(401, "header Authorization: Token … is needed")
    return None if request.headers.get("x_org_id") else refusal(401, "header X_ORG_ID is needed")


class Talkable:
    """`/talkable`: rewards are read-only there; what can be written is a person's custom properties."""

    def __init__(self, far_side: FarSide) -> None:
        self._far_side = far_side

    def router(self) -> APIRouter:
        """Talkable's API, version 2."""
        router = APIRouter(prefix="/talkable/api/v2", tags=["platform: Talkable"])
        router.add_api_route("/people/{email:path}", self.update, methods=["PUT"])
        return router

    async def update(self, request: Request, email: str) -> Response:
        """Write a person's custom properties."""

        async def work(_: Rule | None) -> Response:
            body = await read_object(request)
            if not request.headers.get("authorization", "").startswith("Bearer "):
                return refusal(401, "header Authorization: Bearer … is needed")
            if body is None or not isinstance(body.get("data"), dict):
                return refusal(400, "a JSON object with data is needed")
            if not body.get("site_slug") and not request.query_params.get("site_slug"):
                return refusal(400, "site_slug is needed")
            self._far_side.closed("talkable", email, body=body)
            return JSONResponse({"ok": True, "result": {"person": {"email": email, **body["data"]}}})

        return await self._far_side.answer(request, "talkable", "close", work, key=email)


ALREADY_ROLLED_BACK = {"code": 400, "key": "already_rolled_back", "message": "Redemption is already rolled back"}


class Voucherify:
    """`/voucherify`: customers with their addresses, and the four ways of telling how a reward ended."""

    STATUSES = ("CREATED", "PAID", "CANCELED", "FULFILLED")

    def __init__(self, far_side: FarSide) -> None:
        self._far_side = far_side
        self.forget()

    def forget(self) -> None:
        """No customer was changed, no redemption rolled back."""
        self._customers: dict[str, dict[str, Any]] = {}
        self._rolled_back: set[str] = set()

    def router(self) -> APIRouter:
        """Voucherify's API, version 1."""
        router = APIRouter(prefix="/voucherify/v1", tags=["platform: Voucherify"])
        router.add_api_route("/customers/{customer_id:path}", self.customer, methods=["GET"])
        router.add_api_route("/customers/{customer_id:path}", self.change_customer, methods=["PUT"])
        router.add_api_route("/orders/{order_id:path}", self.change_order, methods=["PUT"])
        router.add_api_route("/events", self.event, methods=["POST"])
        router.add_api_route("/redemptions/{redemption_id}/rollback", self.roll_back, methods=["POST"])
        return router

    async def customer(self, request: Request, customer_id: str) -> Response:
        """A customer with e-mail address and postal address; an unknown one is made up."""

        async def work(_: dict[str, Any]) -> Response:
            return JSONResponse(self._customers.get(customer_id) or made_up_customer(customer_id))

        return await self._answer(request, "read", customer_id, work)

    async def change_customer(self, request: Request, customer_id: str) -> Response:
        """Change a customer, for example its metadata."""

        async def work(body: dict[str, Any]) -> Response:
            known = self._customers.get(customer_id) or made_up_customer(customer_id)
            self._customers[customer_id] = {**known, **body}
            self._far_side.closed("voucherify", customer_id, call="customer", body=body)
            return JSONResponse(self._customers[customer_id])

        return await self._answer(request, "close", customer_id, work)

    async def change_order(self, request: Request, order_id: str) -> Response:
        """Set an order's status."""

        async def work(body: dict[str, Any]) -> Response:
            if body.get("status") not in self.STATUSES:
                return refusal(400, f"status must be one of {', '.join(self.STATUSES)}")
            self._far_side.closed("voucherify", order_id, call="order", body=body)
            return JSONResponse({"id": order_id, "object": "order", **body})

        return await self._answer(request, "close", order_id, work)

    async def event(self, request: Request) -> Response:
        """Take a custom event of a customer."""
        given = (await read_object(request) or {}).get("customer")
        customer = given if isinstance(given, dict) else {}
        key = str(customer.get("id") or customer.get("source_id") or "")

        async def work(body: dict[str, Any]) -> Response:
            if not body.get("event") or not key:
                return refusal(400, "event and customer with id or source_id are needed")
            self._far_side.closed("voucherify", key, call="event", body=body)
            return JSONResponse({"object": "event", "type": body["event"], "customer": customer})

        return await self._answer(request, "close", key or None, work)

    async def roll_back(self, request: Request, redemption_id: str) -> Response:
        """Give the points of a redemption back, once."""

        async def work(body: dict[str, Any]) -> Response:
            if redemption_id in self._rolled_back:
                return JSONResponse(ALREADY_ROLLED_BACK, status_code=400)
            self._rolled_back.add(redemption_id)
            reason = request.query_params.get("reason")
            self._far_side.closed("voucherify", redemption_id, call="rollback", reason=reason, body=body)
            return JSONResponse({"object": "redemption_rollback", "redemption": redemption_id, "result": "SUCCESS"})

        return await self._answer(request, "close", redemption_id, work)

    async def _answer(
        self, request: Request, operation: str, key: str | None, work: Callable[[dict[str, Any]], Awaitable[Response]]
    ) -> Response:
        async def checked(_: Rule | None) -> Response:
            if not request.headers.get("x-app-id") or not request.headers.get("x-app-token"):
                return refusal(401, "headers X-App-Id and X-App-Token are needed")
            body = await read_object(request)
            return refusal(400, "the body is not a JSON object") if body is None else await work(body)

        return await self._far_side.answer(request, "voucherify", operation, checked, key=key)


FIRST_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo")
STREETS = ("Main Street", "Oak Avenue", "Mill Lane", "Station Road")
CITIES = (("Ames", "IA", "50010"), ("Salem", "OR", "97301"), ("Dover", "DE", "19901"), ("Boise", "ID", "83702"))


def made_up_customer(customer_id: str) -> dict[str, Any]:
    """A customer for any id, the same at every look; magic signs in the id (`+refuse`) stay in the address."""
    digest = hashlib.sha256(customer_id.encode("utf-8", "replace")).digest()
    city, state, postal_code = CITIES[digest[0] % len(CITIES)]
    local = re.sub(r"[^a-z0-9+._-]", "-", customer_id.lower())[:60]
    return {
        "id": customer_id,
        "object": "customer",
        "source_id": f"sandbox-{digest.hex()[:8]}",
        "name": f"{FIRST_NAMES[digest[1] % len(FIRST_NAMES)]} Sandbox",
        "email": f"{local}@example.com",
        "phone": f"+1202555{digest[2] % 100 + 100:04}",
        "address": {
            "line_1": f"{digest[3] + 1} {STREETS[digest[4] % len(STREETS)]}",
            "line_2": None,
            "city": city,
            "state": state,
            "postal_code": postal_code,
            "country": "US",
        },
        "metadata": {},
    }
