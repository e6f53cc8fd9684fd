"""Where a call may lead: to the public internet, and elsewhere only with leave.

A private or loopback address that the configuration gives as a number counts as leave: a person wrote it. Link-local
addresses (where clouds hand out credentials), multicast and the like do not: nobody's vendor lives there. They, and
names that lead to any address that is not public, must stand in `private_hosts`.
"""

import ipaddress
import re

import httpx

COUNTS_AS_LISTED = tuple(
    map(
        ipaddress.ip_network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"),
    )
)
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Its last 32 bits are an address of the old internet, where a gateway leads on to."""
NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
LOCALHOST = "localhost"


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, also seen through NAT64; 6to4 and Teredo are not."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast
    if found in NAT64:
        return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found in GLOBAL_UNICAST and found.is_global and found.sixtofour is None and found.teredo is None


def canonical(host: str) -> str:
    """A host as it is compared: lower case, international names as ASCII, without brackets and the last dot.

    Raises:
        ValueError: it is neither a name nor an address, or an address in an odd spelling (127.1, 0x7f000001).
    """
    bare = host.strip().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        name = httpx.URL(scheme="http", host=bare).raw_host.decode().removesuffix(".")
    except (httpx.InvalidURL, ValueError):
        name = ""
    if not NAME.fullmatch(name):
        raise ValueError(f"{host[:80]!r} is no host: write a name or an address, without http:// and without a port")
    if NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError(f"{host[:80]!r} is an address in an odd spelling; write it as four numbers, like 10.1.2.3")
    return name


def refusal(host: str, listed: frozenset[str]) -> str | None:
    """Why a configured host may not be called, None where it may. What a name leads to is seen when it is called.

    Raises:
        ValueError: as for `canonical`.
    """
    host = canonical(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if host in listed or is_public(host) or any(address in network for network in COUNTS_AS_LISTED):
        return None
    return f"{host} is a link-local or otherwise special address; list it in private_hosts if that is meant"
