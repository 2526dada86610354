"""How an image came to be: an in-toto statement with SLSA's provenance, signed as a DSSE envelope if there is a key.

https://slsa.dev/spec/v1.0/provenance · https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md ·
https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md
"""

from __future__ import annotations

import base64
import binascii
import getpass
import hashlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from datakit.errors import ConfigurationError, DriverMissing, ImageCorrupt
from datakit.release._annotations import Release
from datakit.release._media import encoded
from datakit.release.attachments import PROVENANCE, SIGNED_PROVENANCE, Attachment
from datakit.release.image import Image

_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://slsa.dev/provenance/v1"
_BUILD_TYPE: Final = "urn:datakit:build:v1"
_PAYLOAD: Final = "application/vnd.in-toto+json"


def provenance(image: Image, repository: str, source: str, now: datetime) -> bytes:
    """Return the statement about an image.

    :param repository: the image's whole name, without tag and digest.
    :param source: where the code is; empty if it is on this machine only.
    """
    from datakit import __version__

    release = image.release
    base = image.origins[0]
    materials: list[dict[str, Any]] = [
        {"uri": f"git+{source}" if source else "git+file:.", "digest": {"gitCommit": release.revision}},
        {"uri": f"oci://{base.registry.image(base.repository)}", "digest": _digest(base.digest), "name": base.name},
    ]
    materials += [
        {"uri": f"oci://{repository.rpartition('/')[0]}/{name}", "digest": _digest(digest), "name": f"{name}@{version}"}
        for name, version, digest in release.includes
    ]
    return encoded(
        {
            "_type": _STATEMENT,
            "subject": [{"name": repository, "digest": _digest(release.digest)}],
            "predicateType": _PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": _BUILD_TYPE,
                    "externalParameters": {"datakit": release.name, "version": release.version},
                    "internalParameters": {"contract": release.contract_hash},
                    "resolvedDependencies": materials,
                },
                "runDetails": {
                    "builder": {"id": _builder(), "version": {"datakit": __version__}},
                    "metadata": {"startedOn": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **_invocation()},
                },
            },
        }
    )


