"""Whether a release is what it says: its content by digest, what is attached to it, and who signed that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datakit.errors import DatakitError, ImageCorrupt
from datakit.release._annotations import LAYER_OF, Included, Release
from datakit.release._provenance import open_envelope, read_statement
from datakit.release.attachments import PROVENANCE, SBOM, SIGNED_PROVENANCE, attached, lost, promise_of
from datakit.release.registry import Registry


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :ivar words: what was found, or what is wrong.
    :ivar error: why it is wrong; None if it is right.
    """

    subject: str
    words: str
    error: DatakitError | None = None


def verify(registry: Registry, release: Release, *, key: Path | None = None) -> Iterator[Finding]:
    """Look at everything that a release consists of, and yield what was found; content is read whole.

    :param key: the public key of those who release; without it a signature is only told of.
    :raises RegistryUnavailable: the registry does not answer. Other errors are findings.
    """
    repository = f"datakits/{release.name}"
    yield from _looked("content", lambda: _content(registry, repository, release))
    yield from _looked("contract", lambda: f"{len(promise_of(registry, release).datasets)} datasets, as the image says")
    yield from _looked("bill of materials", lambda: _sbom(registry, repository, release))
    yield from _looked("provenance", lambda: _provenance(registry, repository, release, key))
    for each in release.includes:
        yield from _looked(f"{each.name} {each.version}", partial(_included, registry, repository, release, each))


def provenance_of(
    registry: Registry, release: Release, key: Path | None = None
) -> tuple[dict[str, Any] | None, str | None]:
    """Return a release's provenance and the id of the key that signed it; None where there is none.

    :raises ImageCorrupt: it is not this release's, or with ``key``, not signed by that.
    """
    repository = f"datakits/{release.name}"
    where = registry.image(repository, release.digest)
    refused: ImageCorrupt | None = None
    for envelope in attached(registry, repository, release.digest, SIGNED_PROVENANCE):
        try:
            statement, key_id = open_envelope(envelope, where, key)
            return read_statement(statement, release, where), key_id
        except ImageCorrupt as error:  # somebody else may have signed too
            refused = refused or error
    if refused is not None:
        raise refused
    plain = next(attached(registry, repository, release.digest, PROVENANCE), None)
    return (None if plain is None else read_statement(plain, release, where)), None


def sbom_of(registry: Registry, release: Release) -> dict[str, Any] | None:
    """Return a release's bill of materials; None if there is none.

    :raises ImageCorrupt: it cannot be read.
    """
    repository = f"datakits/{release.name}"
    data = next(attached(registry, repository, release.digest, SBOM), None)
    try:
        return None if data is None else dict(json.loads(data))
    except (ValueError, TypeError):
        raise ImageCorrupt(
            "the bill of materials cannot be read", subject=registry.image(repository, release.digest)
        ) from None


def _looked(subject: str, look: Callable[[], str]) -> Iterator[Finding]:
    try:
        yield Finding(subject, look())
    except DatakitError as error:
        if error.retryable:
            raise
        yield Finding(subject, error.what, error)


def _content(registry: Registry, repository: str, release: Release) -> str:
    manifest = registry.manifest(repository, release.digest)
    parts = (manifest["config"], *manifest["layers"])
    for part in parts:
        read = sum(len(chunk) for chunk in registry.blob_chunks(repository, part["digest"]))
        if read != part["size"]:
            raise ImageCorrupt(
                f"a layer has {read} bytes, and the manifest says {part['size']}",
                subject=registry.image(repository, part["digest"]),
            )
    return f"{len(manifest['layers'])} layers, each what its digest says"


def _sbom(registry: Registry, repository: str, release: Release) -> str:
    document = sbom_of(registry, release)
    if document is None:
        raise lost("bill of materials", registry, release)
    about = (document.get("metadata") or {}).get("component") or {}
    if about.get("bom-ref") != release.digest:
        raise ImageCorrupt("the bill of materials is about another image", subject=registry.image(repository))
    return f"{len(document.get('components') or [])} components"


def _provenance(registry: Registry, repository: str, release: Release, key: Path | None) -> str:
    statement, key_id = provenance_of(registry, release, key)
    if statement is None:
        raise lost("provenance", registry, release)
    if key is not None and key_id is None:
        raise ImageCorrupt(
            "nobody signed the provenance",
            subject=registry.image(repository, release.digest),
            cause="it was released without --key",
            fix="release a new version with --key, or verify without one",
        )
    builder = statement["predicate"]["runDetails"]["builder"]["id"]
    signature = "not signed" if key_id is None else f"signed by {key_id[:19]}…"
    checked = ", verified" if key is not None else "" if key_id is None else ", not verified: give --key"
    return f"commit {release.revision[:12]}, built by {builder}, {signature}{checked}"


def _included(registry: Registry, repository: str, release: Release, wanted: Included) -> str:
    theirs = registry.manifest(f"datakits/{wanted.name}", wanted.digest)
    mine = {layer["digest"] for layer in registry.manifest(repository, release.digest)["layers"]}
    own = {layer["digest"] for layer in theirs["layers"] if LAYER_OF in layer.get("annotations", {})}
    if not own or not own <= mine:
        raise ImageCorrupt(
            f"the files of {wanted.name} in the image are not those of its release {wanted.version}",
            subject=registry.image(repository, release.digest),
        )
    return f"its files are those of {wanted.digest[:19]}…"
