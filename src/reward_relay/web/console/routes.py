"""Which reward goes where: the routes in use, and what would become of a payload."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from reward_relay.errors import RequestError
from reward_relay.web.console.session import Reader, same_site
from reward_relay.web.console.views import page

router = APIRouter()
MAX_TEXT = 1 << 20


@router.get("/routes")
async def listed(request: Request, session: Reader) -> Response:
    """The routes in use, first match first."""
    return page(request, "routes.html", session, **_routes(request))


@router.get("/routes/try")
async def form(request: Request, session: Reader, delivery: str = "", source: str = "") -> Response:
    """The form for a payload, filled with a delivery's where one is named."""
    body, found = "", source
    if delivery:
        stored = await request.app.state.relay.ops.delivery(delivery)
        body, found = stored["body"], stored["source"]
    return _tried(request, session, found, body, None)


@router.post("/routes/try")
async def tried(
    request: Request,
    session: Reader,
    source: Annotated[str, Form()] = "",
    body: Annotated[str, Form(max_length=MAX_TEXT)] = "",
) -> Response:
    """What would become of it. Nothing is stored or sent."""
    same_site(request)
    ops = request.app.state.relay.ops
    try:
        result = ops.explain(source, body.encode("utf-8", "replace"), "")
    except RequestError as error:
        return _tried(request, session, source, body, None, error.detail)
    return _tried(request, session, source, body, result)


def _routes(request: Request) -> dict[str, Any]:
    relay = request.app.state.relay
    return {"routes": relay.reloading.routes, "sources": list(relay.settings.sources)}


def _tried(request: Request, session: Any, source: str, body: str, result: Any, error: str | None = None) -> Response:
    status = 422 if error else 200
    return page(
        request, "try.html", session, status, source=source, body=body, result=result, error=error, **_routes(request)
    )
