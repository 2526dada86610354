"""An image outside of a registry: as a folder, and in the Docker engine of this machine.

The folder is an OCI layout (https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from datakit.errors import ConfigurationError, TemporaryError
from datakit.release._media import INDEX, digest_of, encoded
from datakit.release.image import Parts

_REFERENCE = "org.opencontainers.image.ref.name"


def write_layout(image: Parts, folder: Path, reference: str) -> None:
    """Write an image with all of its layers into an empty folder, or one that holds it already.

    :raises ConfigurationError: something else is in the folder, or it cannot be written.
    """
    marker = folder / "oci-layout"
    try:
        if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
            raise ConfigurationError(
                "the folder is not empty, and holds no image", subject=str(folder), fix="name a new folder"
            )
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, chunks in _blobs(image):
            _write(blobs / digest.partition(":")[2], chunks, digest)
        entry = {**image.descriptor, "annotations": {_REFERENCE: reference}}
        index = encoded({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
        _write(folder / "index.json", [index], digest_of(index), fresh=True)
        marker.write_text('{"imageLayoutVersion":"1.0.0"}\n', encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the image cannot be written: {error.strerror}",
            subject=str(folder),
            fix="name a folder with room that this account may write",
        ) from None


def load_into_engine(image: Parts, reference: str) -> str:
    """Put an image into the Docker engine, under its own name; return that.

    :raises ConfigurationError: there is no Docker on this machine, or no room for the image on its way.
    :raises TemporaryError: the engine does not take it.
    """
    with tempfile.TemporaryFile() as archive:
        try:
            _write_archive(image, reference, archive)
            archive.seek(0)
            done = subprocess.run(["docker", "load", "--quiet"], stdin=archive, capture_output=True, check=False)
        except FileNotFoundError:
            raise ConfigurationError(
                "there is no docker on this machine",
                fix="install it, or write the image to a folder: datakit build --output FOLDER",
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"the image cannot be written: {error.strerror}", subject=tempfile.gettempdir()
            ) from None
    if done.returncode:
        raise TemporaryError(
            f"the Docker engine does not take the image: {done.stderr.decode(errors='replace').strip()}",
            subject=reference,
            fix="see whether it runs and has room: docker info; docker system df",
        )
    return reference


def _blobs(image: Parts) -> Iterator[tuple[str, Iterable[bytes]]]:
    for origin in image.origins:
        for layer in origin.layers:
            yield layer["digest"], origin.registry.blob_chunks(origin.repository, layer["digest"])
    for data in (image.layer, image.config, image.manifest):
        yield digest_of(data), [data]


def _write(path: Path, chunks: Iterable[bytes], digest: str, *, fresh: bool = False) -> None:
    """Write a file beside its place, and put it there when it is whole."""
    if path.is_file() and not fresh:
        with path.open("rb") as file:
            if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest:
                return
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(chunks)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_archive(image: Parts, reference: str, file: IO[bytes]) -> None:
    """Write what ``docker load`` reads; engines before 25 do not read a layout."""
    config = digest_of(image.config).partition(":")[2]
    layers: list[str] = []
    with tarfile.open(fileobj=file, mode="w") as archive:
        for digest, chunks in _blobs(image):
            if digest in (digest_of(image.config), digest_of(image.manifest)):
                continue
            layers.append(f"{digest.partition(':')[2]}/layer.tar")
            with tempfile.SpooledTemporaryFile(max_size=1 << 20) as content:
                content.writelines(chunks)
                size = content.tell()
                content.seek(0)
                entry = tarfile.TarInfo(layers[-1])
                entry.size = size
                archive.addfile(entry, content)
        listed = [{"Config": f"{config}.json", "RepoTags": [reference], "Layers": layers}]
        for name, data in ((f"{config}.json", image.config), ("manifest.json", json.dumps(listed).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
