"""Parties prove who they are, or nothing is sent to them. Real handshakes over loopback."""

import ssl
import warnings
from pathlib import Path

import pytest

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import NotSent
from reward_relay.outbound import Answer, Outbound
from support.certificates import authority, handshakes, server
from support.far_servers import answers, far_server


async def called(url: str) -> Answer:
    """The answer to an order, over the real transport."""
    outbound = Outbound(timeout_s=5)
    caller = outbound.caller("the vendor", url)
    try:
        return await caller.send(OutboundRequest("POST", caller.url("orders"), json={"po": "RR-1"}))
    finally:
        await outbound.close()


async def refused(context: ssl.SSLContext) -> str:
    """What is said of a server that nothing was sent to; it was greeted once, not again and again."""
    with handshakes(context) as begun:
        async with far_server(answers(), tls=context) as far:
            with pytest.raises(NotSent) as failure:
                await called(far.url)
    assert far.requests == []
    assert begun == ["localhost"]
    return str(failure.value)


async def test_a_certificate_of_nobody_is_not_believed(tmp_path: Path) -> None:
    said = await refused(server(tmp_path))
    assert "certificate is not believed: self-signed certificate" in said


async def test_an_authority_of_ones_own_is_believed_once_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = authority(tmp_path)
    context = server(tmp_path, by=ours)
    assert "unable to get local issuer certificate" in await refused(context)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.trusted))
    async with far_server(answers(201), tls=context) as far:
        assert (await called(far.url)).status == 201


@pytest.mark.parametrize(
    ("name", "days", "why"),
    [("elsewhere.test", 1, "not valid for 'localhost'"), ("localhost", -1, "certificate has expired")],
)
async def test_a_certificate_of_another_name_or_time_is_not_believed(
    name: str, days: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.trusted))
    assert why in await refused(server(tmp_path, name, by=ours, days=days))


async def test_encryption_of_the_last_century_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.trusted))
    context = server(tmp_path, by=ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with far_server(answers(), tls=context) as far:
        with pytest.raises(NotSent, match=r"no encrypted connection|ConnectionResetError"):
            await called(far.url)
    assert far.requests == []