def signed(statement: bytes, key: Path, passphrase_file: Path | None = None) -> Attachment:
    """Sign a statement with a private key in PEM (Ed25519, or ECDSA on P-256).

    :raises ConfigurationError: the key cannot be read or is of another kind.
    :raises DriverMissing: the extra ``release`` is not installed.
    """
    private = _load_private(key, passphrase_file)
    signature = _sign(private, _pae(statement), key)
    envelope = {
        "payloadType": _PAYLOAD,
        "payload": base64.b64encode(statement).decode(),
        "signatures": [{"keyid": _key_id(private.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    return Attachment(SIGNED_PROVENANCE, encoded(envelope))


def unsigned(statement: bytes) -> Attachment:
    """Return a statement as it is attached without a key."""
    return Attachment(PROVENANCE, statement)


def open_envelope(data: bytes, where: str, key: Path | None = None) -> tuple[bytes, str]:
    """Return an envelope's statement and the id of the key that signed it; with a public ``key``, verify that it did.

    :raises ImageCorrupt: it is no envelope, or that key did not sign it.
    """
    try:
        envelope = json.loads(data)
        statement = base64.b64decode(envelope["payload"], validate=True)
        signatures = [(each["keyid"], base64.b64decode(each["sig"], validate=True)) for each in envelope["signatures"]]
        kind, (first, _) = envelope["payloadType"], signatures[0]
    except (ValueError, KeyError, TypeError, IndexError, binascii.Error):
        raise ImageCorrupt("the signed provenance cannot be read", subject=where) from None
    if kind != _PAYLOAD:
        raise ImageCorrupt(f"what is signed is {kind}, not a provenance", subject=where)
    if key is None:
        return statement, str(first)
    public = _load_public(key)
    for key_id, signature in signatures:
        if _verifies(public, signature, _pae(statement)):
            return statement, str(key_id)
    raise ImageCorrupt(
        "the signature is not of that key",
        subject=where,
        cause=f"it was signed by the key {first}, and this one is {_key_id(public)}; or somebody changed it",
        fix="verify with the key of those who release; if it is that one, do not use this image",
    )


def read_statement(data: bytes, release: Release, where: str) -> dict[str, Any]:
    """Read a statement and compare it with the release that it is attached to.

    :raises ImageCorrupt: it is none, or is about another image, commit or base.
    """
    try:
        statement = json.loads(data)
        subjects = {each["digest"]["sha256"] for each in statement["subject"]}
        materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        used = {value for each in materials for value in each["digest"].values()}
        kind = statement["predicateType"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ImageCorrupt("the provenance cannot be read", subject=where) from None
    wanted = {release.revision, *(_digest(each)["sha256"] for each in (release.base_digest, *_included(release)))}
    if kind != _PREDICATE or _digest(release.digest)["sha256"] not in subjects:
        raise ImageCorrupt("the provenance is about another image", subject=where)
    if missing := sorted(wanted - used):
        raise ImageCorrupt(
            f"the image says that it was made from {missing[0]}, and its provenance does not", subject=where
        )
    return dict(statement)


def _included(release: Release) -> tuple[str, ...]:
    return tuple(each.digest for each in release.includes)


def _digest(digest: str) -> dict[str, str]:
    kind, _, value = digest.partition(":")
    return {kind: value}


def _builder() -> str:
    """Return who builds: what a CI names, else this account on this machine."""
    if server := os.environ.get("GITHUB_SERVER_URL"):
        return f"{server}/{os.environ.get('GITHUB_WORKFLOW_REF', os.environ.get('GITHUB_REPOSITORY', ''))}"
    if url := os.environ.get("CI_PROJECT_URL"):
        return f"{url}/-/runners/{os.environ.get('CI_RUNNER_ID', '')}"
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in containers
        user = str(os.getuid())
    return f"urn:datakit:builder:{user}@{socket.gethostname()}"


def _invocation() -> dict[str, str]:
    if run := os.environ.get("GITHUB_RUN_ID"):
        url = f"{os.environ.get('GITHUB_SERVER_URL')}/{os.environ.get('GITHUB_REPOSITORY')}/actions/runs/{run}"
        return {"invocationId": url}
    return {"invocationId": url} if (url := os.environ.get("CI_JOB_URL", "")) else {}


# Keys


def _pae(statement: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = _PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)


def _load_private(path: Path, passphrase_file: Path | None) -> Any:
    serialization = _serialization()
    data = _read(path, "key")
    passphrase = _read(passphrase_file, "passphrase").rstrip(b"\r\n") if passphrase_file else None
    try:
        return serialization.load_pem_private_key(data, passphrase)
    except (ValueError, TypeError) as error:
        locked = isinstance(error, TypeError) and passphrase is None
        raise ConfigurationError(
            "the key is locked by a passphrase" if locked else "it is not a private key, or the passphrase is wrong",
            subject=str(path),
            fix="give the passphrase's file: --key-passphrase-file" if locked else "give a private key in PEM",
        ) from None


def _load_public(path: Path) -> Any:
    try:
        return _serialization().load_pem_public_key(_read(path, "key"))
    except ValueError:
        raise ConfigurationError(
            "it is not a public key",
            subject=str(path),
            fix="give a public key in PEM: openssl pkey -in PRIVATE.pem -pubout",
        ) from None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the {what} cannot be read: {error.strerror}", subject=str(path)) from None


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise DriverMissing.of("signatures", "release", error) from None
    return serialization


def _sign(private: Any, data: bytes, path: Path) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(data)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(data, ec.ECDSA(hashes.SHA256()))
    raise ConfigurationError(
        "keys of that kind do not sign here",
        subject=str(path),
        fix="make one: openssl genpkey -algorithm ed25519 -out key.pem",
    )


def _verifies(public: Any, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, data)
            return True
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
            return True
    except InvalidSignature:
        pass
    return False


def _key_id(public: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    data = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
