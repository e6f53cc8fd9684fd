"""The one way out: an HTTP client for each party, and the verdict on a call that failed.

A verdict says what is known of the request: `NotSent`, `Rejected` or `Unknown`. It is decided here, by exception
type and status, in `failure_of`, and nowhere else. httpx-aiohttp maps *every* broken aiohttp connection to
`httpx.ConnectTimeout`, also one that broke after the request had left; so the verdict looks at aiohttp's own
exception underneath, never at httpx's (tests/test_outbound.py shows the difference).
"""

import hashlib
import ipaddress
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import CallFailed, ConfigurationError, NotSent, Rejected, Unknown
from reward_relay.lookups import OwnThreads

MAX_ANSWER_BYTES = 1 << 20
KEPT_ANSWER_CHARS = 500
SHORTEST_SECRET = 6
INNER_ATTEMPTS = 3
"""How often one call repeats what was never sent, or a pure read."""


MAX_WAIT_S = 86_400.0
"""The longest a party's `Retry-After` may put an order off: a day."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a party answered: status, headers (lower-case names), and at most 1 MiB of body.

    `secrets` are those of our request. The body of an error is without them; that of a success is as it came, since
    what we read from it (a token, an order id) may hold the same letters, and only `kept` masks it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def json(self) -> Any:
        """The body as JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def kept(self) -> str:
        """The body trimmed for the record. Only for answers that hold no claim data."""
        return trim(without_secrets(self.body, self.secrets).decode("utf-8", "replace"))


def trim(text: str) -> str:
    """Text that may go into the record of a call: printable, at most 500 characters."""
    text = text.replace("\x00", "")
    return text if len(text) <= KEPT_ANSWER_CHARS else text[: KEPT_ANSWER_CHARS - 1] + "…"


def encoded(content: Any) -> bytes:
    """The bytes that a request's JSON is sent as, for whoever signs them."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def without_secrets(body: bytes, secrets: Iterable[str]) -> bytes:
    """A party's answer without the secrets of our request: some error pages repeat what they got."""
    for secret in secrets:
        for part in (secret, secret.partition(" ")[2]):
            if len(part) >= SHORTEST_SECRET:
                body = body.replace(part.encode(), b"***")
    return body


def failure_of(party: str, cause: Answer | BaseException) -> CallFailed | None:
    """The verdict on an answer or on the exception a call ended with; None where the answer is a 2xx."""
    if isinstance(cause, Answer):
        return _failure_of_answer(party, cause)
    if isinstance(cause, CallFailed):
        return cause
    name = type(cause).__name__
    if isinstance(cause, TimeoutError):
        return Unknown(f"{party} did not answer in time; it may or may not have taken the request")
    under = cause.__cause__ or cause
    never_left = (
        aiohttp.ClientConnectorError,  # DNS, refused, unreachable, TLS handshake
        aiohttp.ConnectionTimeoutError,
        aiohttp.InvalidURL,
        httpx.PoolTimeout,
        httpx.UnsupportedProtocol,
        httpx.InvalidURL,
    )
    plain_httpx = not isinstance(under, aiohttp.ClientError)
    if isinstance(under, never_left) or (plain_httpx and isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)):
        reason = trim(str(under) or name)
        return NotSent(f"{party} could not be reached ({reason}); check its address and that it is up")
    return Unknown(f"the connection to {party} broke after the request had left ({type(under).__name__})")


def _failure_of_answer(party: str, answer: Answer) -> CallFailed | None:
    """2xx is none; 429 was put off; 408 and 5xx may have worked; all else is a definite no."""
    status, wait = answer.status, retry_after(answer.headers)
    if 200 <= status < 300:
        return None
    if status == 429:
        return NotSent(f"{party} asked us to slow down (429)", status=status, retry_after_s=wait)
    if status == 408 or status >= 500:
        return Unknown(f"{party} answered {status}; it may or may not have worked", status=status, retry_after_s=wait)
    if 300 <= status < 400:
        where = "; the address in the configuration is probably wrong (redirects are not followed)"
        return Rejected(f"{party} answered {status}, a redirect{where}", status=status)
    return Rejected(f"{party} answered {status}", status=status)


def bounded_wait(seconds: float) -> float:
    """A party's wish to wait, in seconds, made safe: nothing negative, infinite or longer than a day."""
    return min(max(seconds, 0.0), MAX_WAIT_S) if math.isfinite(seconds) else MAX_WAIT_S


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header, given as a number or a date (RFC 9110, 10.2.3); None where there is none."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return bounded_wait(float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return bounded_wait((at - datetime.now(UTC)).total_seconds())


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those of the public internet that lead into private ranges.

    A host that the configuration names as an address, as `localhost` or in `private_hosts` was meant; any other
    name that resolves to a private, loopback or link-local address is a mistake or an attack (DNS rebinding).
    """

    def __init__(self, private_hosts: frozenset[str]) -> None:
        self._allowed = private_hosts | {"localhost"}
        self._resolver = aiohttp.ThreadedResolver(loop=OwnThreads())  # type: ignore[arg-type]  # all that it asks of a loop

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            OSError: it does not resolve, or resolves to a private address without leave.
        """
        found = await self._resolver.resolve(host, port, family)
        if host.lower() in self._allowed:
            return found
        if any(not ipaddress.ip_address(each["host"].partition("%")[0]).is_global for each in found):
            raise OSError(f"{host} resolves to a private address; list it in private_hosts if that is meant")
        return found

    async def close(self) -> None:
        """Nothing is held open."""
        await self._resolver.close()


