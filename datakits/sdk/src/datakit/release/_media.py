"""The few documents of the OCI image specification that a release is made of, and how they become bytes.

https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPTED: Final = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST))

_OF_DOCKER: Final = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
}
"""The same bytes under Docker's older names; a manifest of one kind may not list the other's."""

Json = dict[str, Any]


def digest_of(data: bytes) -> str:
    """Return what content is called by."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encoded(document: Mapping[str, Any]) -> bytes:
    """Write a document so that equal ones have equal bytes."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def descriptor(media_type: str, data: bytes, **more: Any) -> Json:
    """Describe content as manifests do."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def as_oci(layer: Mapping[str, Any]) -> Json:
    """Return a layer's descriptor under OCI's name for it."""
    return {**layer, "mediaType": _OF_DOCKER.get(layer["mediaType"], layer["mediaType"])}
