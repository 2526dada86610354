"""What may become a release: what Git can give back, what its tests allow, and a version that says what changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from datakit.errors import ConfigurationError, DatakitError, ReleaseRefused
from datakit.release._annotations import LAYER_OF, Release
from datakit.release._commit import Commit
from datakit.release._media import LAYER, descriptor
from datakit.release.attachments import promise_of
from datakit.release.contracts import Difference, differences, needed_bump
from datakit.release.image import Built, Image
from datakit.release.registry import Registry
from datakit.release.semver import Bump, SemVer

_LAST_WORDS: Final = 30
"""Lines of a failed test's output that an error repeats."""


def refuse_unreproducible(
    commit: Commit, folder: Path, *, what: str = "datakit", becomes: str = "release", then: str = "release"
) -> None:
    """Refuse to make an image of what Git could not give back.

    :param what: what the image is made of, and ``becomes``, for people; ``then`` is what they run next.
    :raises ReleaseRefused: there is no commit, something is not committed, or history was cut off.
    """
    if not commit.revision:
        raise ReleaseRefused(
            f"the {what} was never committed",
            subject=str(folder),
            cause=f"a {becomes} names the commit that it was made from"
            + ("" if shutil.which("git") else ", and git is not installed here"),
            fix=f"git add and git commit it, then {then}",
        )
    if commit.uncommitted:
        listed = ", ".join(commit.uncommitted[:5]) + (" …" if len(commit.uncommitted) > 5 else "")
        raise ReleaseRefused(
            f"the tree is not what is committed: {listed}",
            subject=str(folder),
            cause=f"a {becomes} has to be what its commit says",
            fix=f"commit, stash or ignore these files, then {then}",
        )
    if commit.is_shallow:
        raise ReleaseRefused(
            f"the clone's history was cut off, so the commit that last changed the {what} is not known",
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
