"""Which addresses are of the public internet, and which hosts may be configured."""

import ipaddress
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from reward_relay.addresses import canonical, is_public, refusal

PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]
OURS = ["127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "172.31.255.254", "192.168.1.1", "::1", "fd00::1"]
SPECIAL = [
    "0.0.0.0",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "192.0.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:93.184.215.14",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001:0:1::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",
    "2002:5db8:d70e::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_may_be_called(address: str) -> None:
    assert is_public(address)
    assert refusal(address, frozenset()) is None


@pytest.mark.parametrize("address", OURS)
def test_a_private_address_may_be_configured_but_no_name_may_lead_there(address: str) -> None:
    assert not is_public(address)
    assert refusal(address, frozenset()) is None


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_address_must_be_listed(address: str) -> None:
    assert not is_public(address)
    assert "private_hosts" in (refusal(address, frozenset()) or "")
    assert refusal(address, frozenset({canonical(address)})) is None


@given(some.ip_addresses())
def test_every_address_is_public_or_not_and_never_both_ways(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    shown = str(address)
    if is_public(shown):
        assert address.is_global and not address.is_multicast and not address.is_loopback
        assert not is_public(f"::ffff:{shown}") if address.version == 4 else True


@given(some.ip_addresses(v=4))
def test_an_old_address_is_judged_alike_behind_a_gateway(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"64:ff9b::{address}") == is_public(str(address))


SAME = {
    "api.example.com": ["API.Example.COM", "api.example.com.", " api.example.com "],
    "xn--bcher-kva.example": ["bücher.example", "BÜCHER.example."],
    "::1": ["[::1]", "0:0:0:0:0:0:0:1"],
    "my_service": ["My_Service"],
}


@pytest.mark.parametrize(("host", "spelling"), [(host, each) for host, found in SAME.items() for each in found])
def test_hosts_are_compared_in_one_form(host: str, spelling: str) -> None:
    assert canonical(spelling) == host
    assert canonical(host) == host


ODD = [
    "0",
    "127.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "127.0.0.1.",
    "1.2.3.4.5",
    "a.0x",
]
NO_HOST = [
    "127.0.0.01",
    "",
    ".",
    "a b",
    "http://a",
    "a:80",
    "a/b",
    "a@b",
    "-a",
    "a..b/",
    "*",
    "*.example.com",
    "１２７.0.0.1",
    "a\r\nb",
]


@pytest.mark.parametrize("host", ODD)
def test_an_address_in_an_odd_spelling_is_a_mistake(host: str) -> None:
    with pytest.raises(ValueError, match="odd spelling"):
        refusal(host, frozenset())


@pytest.mark.parametrize("host", NO_HOST)
def test_what_is_no_host_is_a_mistake(host: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        canonical(host)


@given(some.text())
def test_nothing_else_than_a_value_error_comes_of_any_text(host: str) -> None:
    with suppress(ValueError):
        assert canonical(canonical(host)) == canonical(host)
