"""The two doors that the outside posts to: platforms' webhooks and vendors' callbacks."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from reward_relay.contracts import InboundRequest
from reward_relay.errors import EncodedBody, RequestError
from reward_relay.metrics import INTAKE, INTAKE_SECONDS
from reward_relay.web.documented import errors
from reward_relay.web.front import Refused
from reward_relay.web.schemas import Receipt, Taken

router = APIRouter(tags=["webhooks"])
ERRORS = errors(401, 404, 408, 413, 415, 503)


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "What the platform posts: JSON or a form, at most 1 MiB",
        "content": {
            "application/json": {"schema": {}, "example": {"event": "reward.redeemed"}},
            "application/x-www-form-urlencoded": {"schema": {"type": "object"}},
        },
    }
}
TOKENS: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": where, "required": False, "schema": {"type": "string"}, "description": text}
        for name, where, text in (
            ("X-Webhook-Token", "header", "A secret of the source, for platforms that send a token"),
            ("token", "query", "The same, for platforms that cannot send headers"),
        )
    ]
}
CALLBACK: dict[str, Any] = {"requestBody": {**BODY["requestBody"], "required": False}}


@router.post(
    "/webhooks/{source}", status_code=202, response_model=Receipt, responses=ERRORS, openapi_extra=BODY | TOKENS
)
async def post_webhook(source: str, request: Request) -> JSONResponse:
    """A platform's webhook. Stored before it is answered; 2xx also for what we cannot read.

    While PostgreSQL is away it is stored on this machine's disk: `order_id` is null then, `verdict` is what the
    payload says by itself (a repeated one is told as `accepted`), `reason` says so, and `delivery_id` stays.
    """
    began = time.perf_counter()
    intake = request.app.state.relay.intake
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers.raw}
    try:
        try:
            body = await request.body()
        except Refused as refused:
            if isinstance(refused.error, EncodedBody):
                intake.rejected(source, InboundRequest(b"", headers), refused.error)
            raise refused.error from None
        receipt = await intake.receive(source, InboundRequest(body, headers, dict(request.query_params)))
    except RequestError as error:
        known = source if source in request.app.state.relay.settings.sources else "unknown"
        INTAKE.labels(known, error.code).inc()
        raise
    INTAKE.labels(source, receipt.verdict).inc()
    INTAKE_SECONDS.observe(time.perf_counter() - began)
    answer = {"delivery_id": receipt.delivery_id, "order_id": receipt.order_id, "verdict": receipt.verdict}
    if receipt.spooled or receipt.verdict in ("quarantined", "informational"):
        answer["reason"] = receipt.reason
    return JSONResponse(answer, status_code=202)


@router.post(
    "/vendor-webhooks/{vendor}/{token}",
    status_code=202,
    response_model=Taken,
    responses=errors(404, 408, 413, 429, 503),
    openapi_extra=CALLBACK,
)
async def post_vendor_webhook(vendor: str, token: str, request: Request) -> JSONResponse:
    """A vendor's callback about one order. Its body is not believed: the relay asks the vendor itself, soon."""
    await request.body()
    await request.app.state.relay.intake.hint(vendor, token)
    return JSONResponse({"verdict": "accepted"}, status_code=202)
