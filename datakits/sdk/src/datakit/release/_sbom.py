"""What is inside an image, as CycloneDX: the datakit, its source datakits, and the packages of its base.

https://cyclonedx.org/docs/1.6/json/ · package URLs: https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import email.parser
import io
import json
import os
import re
import tarfile
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from datakit.errors import ImageCorrupt
from datakit.release._media import digest_of, encoded
from datakit.release.image import Image, Origin

_METADATA: Final = re.compile(r".*\.dist-info/METADATA")
_DPKG: Final = re.compile(r"\.?/?var/lib/dpkg/(status|status\.d/[^/]+)")
_LARGEST: Final = 16 * 1024 * 1024
_FORMAT: Final = 1
"""Of what is kept between releases; raise it when packages are found otherwise."""


class Package(NamedTuple):
    """One installed package: ``kind`` is its package URL's type, ``pypi`` or ``deb``."""

    kind: str
    name: str
    version: str
    licence: str

    @property
    def purl(self) -> str:
        """Its package URL."""
        if self.kind == "pypi":
            return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{quote(self.version, safe='')}"
        return f"pkg:deb/debian/{quote(self.name, safe='')}@{quote(self.version, safe='')}"


def sbom(image: Image, repository: str, packages: Iterable[Package]) -> bytes:
    """Return the bill of materials; equal images have equal ones.

    :param repository: the image's whole name, without tag and digest.
    """
    from datakit import __version__

    release = image.release
    sources = [
        {
            "type": "application",
            "bom-ref": f"{name}@{digest}",
            "name": name,
            "version": version,
            "purl": _oci(name, digest, f"{repository.rpartition('/')[0]}/{name}"),
        }
        for name, version, digest in release.includes
    ]
    base = {
        "type": "container",
        "bom-ref": f"base@{release.base_digest}",
        "name": release.base_name,
        "version": release.base_digest,
    }
    found = [_component(package) for package in sorted(set(packages))]
    return encoded(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{repository}@{release.digest}')}",
            "version": 1,
            "metadata": {
                "timestamp": release.created.isoformat().replace("+00:00", "Z"),
                "tools": {"components": [{"type": "application", "name": "datakit", "version": __version__}]},
                "component": {
                    "type": "container",
                    "bom-ref": release.digest,
                    "name": release.name,
                    "version": release.version,
                    "purl": _oci(release.name, release.digest, repository),
                },
            },
            "components": [*sources, base, *found],
            "dependencies": [
                {
                    "ref": release.digest,
                    "dependsOn": sorted([base["bom-ref"], *(str(each["bom-ref"]) for each in sources)]),
                },
                {"ref": base["bom-ref"], "dependsOn": sorted({str(each["bom-ref"]) for each in found})},
            ],
        }
    )


def packages_of(origin: Origin) -> tuple[Package, ...]:
    """Return the Python and Debian packages of an image.

    Its layers are read from the registry, once on each machine: what was found is kept under the layer's digest.

    :raises ImageCorrupt: a layer is no archive, or not what its digest says.
    """
    found: dict[str, list[Package]] = {}
    for layer in origin.layers:
        found |= _packages_of_layer(origin, layer["digest"])  # a later layer's file replaces an earlier one's
    return tuple(sorted({package for packages in found.values() for package in packages}))


def _packages_of_layer(origin: Origin, digest: str) -> dict[str, list[Package]]:
    kept = _cache() / f"{digest.partition(':')[2]}.{_FORMAT}.json"
    try:
        return {path: [Package(*each) for each in listed] for path, listed in json.loads(kept.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        found = _scan(origin, digest)
    _keep(kept, json.dumps(found).encode())
    return found


def _scan(origin: Origin, digest: str) -> dict[str, list[Package]]:
    """Read a layer; what is neither tar nor gzip, bzip2 or xz of it is refused."""
    found: dict[str, list[Package]] = {}
    chunks = origin.registry.blob_chunks(origin.repository, digest)
    stream = _Stream(chunks)
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for entry in archive:
                if not (entry.isfile() and entry.size <= _LARGEST):
                    continue
                read = _python if _METADATA.fullmatch(entry.name) else _debian if _DPKG.fullmatch(entry.name) else None
                content = archive.extractfile(entry) if read else None
                if read and content:
                    found[entry.name] = list(read(content.read().decode(errors="replace")))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ImageCorrupt(
            f"a layer of the base cannot be read, so its packages are not known: {type(error).__name__}",
            subject=origin.registry.image(origin.repository, digest),
            cause="it is compressed with zstd" if _is_zstd(origin, digest) else None,
            fix="push the base with layers that are compressed with gzip",
        ) from None
    for _ in chunks:  # to the end, where the digest is compared
        pass
    return found


def _is_zstd(origin: Origin, digest: str) -> bool:
    """Whether a layer says that it is compressed with zstd."""
    return any(layer["digest"] == digest and layer["mediaType"].endswith("+zstd") for layer in origin.layers)


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file that is read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts = [self._rest]
        length = len(self._rest)
        while size < 0 or length < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            length += len(chunk)
        data = b"".join(parts)
        if size < 0:
            self._rest = b""
            return data
        self._rest = data[size:]
        return data[:size]


def _python(text: str) -> Iterator[Package]:
    """Read the ``METADATA`` of an installed distribution (https://packaging.python.org/specifications/core-metadata)."""
    said = email.parser.HeaderParser().parsestr(text)
    if said["Name"] and said["Version"]:
        licence = said["License-Expression"] or ""
        yield Package("pypi", said["Name"].strip(), said["Version"].strip(), licence.strip())


def _debian(text: str) -> Iterator[Package]:
    """Read dpkg's list of installed packages, or one entry of it."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        said = email.parser.HeaderParser().parsestr(paragraph)
        installed = "installed" in (said["Status"] or "installed").split()
        if said["Package"] and said["Version"] and installed:
            yield Package("deb", said["Package"].strip(), said["Version"].strip(), "")


def _component(package: Package) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
    }
    if package.licence:
        component["licenses"] = [{"expression": package.licence}]
    return component


def _oci(name: str, digest: str, repository: str) -> str:
    return f"pkg:oci/{name}@{quote(digest, safe='')}?repository_url={quote(repository, safe='')}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datakit" / "packages"


def _keep(path: Path, data: bytes) -> None:
    """Keep it for the next release; a machine whose home is full or read-only reads the layer again."""
    partial = path.with_name(f".{path.name}.{digest_of(data)[-8:]}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
