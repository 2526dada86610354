"""From a folder to a release: build, compare with what was released before, test, push, attach, and tag last.

An interrupted release leaves blobs and manifests without a tag, which nobody takes for a release and a clean-up of the
registry removes. The same command again finds what is there already, and completes it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from datakit.errors import ReleaseRefused, UnknownName
from datakit.model._found import LoadedBronze
from datakit.model.project import Project
from datakit.release._annotations import Included, Release
from datakit.release._commit import files_of, read_commit
from datakit.release._media import LAYER, descriptor
from datakit.release._provenance import provenance, signed, unsigned
from datakit.release._sbom import packages_of, sbom
from datakit.release.attachments import (
    CONTRACT,
    PROVENANCE,
    SBOM,
    SIGNED_PROVENANCE,
    Attachment,
    attach,
    promise_of,
)
from datakit.release.contracts import (
    Promise,
    promise_of_bronze,
    promise_of_source,
)
from datakit.release.image import Built, Origin, Recipe, build_image, find_base, find_source, layer_of, read_files
from datakit.release.pushing import Pushed, push_parts, tag_once
from datakit.release.registry import Registry
from datakit.release.semver import SemVer


def build(project: Project, name: str, registry: Registry, *, base: str | None = None) -> Built:
    """Make the image of a datakit of the tree, and push nothing.

    :param base: ``REPOSITORY:TAG`` or ``REPOSITORY@DIGEST`` in the registry; None takes the one that this version was
        released on, else ``platform/datakit-base`` of this SDK's version.
    :raises UnknownName: there is no such datakit, base image, or released source datakit.
    :raises ReleaseRefused: a source datakit in the tree is not the released one.
    :raises ConfigurationError: a contract is missing, or a file cannot go into an image.
    """
    source, bronze = project.sources().get(name), project.bronzes().get(name)
    loaded = source or bronze
    if loaded is None:
        if project.broken:
            raise project.broken[0]
        raise UnknownName.of("datakit", name, project.datakit_files, where=str(project.root))
    commit = read_commit(loaded.folder)
    included: tuple[tuple[Included, Origin], ...] = ()
    if bronze is not None:
        found = [_included(project, bronze, item.datakit, item.version, registry) for item in bronze.manifest.sources]
        included = tuple((each, origin) for each, origin, _ in found)
        promise = promise_of_bronze(bronze, {each.name: its for each, _, its in found})
    else:
        promise = promise_of_source(project.sources()[name])
    version = loaded.manifest.version
    existing = registry.release(name, version) if "+" not in version else None
    image = build_image(
        Recipe(
            name=name,
            version=version,
            kind=loaded.manifest.kind,
            description=loaded.manifest.description or "",
            commit=commit,
            contract_hash=promise.hash,
            files=read_files(loaded.folder, files_of(loaded.folder)),
            base=find_base(registry, base or _base_of(existing)),
            sources=included,
        )
    )
    return Built(image, promise, commit, loaded.folder)


def push(
    built: Built,
    registry: Registry,
    *,
    key: Path | None = None,
    passphrase_file: Path | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Push an image with its attachments, then its tag. Safe to repeat at any point.

    :param key: a private key that signs the provenance.
    :param say: told before each step.
    :raises ReleaseRefused: somebody else has released that version meanwhile.
    """
    image, pushed = built.image, Pushed()
    repository = f"datakits/{image.release.name}"
    documents = _documents(built, registry.image(repository), key, passphrase_file, now())  # before anything is sent
    push_parts(registry, repository, image, pushed, say)
    say("contract, bill of materials, provenance")
    pushed.attachments += attach(registry, repository, image.descriptor, documents)
    say("tag")
    tag_once(registry, repository, image, SemVer.parse(image.release.version).tag)
    return pushed


def attach_missing(
    built: Built, registry: Registry, *, key: Path | None = None, passphrase_file: Path | None = None
) -> list[str]:
    """Attach again what a released image has lost, and a signature that it never had; return the media types."""
    repository, digest = f"datakits/{built.image.release.name}", built.image.digest
    there = {each.get("artifactType") for each in registry.referrers(repository, digest)}
    if {CONTRACT, SBOM, PROVENANCE if key is None else SIGNED_PROVENANCE} <= there:
        return []
    if key is None and SIGNED_PROVENANCE in there:
        there.add(PROVENANCE)
    documents = _documents(built, registry.image(repository), key, passphrase_file, datetime.now(UTC))
    missing = [each for each in documents if each.kind not in there]
    return list(attach(registry, repository, built.image.descriptor, missing))


def _documents(
    built: Built, repository: str, key: Path | None, passphrase_file: Path | None, now: datetime
) -> list[Attachment]:
    image = built.image
    statement = provenance(image, repository, built.commit.source, now)
    return [
        signed(statement, key, passphrase_file) if key is not None else unsigned(statement),
        Attachment(CONTRACT, built.promise.as_bytes()),
        Attachment(SBOM, sbom(image, repository, packages_of(image.origins[0]))),
    ]


def _included(
    project: Project, bronze: LoadedBronze, name: str, version: str | None, registry: Registry
) -> tuple[Included, Origin, Promise]:
    """Find a source datakit that a bronze datakit includes: released, and what its tests see in this tree."""
    local = next((source for source in bronze.sources if source.manifest.name == name), None)
    if version is None:
        if local is None:
            raise UnknownName.of("source datakit", name, project.sources(), where=str(bronze.folder / "datakit.yaml"))
        version = local.manifest.version
    release = registry.release(name, version)
    if release is None:
        raise UnknownName(
            f"{name} {version} was never released to this registry",
            subject=str(bronze.folder / "datakit.yaml"),
            cause="a bronze datakit's image takes its source datakits from the registry",
            fix=f"datakit release {name}",
        )
    origin = find_source(registry, release)
    if local is not None and local.manifest.version == version:
        mine = descriptor(LAYER, layer_of(name, read_files(local.folder, files_of(local.folder))))
        if mine["digest"] not in {layer["digest"] for layer in origin.layers}:
            raise ReleaseRefused(
                f"{name} {version} in this tree is not the one that was released",
                subject=str(local.folder),
                cause="it was changed since, and the tests here would run with other files than the image holds",
                fix=f"raise its version and release it: datakit release {name}",
            )
    return Included(name, version, release.digest), origin, promise_of(registry, release)


def _base_of(existing: Release | None) -> str:
    """Return the base that a version was released on, so that it is the same again; else the SDK's own."""
    from datakit import __version__

    if existing is not None:
        return f"{existing.base_name}@{existing.base_digest}"
    return f"platform/datakit-base:v{__version__}"
