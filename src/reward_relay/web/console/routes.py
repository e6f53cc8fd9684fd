"""Which reward goes where: the routes in use, and what would become of a payload."""

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import Response

from reward_relay.diffing import ANSWER_WITHIN_S
from reward_relay.errors import ConfigurationError, RequestError
from reward_relay.web.console.session import Actor, Reader, same_site
from reward_relay.web.console.views import page

router = APIRouter()
MAX_TEXT = 1 << 20
DIFF_LIMIT = 5000


@router.get("/routes")
async def listed(request: Request, session: Reader) -> Response:
    """The routes in use, first match first, and what is used of the caps."""
    used = await request.app.state.relay.ops.placing.used()
    return page(request, "routes.html", session, used=used, **_routes(request))


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


@router.get("/routes/diff")
async def diff_form(request: Request, session: Reader) -> Response:
    """The form for another configuration."""
    return page(request, "diff.html", session, text="", days=7, found=None, problems=[], **_routes(request))


@router.post("/routes/diff")
async def diff(
    request: Request,
    session: Actor,
    text: Annotated[str, Form(max_length=MAX_TEXT)] = "",
    days: Annotated[int, Form(ge=1, le=365)] = 7,
    file: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """What another configuration would have done. Nothing is stored, sent or put to use."""
    wanted = text
    if file is not None and file.filename:  # it may hold secrets: it is read, and not shown
        wanted = (await file.read(MAX_TEXT)).decode("utf-8", "replace")
    found, problems, status = None, [], 200
    try:
        found = await request.app.state.relay.diffing.diff(wanted, days=days, limit=DIFF_LIMIT, seconds=ANSWER_WITHIN_S)
    except ConfigurationError as error:
        problems, status = error.problems, 422
    except RequestError as error:
        problems, status = [error.detail], error.status
    context = {"text": text, "days": days, "found": found, "problems": problems}
    return page(request, "diff.html", session, status, **context, **_routes(request))


def _routes(request: Request) -> dict[str, Any]:
    relay = request.app.state.relay
    state = relay.reloading.summary()
    return {"routes": relay.reloading.routes, "sources": list(relay.settings.sources), "configuration": state}


def _tried(request: Request, session: Any, source: str, body: str, result: Any, error: str | None = None) -> Response:
    status = 422 if error else 200
    return page(
        request, "try.html", session, status, source=source, body=body, result=result, error=error, **_routes(request)
    )
