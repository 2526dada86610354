"""A datakit as an image, made without an engine: the layers of the base, and one layer of the datakit's own files.

Nothing is executed and nothing is installed: what a datakit needs at run time is in ``datakit-base``. So the same
commit, base and source datakits make the same bytes on every machine. The layer is not compressed, because libraries
differ in what they make of the same input; it is text, and small.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from datakit.errors import ConfigurationError, ImageCorrupt, UnknownName
from datakit.release._annotations import (
    BASE_DIGEST,
    BASE_NAME,
    CONTRACT,
    CREATED,
    DESCRIPTION,
    INCLUDES,
    KIND,
    LAYER_OF,
    REVISION,
    SOURCE,
    TITLE,
    VERSION,
    Included,
    Release,
    read_release,
)
from datakit.release._commit import Commit
from datakit.release._media import CONFIG, LAYER, MANIFEST, Json, as_oci, descriptor, digest_of, encoded
from datakit.release.contracts import Difference, Promise
from datakit.release.registry import Registry

_HOME: Final = "datakit"
"""Below the root; the base's working folder."""
_OF_CONFIG: Final = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
)
_PLATFORM: Final = ("linux", "amd64")


@dataclass(frozen=True, slots=True)
class Origin:
    """An image that another one takes layers of.

    :ivar name: repository and tag, without the registry: the same image in another one makes the same bytes.
    :ivar layers: descriptors, in order, of the layers that are taken.
    :ivar diff_ids: of the same layers, uncompressed.
    :ivar config: what runs in it; only the base's counts.
    """

    registry: Registry
    repository: str
    name: str
    digest: str
    layers: tuple[Json, ...]
    diff_ids: tuple[str, ...]
    config: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The bytes of an image that is ready to be pushed.

    :ivar layer: its own files, as a tar archive.
    :ivar origins: where the other layers are, the base first.
    """

    manifest: bytes
    config: bytes
    layer: bytes
    origins: tuple[Origin, ...]

    @property
    def digest(self) -> str:
        """What the image is."""
        return digest_of(self.manifest)

    @property
    def size(self) -> int:
        """Bytes that a machine without any of its layers has to fetch."""
        manifest = json.loads(self.manifest)
        return len(self.manifest) + sum(int(part["size"]) for part in (manifest["config"], *manifest["layers"]))

    @property
    def descriptor(self) -> Json:
        """Its manifest, as what is attached to it names it."""
        return descriptor(MANIFEST, self.manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(Parts):
    """The image of a datakit, ready to be pushed, or to be compared with one that was."""

    release: Release


@dataclass(frozen=True, slots=True)
class Built:
    """An image, and what it promises.

    :ivar previous: the release that it follows, which its version is compared with; None if it is the first.
    :ivar changes: what it promises differently from that one.
    """

    image: Image
    promise: Promise
    commit: Commit
    folder: Path
    previous: Release | None = None
    changes: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides about an image's bytes.

    :ivar files: content by path, relative to the datakit's folder, and whether it may be executed.
    :ivar contract_hash: of what it promises.
    """

    name: str
    version: str
    kind: str
    description: str
    commit: Commit
    contract_hash: str
    files: Mapping[Path, tuple[bytes, bool]]
    base: Origin
    sources: tuple[tuple[Included, Origin], ...] = ()


def find_base(registry: Registry, reference: str) -> Origin:
    """Return the base's image; ``reference`` is ``REPOSITORY[:TAG][@DIGEST]`` in that registry, where a digest counts.

    :raises UnknownName: it is not there.
    :raises ImageCorrupt: it is no image.
    """
    name, _, digest = reference.partition("@")
    repository, _, tag = name.partition(":")
    where = f"{registry.address}/{reference}"
    if not digest:
        found = registry.resolve(repository, tag or "latest")
        if found is None:
            raise UnknownName(
                "the base image is not in the registry",
                subject=where,
                cause="the platform's images were not pushed to it, or another version of them",
                fix="push it, or name another one: --base IMAGE:TAG",
            )
        digest = found
    manifest = registry.manifest(repository, digest)
    if "manifests" in manifest:
        digest = _of_platform(manifest["manifests"], where)
        manifest = registry.manifest(repository, digest)
    config = _config(registry, repository, manifest, where)
    layers = tuple(as_oci(layer) for layer in manifest["layers"])
    return Origin(registry, repository, name, digest, layers, tuple(config["rootfs"]["diff_ids"]), config)


