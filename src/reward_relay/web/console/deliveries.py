"""What arrived: the list, one delivery with its bytes, its reason and likely fix, and replay."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from reward_relay.errors import NotAllowed
from reward_relay.ops import VERDICTS
from reward_relay.web.console.session import Actor, Reader
from reward_relay.web.console.views import link, page
from reward_relay.web.requests import SaidInForm

router = APIRouter()
ROWS = 50
FIXES = {
    "quarantined": (
        "Mend what the reason names (the platform's webhook format, or the source's fields in the configuration), "
        "try the payload on the routes page, then replay."
    ),
    "rejected": (
        "Compare the secret in the platform's webhook settings with the source's secrets in the configuration. "
        "The platform must send it again: what is not authenticated is not kept."
    ),
    "informational": "Nothing to do: it asks for no reward.",
    "duplicate": "Nothing to do: the reward was known already.",
}


@router.get("/deliveries")
async def listed(
    request: Request, session: Reader, source: str = "", verdict: str = "", cursor: str = "", part: str = ""
) -> Response:
    """A page of deliveries, newest first."""
    relay = request.app.state.relay
    filters = {"source": source, "verdict": verdict}
    found = await relay.ops.deliveries(filters, ROWS, cursor or None)
    context = {
        "found": found,
        "filters": filters,
        "cursor": cursor,
        "verdicts": VERDICTS,
        "sources": list(relay.settings.sources),
        "fixes": FIXES,
        "next": link("/deliveries", {**filters, "cursor": found["next_cursor"]}),
        "live": link("/deliveries", {**filters, "part": "list"}),
    }
    return page(request, "deliveries_list.html" if part else "deliveries.html", session, **context)


@router.get("/deliveries/{delivery_id}")
async def one(request: Request, session: Reader, delivery_id: str) -> Response:
    """One delivery, verbatim."""
    found = await request.app.state.relay.ops.delivery(delivery_id)
    return page(request, "delivery.html", session, found=found, fix=FIXES.get(found["verdict"]))


@router.post("/deliveries/{delivery_id}/replay")
async def replay(request: Request, session: Actor, delivery_id: str, note: SaidInForm = None) -> Response:
    """Take it once more; shows the order that came of it, or the delivery with its new reason."""
    ops = request.app.state.relay.ops
    try:
        receipt = await ops.replay(delivery_id, session.name, note or "")
    except NotAllowed as error:
        found = await ops.delivery(delivery_id)
        fix = FIXES.get(found["verdict"])
        return page(request, "delivery.html", session, error.status, found=found, fix=fix, error=error.detail)
    there = f"/orders/{receipt['order_id']}" if receipt["order_id"] else f"/deliveries/{delivery_id}"
    return RedirectResponse(there, 303)
