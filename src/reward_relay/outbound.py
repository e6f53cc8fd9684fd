"""The one way out: an HTTP client for each party, and the verdict on a call that failed.

A verdict says what is known of the request: `NotSent`, `Rejected` or `Unknown`. It is decided here, by exception
type and status, in `failure_of`, and nowhere else. httpx-aiohttp maps *every* broken aiohttp connection to
`httpx.ConnectTimeout`, also one that broke after the request had left; so the verdict looks at aiohttp's own
exception underneath, never at httpx's (tests/test_outbound.py shows the difference).
"""

import asyncio
import hashlib
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
from typing import Any, cast
from urllib.parse import unquote

import aiohttp
import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from reward_relay import bodies, connections
from reward_relay.addresses import canonical, refusal
from reward_relay.contracts import OutboundRequest
from reward_relay.errors import CallFailed, ConfigurationError, NotSent, Rejected, Unknown

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
    if isinstance(under, aiohttp.ClientError) and (why := connections.trouble(under)):
        return NotSent(f"{party} could not be reached: {why}")
    never_left = (
        httpx.PoolTimeout,
        httpx.UnsupportedProtocol,
        httpx.InvalidURL,
        httpx.ConnectError,
        httpx.ConnectTimeout,
    )
    if not isinstance(under, aiohttp.ClientError) and isinstance(cause, never_left):
        return NotSent(f"{party} could not be reached ({name}); check its address and that it is up")
    return Unknown(f"the connection to {party} broke after the request had left ({type(under).__name__})")


def _failure_of_answer(party: str, answer: Answer) -> CallFailed | None:
    """2xx is none; 429 was put off; 408 and 5xx may have worked; all else is a definite no."""
    status, wait = answer.status, retry_after(answer.headers)
    if 200 <= status < 300:
        return None
    if status == 429:
        return NotSent(f"{party} asked us to slow down (429)", status=status, retry_after_s=wait)
    if status == 408 or status >= 500 or status < 200:
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
    """The process's HTTP client. One of it; every party's `Caller` shares its connections.

    `timeout_s` bounds each call as a whole, `private_hosts` are those that may be (or lead to) private addresses.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 20.0,
        private_hosts: frozenset[str] = frozenset(),
        transport: TransportFactory | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.listed = frozenset(map(canonical, private_hosts))
        self._transport = transport or (lambda: connections.transport(self.listed))
        self._client: httpx.AsyncClient | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """The shared client, made inside the running event loop at its first use."""
        if self._client is None:
            whole = self.timeout_s
            timeout = httpx.Timeout(whole, connect=min(5.0, whole / 2), pool=whole / 2)  # pool: name and connection
            self._client = httpx.AsyncClient(
                transport=self._transport(),
                timeout=timeout,
                headers={"user-agent": "reward-relay", "accept-encoding": bodies.WANTED},
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
            ConfigurationError: `base_url` is not an http(s) address, or one that may not be called.
        """
        return Caller(self, party, base_url)


class Caller:
    """Calls one party: `party` is its name in messages, `base_url` what relative URLs start from.

    Nothing outside `base_url` is ever called, whatever ids and links came from payloads and answers.
    """

    def __init__(self, outbound: Outbound, party: str, base_url: str) -> None:
        self._outbound = outbound
        self.party = party
        self.base_url = base_url.rstrip("/")
        try:
            self._base = httpx.URL(self.base_url)
            wrong = self._base.scheme not in ("http", "https") or not self._base.host or self._base.userinfo
            trouble = refusal(self._base.host, outbound.listed) if not wrong else "it is no plain http(s) URL"
            trouble = trouble or (None if self.reaches(self.base_url) else "it has dots in its path")
        except (httpx.InvalidURL, ValueError) as error:
            trouble = str(error)
        if trouble:
            raise ConfigurationError([f"the address of {party} cannot be called: {trouble}"])

    def url(self, path: str) -> str:
        """`path` below the party's address."""
        return f"{self.base_url}/{path.lstrip('/')}"

    def reaches(self, url: str) -> bool:
        """Whether `url` is below the party's address, also for those who read dots and escapes in another way."""
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            return False
        base, steps = self._base, url.partition("://")[2].partition("?")[0].partition("#")[0]
        strays = any(unquote(step) in (".", "..") for step in steps.replace("\\", "/").split("/"))
        below = target.path == base.path or target.path.startswith(base.path.rstrip("/") + "/")
        same = (target.scheme, target.raw_host, target.port, target.userinfo) == (
            base.scheme,
            base.raw_host,
            base.port,
            base.userinfo,
        )
        return same and below and not strays

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
            CallFailed: no whole answer came within `timeout_s`, however often it was tried.
        """
        if not self.reaches(request.url):
            raise Rejected(f"nothing was sent: an id or link in this call leads away from the address of {self.party}")
        client = self._outbound.client  # made before the clock runs: the first time it reads all authorities
        try:
            async with asyncio.timeout(self._outbound.timeout_s):
                return await self._patiently(client, request, read)
        except TimeoutError as error:
            raise failure_of(self.party, error) or error from None

    async def _patiently(self, client: httpx.AsyncClient, request: OutboundRequest, read: bool) -> Answer:

        def repeatable(error: BaseException) -> bool:
            if isinstance(error, NotSent):
                return not connections.lasts(error.__cause__ and error.__cause__.__cause__)
            return read and isinstance(error, Unknown)

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(INNER_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            retry=retry_if_exception(repeatable),
            reraise=True,
        ):
            with attempt:
                return await self._exchange(client, request)
        raise AssertionError("unreachable: tenacity returns or raises")

    async def _exchange(self, client: httpx.AsyncClient, request: OutboundRequest) -> Answer:
        content = None if request.json is None else encoded(request.json)
        began, status = time.perf_counter(), None
        try:
            answer = await self._once(client, request, content)
            status = answer.status
            return answer
        finally:
            made = _noted.get()
            if made is not None:
                took_ms = round((time.perf_counter() - began) * 1000, 1)
                sent = {"method": request.method, "url": request.url, "sha256": digest(content)}
                made.append({**sent, "status": status, "took_ms": took_ms})

    async def _once(self, client: httpx.AsyncClient, request: OutboundRequest, content: bytes | None) -> Answer:
        secrets = {name: value.get_secret_value() for name, value in request.secret_headers.items()}
        headers = {**request.headers, **secrets}
        if content is not None:
            headers.setdefault("Content-Type", "application/json")
        try:
            async with client.stream(request.method, request.url, content=content, headers=headers) as response:
                body = await self._body(response)
                given = {name.lower(): value for name, value in response.headers.items()}
                hidden = tuple(secrets.values())
                body = body if response.is_success else without_secrets(body, hidden)
                return Answer(response.status_code, given, body, hidden)
        except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            failure = failure_of(self.party, error)
            raise failure or error from error

    async def _body(self, response: httpx.Response) -> bytes:
        status, stream = response.status_code, cast(httpx.AsyncByteStream, response.stream)
        try:
            return await bodies.read(stream, response.headers.get("content-encoding", ""), MAX_ANSWER_BYTES)
        except bodies.TooMuch:
            raise Unknown(f"{self.party} answered more than 1 MiB; the rest was not read", status=status) from None
        except bodies.Odd as odd:
            raise Unknown(f"the answer of {self.party} cannot be read: {odd}", status=status) from None