def find_source(registry: Registry, release: Release) -> Origin:
    """Return the layers with a released source datakit's own files.

    :raises ImageCorrupt: it has none.
    """
    repository = f"datakits/{release.name}"
    manifest = registry.manifest(repository, release.digest)
    where = registry.image(repository, release.digest)
    config = _config(registry, repository, manifest, where)
    taken = [
        (as_oci(layer), diff_id)
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        if LAYER_OF in layer.get("annotations", {})
    ]
    if not taken:
        raise ImageCorrupt("the source datakit's image has no layer of its own files", subject=where)
    layers, diff_ids = zip(*taken, strict=True)
    return Origin(registry, repository, f"{repository}:v{release.version}", release.digest, layers, diff_ids, config)


def read_files(folder: Path, paths: Iterable[Path]) -> dict[Path, tuple[bytes, bool]]:
    """Read a datakit's files: content, and whether the owner may execute it.

    :raises ConfigurationError: one of them cannot be read.
    """
    read: dict[Path, tuple[bytes, bool]] = {}
    for path in paths:
        try:
            with (folder / path).open("rb") as file:
                executable = bool(Path(file.name).stat().st_mode & 0o100)
                read[path] = file.read(), executable
        except OSError as error:
            raise ConfigurationError(
                f"a file of the datakit cannot be read: {error.strerror}", subject=str(folder / path)
            ) from None
    return read


def build_image(recipe: Recipe) -> Image:
    """Make the image; pure, so the same recipe makes the same bytes."""
    parts = assemble(
        origins=(recipe.base, *(origin for _, origin in recipe.sources)),
        layer=layer_of(recipe.name, recipe.files),
        layer_of=f"{recipe.name}@{recipe.version}",
        annotations=_annotations(recipe),
        created=recipe.commit.time,
        environment=[f"DATAKIT_HOME=/{_HOME}"],
        made_by="datakit build",
    )
    release = read_release(json.loads(parts.manifest), parts.digest, len(parts.manifest), recipe.name)
    return Image(
        release=release, manifest=parts.manifest, config=parts.config, layer=parts.layer, origins=parts.origins
    )


def assemble(
    *,
    origins: tuple[Origin, ...],
    layer: bytes,
    layer_of: str,
    annotations: Mapping[str, str],
    created: datetime,
    environment: Iterable[str],
    made_by: str,
    labels: Mapping[str, str] | None = None,
) -> Parts:
    """Make an image of other images' layers and one of its own; pure.

    :param origins: the base, whose configuration counts, and others.
    :param layer_of: what the own layer holds, for its annotation.
    :param annotations: of the manifest.
    :param environment: ``NAME=VALUE``, after the base's own.
    :param made_by: the command, for the image's history.
    :param labels: of the image, which has none of the base's; None takes the annotations.
    """
    own = descriptor(LAYER, layer, annotations={LAYER_OF: layer_of})
    config = _config_of(origins, digest_of(layer), labels or annotations, written_time(created), environment, made_by)
    manifest = encoded(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [*(part for origin in origins for part in origin.layers), own],
            "annotations": dict(annotations),
        }
    )
    return Parts(manifest=manifest, config=config, layer=layer, origins=origins)


def layer_of(name: str, files: Mapping[Path, tuple[bytes, bool]]) -> bytes:
    """Return a tar archive of a datakit's files where an image has them."""
    root = Path(_HOME, "datakits", name)
    placed = {root / path: file for path, file in files.items()}
    return archive_of(placed, folders={root, *(parent for path in (root, *placed) for parent in path.parents)})


