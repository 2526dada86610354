"""From a folder to a release: build, compare with what was released before, test, push, attach, and tag last.

An interrupted release leaves blobs and manifests without a tag, which nobody takes for a release and a clean-up of the
registry removes. The same command again finds what is there already, and completes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from datakit.errors import ConfigurationError, DatakitError, ImageCorrupt, ReleaseRefused, UnknownName
from datakit.model._found import LoadedBronze
from datakit.model.project import Project
from datakit.release._annotations import LAYER_OF, Included, Release
from datakit.release._commit import Commit, files_of, read_commit
from datakit.release._media import CONFIG, LAYER, Json, descriptor
from datakit.release._provenance import provenance, signed, unsigned
from datakit.release._sbom import packages_of, sbom
from datakit.release.attachments import (
    CONTRACT,
    PROVENANCE,
    SBOM,
    SIGNED_PROVENANCE,
    Attachment,
    attach,
    attached,
)
from datakit.release.contracts import (
    Difference,
    Promise,
    differences,
    needed_bump,
    promise_of_bronze,
    promise_of_source,
)
from datakit.release.image import Image, Origin, Recipe, build_image, find_base, find_source, layer_of, read_files
from datakit.release.registry import Registry
from datakit.release.semver import Bump, SemVer

_LAST_WORDS: Final = 30
"""Lines of a failed test's output that an error repeats."""


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


@dataclass(slots=True)
class Pushed:
    """What a release sent.

    :ivar blobs: how many were not there before, and ``size`` their bytes.
    :ivar attachments: media types of what was attached.
    """

    blobs: int = 0
    size: int = 0
    attachments: list[str] = field(default_factory=list)


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
        promise = promise_of_source(loaded)  # type: ignore[arg-type]  # it is the source
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


def refuse_unreproducible(commit: Commit, folder: Path) -> None:
    """Refuse to release what Git could not give back.

    :raises ReleaseRefused: there is no commit, something is not committed, or history was cut off.
    """
    if not commit.revision:
        raise ReleaseRefused(
            "the datakit was never committed",
            subject=str(folder),
            cause="a release names the commit that it was made from"
            + ("" if shutil.which("git") else ", and git is not installed here"),
            fix="git add and git commit it, then release",
        )
    if commit.uncommitted:
        listed = ", ".join(commit.uncommitted[:5]) + (" …" if len(commit.uncommitted) > 5 else "")
        raise ReleaseRefused(
            f"the tree is not what is committed: {listed}",
            subject=str(folder),
            cause="a release has to be what its commit says",
            fix="commit, stash or ignore these files, then release",
        )
    if commit.is_shallow:
        raise ReleaseRefused(
            "the clone's history was cut off, so the commit that last changed the datakit is not known",
            subject=str(folder),
            fix="fetch all of it: git fetch --unshallow (in CI, a fetch depth of 0)",
        )


def compare(built: Built, registry: Registry) -> Built | Release:
    """Compare an image with what was released: return the release if it is that already, else what it changes.

    :raises ReleaseRefused: the version is taken by another image, or too low for what it changes.
    """
    mine = built.image.release
    version = SemVer.parse(mine.version)
    if version.build:
        raise ReleaseRefused(
            f"the version {mine.version} has build metadata, which the tag of an image cannot hold",
            subject=mine.name,
            fix=f"release it as {SemVer(version.major, version.minor, version.patch, version.pre)}",
        )
    there = registry.release(mine.name, mine.version)
    if there is not None:
        if there.digest == mine.digest:
            return there
        raise ReleaseRefused(
            f"version {mine.version} was released already, as {there.digest}, and this would be {mine.digest}",
            subject=registry.image(f"datakits/{mine.name}"),
            cause=_what_differs(there, built.image, registry),
            fix=f"raise version in {built.folder / 'datakit.yaml'}; a released version never changes",
        )
    releases = registry.releases(mine.name)
    previous = _previous(releases, version)
    if previous is None:
        if releases:
            raise ReleaseRefused(
                f"version {mine.version} is lower than every release: the lowest is {releases[0].version}",
                subject=mine.name,
                fix=f"choose a version above {releases[-1].version}",
            )
        return built
    changes = differences(promise_of(registry, previous), built.promise)
    bump, before = needed_bump(changes), SemVer.parse(previous.version)
    if not version.allows(bump, before):
        raise _too_low(built, previous, changes, bump, before)
    return Built(built.image, built.promise, built.commit, built.folder, previous, changes)


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


