"""Connections to the parties: which addresses are connected to, whose certificates are believed, how long one lasts.

Neither proxies nor passwords are taken from the environment. Of it only OpenSSL's `SSL_CERT_FILE` and `SSL_CERT_DIR`
count, for those with an authority of their own.
"""

import errno
import ssl
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from httpx_aiohttp import AiohttpTransport

from reward_relay.addresses import LOCALHOST, canonical, is_public
from reward_relay.lookups import OwnThreads

IDLE_S = 15
DNS_KEPT_S = 30


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to an address that is not public, unless they are listed.

    aiohttp connects to the addresses that it is given here and asks nobody again, so what was checked is what is
    called. One address that is not public among others is enough to refuse: it could be the one that is taken.
    """

    def __init__(self, listed: frozenset[str]) -> None:
        self._allowed = listed | {LOCALHOST}
        self._resolver = aiohttp.ThreadedResolver(loop=OwnThreads())  # type: ignore[arg-type]  # all that it asks of a loop

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            OSError: it does not resolve.
            PermissionError: it leads to an address that is not public, without leave.
        """
        found = await self._resolver.resolve(host, port, family)
        if _canonical(host) in self._allowed or all(is_public(each["host"]) for each in found):
            return found
        why = f"{host} resolves to a private address; list it in private_hosts if that is meant"
        raise PermissionError(errno.EACCES, why)

    async def close(self) -> None:
        """Nothing is held open."""
        await self._resolver.close()


def _canonical(host: str) -> str:
    try:
        return canonical(host)
    except ValueError:
        return ""


class _Connector(aiohttp.TCPConnector):
    """Gives no connection out again on which something came that nobody had asked for.

    It would be read as the answer to the next request: another order's.
    """

    async def _get(self, key: Any, traces: Any) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return None


def tls() -> ssl.SSLContext:
    """How parties prove who they are: TLS 1.2 or newer, an authority of the system's, a certificate for the host."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def transport(listed: frozenset[str]) -> httpx.AsyncBaseTransport:
    """The transport of all calls; hosts in `listed` may be private."""
    context = tls()

    def session() -> aiohttp.ClientSession:
        connector = _Connector(
            limit=0,
            ssl=context,
            resolver=PublicResolver(listed),
            keepalive_timeout=IDLE_S,
            ttl_dns_cache=DNS_KEPT_S,
        )
        found = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        found._retry_connection = False  # it would repeat a GET, PUT or DELETE that may have arrived
        return found

    return AiohttpTransport(verify=context, trust_env=False, client=session)


def trouble(error: aiohttp.ClientError | OSError) -> str | None:
    """Why a request never left, for people; None where it may have. Without the URL, which can hold a name or a key."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        said = getattr(cause, "verify_message", "") or str(cause)
        return f"its certificate is not believed: {said}. Check the address; docs/outbound-calls.md says more"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        said = getattr(error.os_error, "reason", None) or error.os_error
        return f"no encrypted connection: {said}. Is it https there, with TLS 1.2 or newer?"
    if isinstance(error, aiohttp.ClientConnectorError):
        said = error.os_error.strerror or str(error.os_error) or type(error.os_error).__name__
        return f"{said}; check its address and that it is up"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time; check its address and that it is up"
    if isinstance(error, aiohttp.InvalidURL):
        return "its address is no URL; check it"
    return None


def lasts(error: BaseException | None) -> bool:
    """Whether trouble will be the same in a second, or took its time already: no reason to try again at once."""
    refused = isinstance(getattr(error, "os_error", None), PermissionError)
    lasting = (aiohttp.ClientConnectorCertificateError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
    return refused or isinstance(error, lasting)
