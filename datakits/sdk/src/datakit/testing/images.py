"""An image to stand on, for tests of releases: as small as an image can be, and in any registry within milliseconds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from types import MappingProxyType

from datakit.release._media import CONFIG, LAYER, MANIFEST, descriptor, digest_of, encoded
from datakit.release.registry import Registry

_METADATA = "usr/local/lib/python3.11/dist-packages/{0}-{1}.dist-info/METADATA"


def push_base_image(
    registry: Registry,
    reference: str | None = None,
    *,
    packages: tuple[tuple[str, str], ...] = (("pyarrow", "25.0.0"),),
    variables: tuple[str, ...] = ("LANG=C",),
    labels: Mapping[str, str] = MappingProxyType({}),
    user: str = "10002:10000",
) -> str:
    """Push an image that names the Python packages that a base would have, and runs nothing; return its digest.

    :param reference: ``REPOSITORY:TAG``; None is the base that releases of this SDK stand on.
    :param variables: ``NAME=VALUE`` of its environment, as an Airflow has ``AIRFLOW_HOME``.
    :param labels: as an Astronomer runtime has its version.
    :param user: who runs in it.
    """
    from datakit import __version__

    repository, _, tag = (reference or f"platform/datakit-base:v{__version__}").rpartition(":")
    layer = _layer(packages)
    config = encoded(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": ["datakit"],
                "User": user,
                "WorkingDir": "/datakit",
                "Env": list(variables),
                **({"Labels": dict(labels)} if labels else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
            "history": [{"created_by": "datakit.testing"}],
        }
    )
    for data in (layer, config):
        registry.push_blob(repository, digest_of(data), data, len(data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer)],
    }
    return registry.push_manifest(repository, encoded(manifest), tag=tag)


def _layer(packages: tuple[tuple[str, str], ...]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, version in packages:
            data = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: Apache-2.0\n".encode()
            entry = tarfile.TarInfo(_METADATA.format(name, version))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return written.getvalue()
