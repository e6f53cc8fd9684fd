"""Who looks at the console: a signed cookie, made from the same keys as the API's.

The cookie holds the name of the key and the time, signed with a secret that is derived from that key: a key that is
changed or taken away ends its sessions. It is http-only, same-site, and no request of another site may change
anything (`same_site`), whatever the browser sends along.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from itsdangerous import BadSignature, TimestampSigner
from starlette.responses import Response

from reward_relay.errors import Forbidden, RequestError
from reward_relay.keys import may_act
from reward_relay.settings import ApiKey

COOKIE = "relay_session"
LASTS_S = 12 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    """A person who has signed in."""

    name: str
    role: str

    @property
    def operates(self) -> bool:
        """Whether the key's role is operator."""
        return self.role == "operator"


class SignInNeeded(RequestError):
    """Nobody has signed in, or the session has ended; `to` is where sign-in leads back to."""

    status = 401
    code = "unauthenticated"

    def __init__(self, to: str) -> None:
        self.to = to
        super().__init__("sign in first")


def sign_in(response: Response, request: Request, name: str, key: ApiKey) -> None:
    """Give the browser a session of twelve hours."""
    value = _signer(key).sign(name).decode()
    secure = request.url.scheme == "https" or (_settings(request).public_url or "").startswith("https:")
    response.set_cookie(COOKIE, value, max_age=LASTS_S, httponly=True, samesite="lax", secure=secure, path="/")


def sign_out(response: Response) -> None:
    """Take the session away."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")


def reader(request: Request) -> Session:
    """Who has signed in.

    Raises:
        SignInNeeded: nobody, or the cookie is old, forged, or of a key that is gone.
    """
    given = request.cookies.get(COOKIE, "")
    key = _settings(request).api_keys.get(given.partition(".")[0])
    if key is not None:
        try:
            name = _signer(key).unsign(given, max_age=LASTS_S).decode()
            return Session(name, key.role)
        except BadSignature:
            pass
    query = f"?{request.url.query}" if request.url.query else ""
    raise SignInNeeded(request.url.path + query if request.method == "GET" else "/")


def actor(request: Request) -> Session:
    """Who has signed in and may act.

    Raises:
        SignInNeeded: nobody.
        Forbidden: a viewer, or a form that another site has sent.
    """
    session = reader(request)
    same_site(request)
    may_act(session.name, session.role)
    return session


def same_site(request: Request) -> None:
    """Refuse what another site's page makes the browser send (the Fetch standard's headers; Origin in older browsers).

    Raises:
        Forbidden: the request comes from elsewhere, or does not say from where.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none"):
        return
    if site is None and origin and urlsplit(origin).netloc == request.headers.get("host"):
        return
    raise Forbidden("this came from another site's page; open the console itself and do it there")


def safe_target(to: str) -> str:
    """A path of ours to go to after sign-in; never another site."""
    good = to.startswith("/") and not to.startswith("//") and "\\" not in to and to.isprintable()
    return quote(to, safe="/?&=%:+,-._~") if good else "/"


def _signer(key: ApiKey) -> TimestampSigner:
    secret = hashlib.sha256(b"reward-relay session\0" + key.key.get_secret_value().encode()).digest()
    return TimestampSigner(secret, salt="reward-relay", digest_method=hashlib.sha256)


def _settings(request: Request) -> Any:
    return request.app.state.relay.settings


Reader = Annotated[Session, Depends(reader)]
Actor = Annotated[Session, Depends(actor)]