_noted: ContextVar[list[dict[str, Any]] | None] = ContextVar("noted", default=None)


@contextmanager
def exchanges() -> Iterator[list[dict[str, Any]]]:
    """Collects what is sent during the block, by any `Caller`: method, url, the SHA-256 of the body, status, took_ms.

    A status of None: no whole answer came.
    """
    made: list[dict[str, Any]] = []
    token = _noted.set(made)
    try:
        yield made
    finally:
        _noted.reset(token)


def digest(content: bytes | None) -> str | None:
    """The SHA-256 of a body, as a hexadecimal number."""
    return None if content is None else hashlib.sha256(content).hexdigest()


TransportFactory = Callable[[], httpx.AsyncBaseTransport]


class Outbound:
    """The process's HTTP client. One of it; every party's `Caller` shares its connections."""

    def __init__(
        self,
        *,
        timeout_s: float = 20.0,
        private_hosts: frozenset[str] = frozenset(),
        transport: TransportFactory | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._private_hosts = private_hosts
        self._transport = transport or self._aiohttp
        self._client: httpx.AsyncClient | None = None

    def _aiohttp(self) -> httpx.AsyncBaseTransport:
        def session() -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(
                limit=0, resolver=PublicResolver(self._private_hosts), keepalive_timeout=15, ttl_dns_cache=30
            )
            found = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            found._retry_connection = False  # it would repeat a GET, PUT or DELETE that may have arrived
            return found

        return AiohttpTransport(client=session)

    @property
    def client(self) -> httpx.AsyncClient:
        """The shared client, made inside the running event loop at its first use."""
        if self._client is None:
            timeout = httpx.Timeout(self._timeout_s, connect=min(5.0, self._timeout_s))
            self._client = httpx.AsyncClient(
                transport=self._transport(),
                timeout=timeout,
                headers={"user-agent": "reward-relay"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # orders share no cookies
            )
        return self._client

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def caller(self, party: str, base_url: str) -> "Caller":
        """A client for one party.

        Raises:
            ConfigurationError: `base_url` is not an http(s) address.
        """
        return Caller(self, party, base_url)


class Caller:
    """Calls one party: `party` is its name in messages, `base_url` what relative URLs start from."""

    def __init__(self, outbound: Outbound, party: str, base_url: str) -> None:
        self._outbound = outbound
        self.party = party
        self.base_url = base_url.rstrip("/")
        url = httpx.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigurationError([f"the address of {party} is not an http(s) URL: {base_url!r}"])

    def url(self, path: str) -> str:
        """`path` below the party's address."""
        return f"{self.base_url}/{path.lstrip('/')}"

    async def send(self, request: OutboundRequest, *, read: bool = False) -> Answer:
        """Send, and return a 2xx answer. `read` marks a request without effect, which may be repeated freely.

        Raises:
            CallFailed: the verdict on anything else than a 2xx.
        """
        answer = await self.exchange(request, read=read)
        failure = failure_of(self.party, answer)
        if failure is not None:
            failure.answer = answer.kept()
            raise failure
        return answer

    async def exchange(self, request: OutboundRequest, *, read: bool = False) -> Answer:
        """Send, and return the answer whatever its status; repeats inside only what was never sent, and pure reads.

        Raises:
            CallFailed: no whole answer came.
        """

        def repeatable(error: BaseException) -> bool:
            return isinstance(error, NotSent) or (read and isinstance(error, Unknown))

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(INNER_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            retry=retry_if_exception(repeatable),
            reraise=True,
        ):
            with attempt:
                return await self._exchange(request)
        raise AssertionError("unreachable: tenacity returns or raises")

    async def _exchange(self, request: OutboundRequest) -> Answer:
        content = None if request.json is None else encoded(request.json)
        began, status = time.perf_counter(), None
        try:
            answer = await self._once(request, content)
            status = answer.status
            return answer
        finally:
            made = _noted.get()
            if made is not None:
                took_ms = round((time.perf_counter() - began) * 1000, 1)
                sent = {"method": request.method, "url": request.url, "sha256": digest(content)}
                made.append({**sent, "status": status, "took_ms": took_ms})

    async def _once(self, request: OutboundRequest, content: bytes | None) -> Answer:
        secrets = {name: value.get_secret_value() for name, value in request.secret_headers.items()}
        headers = {**request.headers, **secrets}
        if content is not None:
            headers.setdefault("Content-Type", "application/json")
        try:
            async with self._outbound.client.stream(
                request.method, request.url, content=content, headers=headers
            ) as response:
                body = await self._body(response)
                given = {name.lower(): value for name, value in response.headers.items()}
                hidden = tuple(secrets.values())
                body = body if response.is_success else without_secrets(body, hidden)
                return Answer(response.status_code, given, body, hidden)
        except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            failure = failure_of(self.party, error)
            raise failure or error from error

    async def _body(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise Unknown(
                    f"{self.party} answered more than 1 MiB; the rest was not read",
                    status=response.status_code,
                )
            parts.append(part)
        return b"".join(parts)