def archive_of(
    files: Mapping[Path, tuple[bytes, bool]],
    *,
    folders: Iterable[Path],
    owned: Mapping[Path, int] = MappingProxyType({}),
) -> bytes:
    """Return a tar archive; times, order, owners and modes are fixed.

    :param files: content by path below the root, and whether it may be executed.
    :param folders: that become root's, with mode 0755. Engines differ in whether one that is above a file and not named
        becomes that too, or stays as the layers below have it.
    :param owned: folder → user, with group 0 and mode 0775, as Airflow's images have their home.
    """
    all_folders = {*folders, *owned} - {Path()}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for path in sorted((*all_folders, *files), key=lambda path: path.as_posix().encode()):
            entry = tarfile.TarInfo(path.as_posix())
            entry.mtime = 0
            if path in all_folders:
                entry.type, entry.uid = tarfile.DIRTYPE, owned.get(path, 0)
                entry.mode = 0o775 if path in owned else 0o755
                archive.addfile(entry)
            else:
                data, executable = files[path]
                entry.size, entry.mode = len(data), 0o755 if executable else 0o644
                archive.addfile(entry, io.BytesIO(data))
    return written.getvalue()


def _annotations(recipe: Recipe) -> dict[str, str]:
    commit = recipe.commit
    revision = f"{commit.revision}-dirty" if commit.revision and commit.uncommitted else commit.revision
    said = {
        TITLE: recipe.name,
        VERSION: recipe.version,
        DESCRIPTION: recipe.description,
        REVISION: revision or "uncommitted",
        CREATED: written_time(commit.time),
        SOURCE: commit.source,
        BASE_NAME: recipe.base.name,
        BASE_DIGEST: recipe.base.digest,
        KIND: recipe.kind,
        CONTRACT: recipe.contract_hash,
        INCLUDES: encoded_list(included for included, _ in recipe.sources),
    }
    return {name: value for name, value in said.items() if value}


def encoded_list(included: Iterable[Included]) -> str:
    """Write the source datakits of an image, for its annotation."""
    return json.dumps([each._asdict() for each in included], separators=(",", ":"), sort_keys=True)


def _config_of(
    origins: tuple[Origin, ...],
    own: str,
    labels: Mapping[str, str],
    created: str,
    environment: Iterable[str],
    made_by: str,
) -> bytes:
    base = origins[0].config
    runs: Json = {key: value for key, value in (base.get("config") or {}).items() if key in _OF_CONFIG}
    runs["Env"] = [*(runs.get("Env") or []), *environment]
    runs["Labels"] = dict(labels)  # those of the base would say that this is the base
    steps = [{"created": created, "created_by": f"datakit {origin.name}"} for origin in origins[1:]]
    history = [*(base.get("history") or []), *steps, {"created": created, "created_by": made_by}]
    config = {
        "architecture": base["architecture"],
        "os": base["os"],
        "created": created,
        "config": runs,
        "rootfs": {"type": "layers", "diff_ids": [*(each for origin in origins for each in origin.diff_ids), own]},
        "history": history,
    }
    if "variant" in base:
        config["variant"] = base["variant"]
    return encoded(config)


def _config(registry: Registry, repository: str, manifest: Mapping[str, Any], where: str) -> Json:
    try:
        config = json.loads(registry.blob(repository, manifest["config"]["digest"]))
        if len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]):
            return dict(config)
    except (ValueError, KeyError, TypeError):
        pass
    raise ImageCorrupt("it is not an image that containers can be made of", subject=where)


def _of_platform(manifests: Iterable[Mapping[str, Any]], where: str) -> str:
    for each in manifests:
        platform = each.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == _PLATFORM:
            return str(each["digest"])
    raise ConfigurationError(f"the base image is not there for {'/'.join(_PLATFORM)}", subject=where)


def written_time(time: datetime) -> str:
    """Write a time as annotations have it: in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
