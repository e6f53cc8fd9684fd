"""Certificates for servers on loopback: of an authority of the test's own, expired, of another name, or of nobody."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """Signs certificates; its own is in the file `trusted`."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    trusted: Path


def authority(folder: Path) -> Authority:
    """A new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate("The test's authority", key, None, days=1)
    trusted = folder / "authority.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(key, certificate, trusted)


def server(folder: Path, name: str = "localhost", *, by: Authority | None = None, days: int = 1) -> ssl.SSLContext:
    """How a server proves that it is `name`: signed `by` an authority or by itself, good for so many `days`."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(name, key, by, days)
    file = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _certificate(name: str, key: ec.EllipticCurvePrivateKey, by: Authority | None, days: int) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    began = datetime.now(UTC) - timedelta(days=10)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(datetime.now(UTC) + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if by is not None:
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
        builder = builder.add_extension(names, critical=False).add_extension(issuer, critical=False)
    return builder.sign(by.key if by else key, hashes.SHA256())


@contextmanager
def handshakes(context: ssl.SSLContext) -> Iterator[list[str | None]]:
    """The names that clients asked for when they began to talk, one for each connection."""
    begun: list[str | None] = []

    def note(_: ssl.SSLSocket | ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        begun.append(name)

    context.sni_callback = note
    yield begun