def run_tests(folder: Path, root: Path) -> None:
    """Run a datakit's own tests.

    :raises ReleaseRefused: one fails, or there is none; repeats their last lines.
    :raises ConfigurationError: pytest is not installed.
    """
    tests = folder / "tests"
    fix = f"see all of it: {Path(sys.executable).name} -m pytest {tests}"
    if not tests.is_dir():
        raise ReleaseRefused("there is no test", subject=str(tests), fix="write one: datakit new shows how they look")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # nothing of a test is left in the tree
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode == 0:
        return
    if "No module named pytest" in done.stdout:
        raise ConfigurationError(
            "pytest is not installed, and a release runs the datakit's tests",
            subject=sys.executable,
            fix="pip install pytest",
        )
    if done.returncode == 5:
        raise ReleaseRefused("there is no test", subject=str(tests), fix="write one, so that a release is checked")
    said = "\n".join(done.stdout.strip().splitlines()[-_LAST_WORDS:])
    raise ReleaseRefused(f"its tests fail:\n{said}", subject=str(folder), fix=fix)


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
    say("layers")
    for origin in image.origins:
        for layer in origin.layers:
            _take_over(registry, repository, origin, layer, pushed)
    for media_type, data in ((LAYER, image.layer), (CONFIG, image.config)):
        _send(registry, repository, descriptor(media_type, data), data, pushed)
    say("manifest")
    registry.push_manifest(repository, image.manifest)
    say("contract, bill of materials, provenance")
    pushed.attachments += attach(registry, repository, image.descriptor, documents)
    say("tag")
    tag = SemVer.parse(image.release.version).tag
    for number in range(2):
        there = registry.resolve(repository, tag)
        if there == image.digest:
            break
        if there is not None:
            raise ReleaseRefused(
                f"somebody released {image.release.version} in this moment, as {there}",
                subject=registry.image(repository),
                fix="see what it is: datakit show; then raise the version",
            )
        if number == 0:
            registry.push_manifest(repository, image.manifest, tag=tag)
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


def _take_over(registry: Registry, repository: str, origin: Origin, layer: Json, pushed: Pushed) -> None:
    """Let a layer of another image be in this repository: by reference in one registry, else by a copy."""
    digest = layer["digest"]
    mountable = origin.registry is registry and origin.repository != repository
    if mountable and (
        registry.has_blob(repository, digest) or registry.mount_blob(repository, digest, origin.repository)
    ):
        return
    _send(registry, repository, layer, lambda: origin.registry.blob_chunks(origin.repository, digest), pushed)


def _send(registry: Registry, repository: str, part: Json, body: bytes | Callable[[], object], pushed: Pushed) -> None:
    if registry.push_blob(repository, part["digest"], body, part["size"]):  # type: ignore[arg-type]  # chunks of bytes
        pushed.blobs += 1
        pushed.size += part["size"]


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


def _previous(releases: tuple[Release, ...], version: SemVer) -> Release | None:
    """Return the highest lower release; a pre-release counts only where there is no other."""
    lower = [release for release in releases if SemVer.parse(release.version) < version]
    stable = [release for release in lower if SemVer.parse(release.version).is_stable]
    return (stable or lower)[-1] if lower else None


def _too_low(
    built: Built, previous: Release, changes: tuple[Difference, ...], bump: Bump, before: SemVer
) -> DatakitError:
    mine = built.image.release
    gravest = [f"{each.dataset or 'landing'}: {each.words}" for each in changes if each.bump == bump]
    listed = "; ".join(gravest[:3]) + (f" and {len(gravest) - 3} more" if len(gravest) > 3 else "")
    return ReleaseRefused(
        f"what changes since {previous.version} calls for a {bump} bump, and {mine.version} is none",
        subject=mine.name,
        cause=listed or None,
        fix=f"set version: {before.raised(bump)} in {built.folder / 'datakit.yaml'}",
    )


def _what_differs(there: Release, image: Image, registry: Registry) -> str:
    mine = image.release
    manifest = registry.manifest(f"datakits/{mine.name}", there.digest)
    own = [layer["digest"] for layer in manifest["layers"] if LAYER_OF in layer.get("annotations", {})]
    if there.includes != mine.includes:
        return "it includes other releases of source datakits"
    if there.base_digest != mine.base_digest:
        return f"it stands on another base: {there.base_digest} then, {mine.base_digest} now"
    if descriptor(LAYER, image.layer)["digest"] not in own:
        return f"its files differ from those of commit {there.revision[:12]}"
    if there.revision != mine.revision:
        return f"the same files, but committed again: {there.revision[:12]} then, {mine.revision[:12]} now"
    return "it was built by another version of datakit, or its description differs"
