"""What a manifest says about the release that it is: the OCI's own annotations, and ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from datakit.errors import ImageCorrupt

TITLE: Final = "org.opencontainers.image.title"
VERSION: Final = "org.opencontainers.image.version"
REVISION: Final = "org.opencontainers.image.revision"
CREATED: Final = "org.opencontainers.image.created"
SOURCE: Final = "org.opencontainers.image.source"
DESCRIPTION: Final = "org.opencontainers.image.description"
BASE_NAME: Final = "org.opencontainers.image.base.name"
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"
KIND: Final = "datakit.kind"
CONTRACT: Final = "datakit.contract"
INCLUDES: Final = "datakit.includes"
UNPINNED: Final = "datakit.unpinned"
"""On an Airflow's image: in JSON, for each frozen environment in which it cannot run, what nothing pins there."""
LAYER_OF: Final = "datakit.layer"
"""On a layer: the datakit whose files it holds."""


class Included(NamedTuple):
    """A source datakit's release that a bronze datakit's image holds."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Release:
    """One release of a datakit, as the registry has it.

    :ivar version: SemVer, without a leading v.
    :ivar digest: of the image's manifest.
    :ivar created: time of the commit that it was made from.
    :ivar revision: that commit, in full; ``-dirty`` follows in an image that was never released.
    :ivar contract_hash: of the columns, types and keys that it lands; see :mod:`datakit.release.contracts`.
    :ivar includes: the source datakits in a bronze datakit's image.
    :ivar size: bytes that a machine without any of its layers has to fetch.
    """

    name: str
    version: str
    digest: str
    created: datetime
    revision: str
    contract_hash: str
    kind: Literal["source", "bronze"]
    includes: tuple[Included, ...]
    size: int
    base_name: str = ""
    base_digest: str = ""


def is_release(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is a datakit's image that this package has made."""
    return KIND in (manifest.get("annotations") or {})


def read_release(manifest: Mapping[str, Any], digest: str, size: int, where: str) -> Release:
    """Read what a datakit's manifest says.

    :param size: bytes of the manifest itself.
    :raises ImageCorrupt: it is no datakit's image, or says something that cannot be.
    """
    said: Mapping[str, str] = manifest.get("annotations") or {}
    if not is_release(manifest):
        raise ImageCorrupt(
            "the image is no release of a datakit: it does not say what kind of datakit it is",
            subject=where,
            cause="it was built and pushed by something else",
            fix="release it: datakit release",
        )
    try:
        kind = said[KIND]
        if kind not in ("source", "bronze"):
            raise ValueError(kind)
        return Release(
            name=said[TITLE],
            version=said[VERSION],
            digest=digest,
            created=datetime.fromisoformat(said[CREATED]),
            revision=said[REVISION],
            contract_hash=said[CONTRACT],
            kind="source" if kind == "source" else "bronze",
            includes=tuple(
                Included(each["name"], each["version"], each["digest"]) for each in json.loads(said[INCLUDES])
            ),
            size=size + sum(part["size"] for part in (manifest["config"], *manifest["layers"])),
            base_name=said[BASE_NAME],
            base_digest=said[BASE_DIGEST],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ImageCorrupt(
            f"the image's annotations are not what a release has: {type(error).__name__} at {error}", subject=where
        ) from None
