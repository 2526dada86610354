"""What travels with an image: manifests of their own that name it as their subject.

https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md#guidelines-for-artifact-usage
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from datakit.errors import ImageCorrupt
from datakit.release._annotations import Release
from datakit.release._media import EMPTY, MANIFEST, Json, descriptor, encoded
from datakit.release.contracts import Promise
from datakit.release.registry import Registry

CONTRACT: Final = "application/vnd.datakit.contract.v1+json"
SBOM: Final = "application/vnd.cyclonedx+json"
PROVENANCE: Final = "application/vnd.in-toto+json"
SIGNED_PROVENANCE: Final = "application/vnd.dsse.envelope.v1+json"
_EMPTY: Final = b"{}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One document that belongs to an image.

    :ivar kind: its media type, which says what it is.
    """

    kind: str
    data: bytes

    def manifest(self, subject: Json) -> bytes:
        """Return the manifest that ties it to an image."""
        return encoded(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": self.kind,
                "config": descriptor(EMPTY, _EMPTY),
                "layers": [descriptor(self.kind, self.data)],
                "subject": subject,
            }
        )


def attach(registry: Registry, repository: str, subject: Json, attachments: Iterable[Attachment]) -> Iterator[str]:
    """Attach what is not attached yet, and yield the kinds of what was. One of each kind is enough."""
    there = {each.get("artifactType") for each in registry.referrers(repository, subject["digest"])}
    wanted = [each for each in attachments if each.kind not in there]
    if wanted:
        empty = descriptor(EMPTY, _EMPTY)
        registry.push_blob(repository, empty["digest"], _EMPTY, len(_EMPTY))
    for each in wanted:
        content = descriptor(each.kind, each.data)
        registry.push_blob(repository, content["digest"], each.data, len(each.data))
        registry.attach(repository, subject, each.manifest(subject))
        yield each.kind


def attached(registry: Registry, repository: str, digest: str, kind: str) -> Iterator[bytes]:
    """Yield the documents of that kind that belong to an image. Whoever may push may attach one: believe none unseen.

    :raises ImageCorrupt: one is listed, but not there, or not what its digest says.
    """
    for each in registry.referrers(repository, digest):
        if each.get("artifactType") != kind:
            continue
        manifest = registry.manifest(repository, each["digest"])
        where = registry.image(repository, each["digest"])
        if (manifest.get("subject") or {}).get("digest") != digest:
            raise ImageCorrupt("what is listed as attached to the image belongs to another one", subject=where)
        layers = manifest.get("layers") or []
        if len(layers) != 1:
            raise ImageCorrupt("the attachment holds not one document", subject=where)
        yield registry.blob(repository, layers[0]["digest"])


def promise_of(registry: Registry, release: Release) -> Promise:
    """Return what a release promises, as it is attached to its image.

    :raises ImageCorrupt: nothing is attached, or not what its manifest says.
    """
    repository = f"datakits/{release.name}"
    where = registry.image(repository, release.digest)
    hashes: list[str] = []
    for data in attached(registry, repository, release.digest, CONTRACT):
        promise = Promise.from_bytes(data, where)
        if promise.hash == release.contract_hash:
            return promise
        hashes.append(promise.hash)
    if hashes:
        raise ImageCorrupt(
            f"the image says that its contract is {release.contract_hash}, and the attached one is {hashes[0]}",
            subject=where,
        )
    raise lost("contract", registry, release)


def lost(what: str, registry: Registry, release: Release) -> ImageCorrupt:
    """Return the error for something that every release has attached, and this one no longer."""
    return ImageCorrupt(
        f"no {what} is attached to release {release.version}",
        subject=registry.image(f"datakits/{release.name}", release.digest),
        cause="a clean-up of the registry deleted manifests without a tag, or a copy of the image left them out",
        fix=f"check out {release.revision[:12]} and run datakit release {release.name}, which attaches it again",
    )
