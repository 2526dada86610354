"""TLS as TDS wants it: the handshake wrapped in PRELOGIN packets, and perhaps only the login encrypted."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509


class TlsMode(Enum):
    """What the server answers to a client's wish.

    ``OFF``: no encryption at all. ``ON``: as the client asks; one that asks for none still has its login encrypted,
    as with SQL Server. ``REQUIRED``: everything is encrypted ("Force Encryption").
    """

    OFF = "off"
    ON = "on"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's encryption: mode, certificate chain and key (PEM files)."""

    mode: TlsMode
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return the server's TLS context; None when encryption is off.

        :raises ValueError: the mode needs a certificate and there is none.
        """
        if self.mode is TlsMode.OFF:
            return None
        if self.certificate is None:
            raise ValueError(f"TLS mode {self.mode.value} needs a certificate; datakit_lab.sqlserver.tls makes one")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # TDS 7.4 ends at TLS 1.2: after 1.3's handshake a server still sends tickets, which no client expects here.
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context

    def strict_context(self) -> ssl.SSLContext | None:
        """Return the context for clients that begin with TLS (TDS 8.0, ``Encrypt=strict``)."""
        context = self.context()
        if context is not None:
            context.maximum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols(["tds/8.0"])
        return context


def make_certificate(folder: Path, names: tuple[str, ...]) -> tuple[Path, Path]:
    """Make a certificate authority and a server certificate it signed for ``names`` (hosts or IP addresses).

    Returns the paths of the chain (server certificate, then the authority's: trust ``ca.pem`` beside it) and the key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def build(subject: str, issuer: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=365))
        )

    authority = "datakit-lab authority"
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = (
        build(authority, authority, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    server = (
        build(names[0], authority, key.public_key())
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    chain, key_path = folder / "server.pem", folder / "server.key"
    chain.write_bytes(server.public_bytes(pem) + ca.public_bytes(pem))
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return chain, key_path


def _general_name(name: str) -> x509.GeneralName:  # type: ignore[name-defined]
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
