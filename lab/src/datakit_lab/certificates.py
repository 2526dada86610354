"""A certificate authority of the lab's own, and certificates for its servers on this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from datakit_lab.network import LOOPBACK, own_names

_LIFE: Final = timedelta(days=90)
_BACKDATED: Final = timedelta(hours=1)  # clients whose clock is behind


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Three PEM files: ``authority`` for clients, ``certificate`` (with the authority's) and ``key`` for the server."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def in_folder(cls, directory: Path) -> ServerCertificate:
        """Return the paths that :func:`issue_certificate` writes in ``directory``."""
        return cls(directory / "authority.pem", directory / "server.pem", directory / "server.key")


def issue_certificate(
    directory: Path, hosts: Iterable[str] | None = None, *, now: datetime | None = None, life: timedelta = _LIFE
) -> ServerCertificate:
    """Make an authority and a server certificate in ``directory``; the authority's own key is not kept.

    :param hosts: names and addresses the server is called by; this machine's loopback names if None.
    :param now: start of the life, for certificates that have expired; the present if None.
    """
    names = list(hosts) if hosts is not None else [*own_names(), LOOPBACK, "::1"]
    start = (now or datetime.now(UTC)) - _BACKDATED
    end = start + _BACKDATED + life
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("Datakit lab authority")
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(names[0]), authority_name, key.public_key(), start, end)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )

    issued = ServerCertificate.in_folder(directory)
    pem = serialization.Encoding.PEM
    issued.authority.write_bytes(authority.public_bytes(pem))
    issued.certificate.write_bytes(certificate.public_bytes(pem) + authority.public_bytes(pem))
    issued.key.touch(mode=0o600)
    issued.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return issued


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
