"""Sign-in, the overview, parties; and the router that has every page."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response

from reward_relay.errors import DatabaseUnavailable, NotAllowed, NotFound, RequestError, Unauthenticated
from reward_relay.keys import NONE_CONFIGURED, actor_of
from reward_relay.states import Outcome
from reward_relay.web.console import deliveries, orders, reconcile, routes
from reward_relay.web.console.charts import Bar
from reward_relay.web.console.session import (
    Actor,
    Reader,
    SignInNeeded,
    reader,
    safe_target,
    same_site,
    sign_in,
    sign_out,
)
from reward_relay.web.console.views import HEADERS, STATIC, link, page
from reward_relay.web.requests import SaidInForm


async def look_at_placing(request: Request) -> None:
    """For the banner of every page: why nothing is placed, None where placing is on or nobody knows."""
    request.state.stopped = None
    if request.method == "GET" and not request.url.path.startswith("/console/"):
        with suppress(DatabaseUnavailable):
            request.state.stopped = await request.app.state.relay.ops.placing.stopped()


router = APIRouter(include_in_schema=False, dependencies=[Depends(look_at_placing)])
AWAY = "PostgreSQL cannot be reached just now. {} Pages and actions work again when it is back; nothing is restarted."
FILES = {path.name: path for path in STATIC.iterdir() if path.is_file()}
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@router.get("/console/{name}")
async def static(name: str) -> Response:
    """A file of the console: style sheet and scripts."""
    if name not in FILES:
        raise NotFound(f"there is no file {name}")
    headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return FileResponse(FILES[name], media_type=TYPES[FILES[name].suffix], headers=headers)


@router.get("/login")
async def login(request: Request, to: str = "/") -> Response:
    """The form for a key."""
    closed = None if request.app.state.relay.settings.api_keys else NONE_CONFIGURED
    return page(request, "login.html", None, to=safe_target(to), error=closed)


@router.post("/login")
async def enter(request: Request, key: Annotated[str, Form()] = "", to: Annotated[str, Form()] = "/") -> Response:
    """Start a session with a key."""
    same_site(request)
    keys = request.app.state.relay.settings.api_keys
    try:
        name, entry = actor_of(keys, key.strip())
    except Unauthenticated as error:
        return page(request, "login.html", None, 401, to=safe_target(to), error=error.detail)
    answer = RedirectResponse(safe_target(to), 303)
    sign_in(answer, request, name, entry)
    return answer


@router.post("/logout")
async def leave(request: Request) -> Response:
    """End the session."""
    same_site(request)
    answer = RedirectResponse("/login", 303)
    sign_out(answer)
    return answer


@router.get("/")
async def overview(request: Request, session: Reader, part: str = "") -> Response:
    """What needs somebody, what waits for whom, what flowed."""
    found = await request.app.state.relay.glance.look()
    template = "overview_live.html" if part else "overview.html"
    return page(request, template, session, found=found, charts=charts(found["flow"]))


def charts(flow: Any) -> list[dict[str, Any]]:
    """For each time: its name, a chart of what came and one of what ended, and their sums."""
    made = []
    for name, shape in flow.items():
        came, ended = [], []
        for bucket in shape["buckets"]:
            start = datetime.now(UTC) - timedelta(seconds=shape["width_s"] * (bucket["ago"] + 1))
            label = f"from {start:%H:%M} UTC"
            came.append(Bar(label, {"came": bucket["came"]}))
            ended.append(Bar(label, {str(each): bucket[each] for each in Outcome}))
        sums = {str(each): sum(bar.parts[each] for bar in ended) for each in Outcome}
        made.append({"name": name, "came": came, "ended": ended, "arrived": sum(b.total for b in came), "sums": sums})
    return made


@router.get("/parties")
async def parties(request: Request, session: Reader) -> Response:
    """Every platform and vendor, with its health and what can be done."""
    return page(request, "parties.html", session, found=await request.app.state.relay.ops.summary())


@router.post("/parties/{party}/{action}")
async def steer_party(request: Request, session: Actor, party: str, action: str, note: SaidInForm = None) -> Response:
    """Pause or resume a party."""
    ops = request.app.state.relay.ops
    doing = {"pause": ops.pause, "resume": ops.resume}.get(action)
    if doing is None:
        raise NotFound(f"there is no action {action!r}")
    done = await doing(party, session.name, note or "")
    if done.get("kept"):
        found = await ops.summary()
        return page(request, "parties.html", session, 409, found=found, error="; ".join(done["kept"].values()))
    return RedirectResponse("/parties", 303)


@router.post("/placing/{action}")
async def steer_placing(request: Request, session: Actor, action: str, note: SaidInForm = None) -> Response:
    """Stop placing, or let it go on."""
    ops = request.app.state.relay.ops
    doing = {"pause": ops.placing.pause, "resume": ops.placing.resume}.get(action)
    if doing is None:
        raise NotFound(f"there is no action {action!r}")
    try:
        await doing(session.name, note or "")
    except NotAllowed as error:
        return page(request, "parties.html", session, 409, found=await ops.summary(), error=error.detail)
    return RedirectResponse("/parties", 303)


def problem(request: Request, error: Exception) -> Response:
    """An error as a page; to sign-in where that is what is missing."""
    if isinstance(error, SignInNeeded):
        to = link("/login", {"to": error.to if error.to != "/" else None})
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={**HEADERS, "HX-Redirect": to})
        return RedirectResponse(to, 303)
    status, detail = 500, "something failed inside the relay; its log has the details"
    if isinstance(error, RequestError):
        status, detail = error.status, error.detail
    elif isinstance(error, HTTPException):
        status, detail = error.status_code, f"{error.detail}: the page was not asked for as its form does"
    elif isinstance(error, DatabaseUnavailable):
        status, detail = 503, AWAY.format(request.app.state.relay.shelter.outlook())
    try:
        session = reader(request)
    except SignInNeeded:
        session = None
    return page(request, "problem.html", session, status, detail=detail, number=status)


for module in (orders, deliveries, routes, reconcile):
    router.include_router(module.router)
