"""An Airflow image on its way: into the registry under a tag that never moves, and into an environment by digest."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datakit.errors import ConfigurationError, ImageCorrupt, ReleaseRefused, UnknownName
from datakit.model.environment import AirflowDeployment
from datakit.model.lock import Lock, parse_lock
from datakit.release._annotations import BASE_DIGEST, CREATED, LAYER_OF, REVISION, TITLE, UNPINNED, VERSION
from datakit.release._media import Json
from datakit.release.deployment import REPOSITORY, RUNTIME_LABEL, TITLE_OF_ONE, Deployment
from datakit.release.image import find_base
from datakit.release.locks import PinChange, compare
from datakit.release.overlay import Overlay
from datakit.release.proposal import unified_diff
from datakit.release.pushing import Pushed, push_parts, tag_once
from datakit.release.registry import Registry

_ENVIRONMENTS: Final = "warehouses/environments"


@dataclass(frozen=True, slots=True)
class Deployable:
    """An Airflow image in a registry that this command has pushed.

    :ivar image: its whole name, by digest.
    :ivar version: its tag without the v; begins with the day of its commit.
    :ivar created: time of that commit, as the image says it.
    :ivar lock: what it pins in the environment that was asked for; empty where that has no lock.
    :ivar runtime_version: Astronomer's, if it stands on an Astronomer runtime.
    :ivar unpinned: WAREHOUSE/DATAKIT that nothing pins there, though the environment is frozen.
    """

    image: str
    digest: str
    version: str
    revision: str
    created: str
    lock: Lock
    runtime_version: str | None
    unpinned: tuple[str, ...] = ()


def push_deployment(
    deployment: Deployment, registry: Registry, *, say: Callable[[str], None] = lambda _: None
) -> Pushed | None:
    """Push an image, its tag last; None if it was there. Safe to repeat at any point.

    :param say: told before each step.
    :raises ReleaseRefused: its tag names another image.
    """
    there = registry.resolve(REPOSITORY, deployment.tag)
    if there == deployment.digest:
        return None
    if there is not None:
        other = registry.manifest(REPOSITORY, there).get("annotations") or {}
        same_base = other.get(BASE_DIGEST) == deployment.parts.origins[0].digest
        raise ReleaseRefused(
            f"the tag {deployment.tag} names another image: {there}, and this would be {deployment.digest}",
            subject=registry.image(REPOSITORY),
            cause="another version of datakit made it, or another --dags-folder" if same_base else None,
            fix=f"deploy that one: datakit airflow deploy ENVIRONMENT --image {deployment.tag}; or commit a change",
        )
    pushed = Pushed()
    push_parts(registry, REPOSITORY, deployment.parts, pushed, say)
    say("tag")
    tag_once(registry, REPOSITORY, deployment.parts, deployment.tag)
    return pushed


def find_deployable(registry: Registry, reference: str, environment: str) -> Deployable:
    """Return an image that was pushed.

    :param reference: its tag, or its digest; the registry and the repository may stand before it.
    :raises UnknownName: there is none, or it knows no such environment.
    :raises ImageCorrupt: it is not one that this command has made.
    """
    digest = _digest(registry, reference)
    manifest = registry.manifest(REPOSITORY, digest)
    said = manifest.get("annotations") or {}
    where = registry.image(REPOSITORY, digest)
    if said.get(TITLE) != TITLE_OF_ONE or not {VERSION, REVISION, CREATED} <= said.keys():
        raise ImageCorrupt(
            "the image does not say that it is an Airflow with the tree in it",
            subject=where,
            cause="something else built and pushed it",
            fix="push one: datakit airflow push",
        )
    labels = (find_base(registry, f"{REPOSITORY}@{digest}").config.get("config") or {}).get("Labels") or {}
    return Deployable(
        image=where,
        digest=digest,
        version=said[VERSION],
        revision=said[REVISION],
        created=said[CREATED],
        lock=_lock(registry, manifest, environment, where),
        runtime_version=labels.get(RUNTIME_LABEL),
        unpinned=tuple(json.loads(said.get(UNPINNED, "{}")).get(environment, ())),
    )


def refuse_unpinned(image: Deployable, environment: str) -> None:
    """Refuse an image that could not parse a DAG in a frozen environment.

    :raises ReleaseRefused: its lock lacks a pin.
    """
    if image.unpinned:
        raise ReleaseRefused(
            f"the environment {environment!r} is frozen, and this image's lock pins no {image.unpinned[0]}: "
            "no DAG could be parsed there",
            subject=f"{image.version}: {', '.join(image.unpinned)}",
            cause="it was never promoted there, or a warehouse took it later",
            fix=f"datakit promote ENVIRONMENT {environment}; then push the next image",
        )


@dataclass(frozen=True, slots=True)
class GitOpsChange:
    """A change of the file that says which image an environment's Airflow has.

    :ivar pins: what it runs otherwise than the image before it, as far as that can be told.
    :ivar notes: what a person should know before they agree.
    """

    environment: str
    overlay: Overlay
    after: str
    image: Deployable
    pins: tuple[PinChange, ...]
    notes: tuple[str, ...]
    why: str | None

    @property
    def text(self) -> str | None:
        """What the file will hold; None if it says so already."""
        return None if self.after == self.overlay.text else self.after

    @property
    def message(self) -> str:
        """The commit's message: for people, and in its trailers for programs."""
        parts = [f"Deploy Airflow {self.image.version} to {self.environment}"]
        if self.pins:
            parts.append("\n".join(f"- {change}" for change in self.pins))
        if self.why:
            parts.append(f"Why: {self.why}")
        trailers = {
            "Datakit-Action": "deploy",
            "Datakit-Environment": self.environment,
            "Datakit-Image": self.image.image,
            "Datakit-Revision": self.image.revision,
        }
        return "\n\n".join([*parts, "\n".join(f"{key}: {value}" for key, value in trailers.items())]) + "\n"

    @property
    def diff(self) -> str:
        """The change of the file, as ``diff -u`` shows it."""
        return unified_diff(self.overlay.path.name, self.overlay.text, self.after)

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "file": str(self.overlay.path),
            "before": self.overlay.image,
            "message": self.message,
            "diff": self.diff,
        }


def plan_gitops(
    root: Path, way: AirflowDeployment, image: Deployable, environment: str, registry: Registry, *, why: str | None
) -> GitOpsChange:
    """Plan the change of an environment's GitOps folder.

    :param root: of the tree, where the environment's paths start.
    :raises ConfigurationError: the file is not there, or cannot be written without loss.
    """
    overlay = Overlay.read(root, way)
    after = overlay.with_image(image.image.partition("@")[0], image.digest)
    before = overlay.image
    pins: tuple[PinChange, ...] = ()
    notes: list[str] = []
    ours = f"{registry.image(REPOSITORY)}@"
    if before and before.startswith(ours) and before != image.image:
        try:
            previous = find_deployable(registry, before.removeprefix(ours), environment)
        except ConfigurationError as error:
            notes.append(f"what ran before is not known: {error.what}")
        else:
            pins = compare(previous.lock, image.lock)
            if image.created < previous.created:
                notes.append(f"this image is older than the one that runs, which is {previous.version}")
    return GitOpsChange(environment, overlay, after, image, pins, tuple(notes), why)


def lock_notes(image: Deployable, here: Lock | None, environment: str) -> tuple[str, ...]:
    """Say where the lock inside of an image is not the tree's: the next image would bring that one back."""
    changes = compare(image.lock, here or Lock(environment=environment))
    if not changes:
        return ()
    listed = "; ".join(str(change) for change in changes[:3]) + (" …" if len(changes) > 3 else "")
    note = f"the lock of this tree is not the image's: {listed}; the next image brings it"
    return (f"{note}. To keep what this one runs: datakit rollback {environment}",)


def _digest(registry: Registry, reference: str) -> str:
    name = registry.image(REPOSITORY)
    short = reference.removeprefix(name).lstrip(":@") if reference.startswith((f"{name}:", f"{name}@")) else reference
    found = short if short.startswith("sha256:") and registry.has_manifest(REPOSITORY, short) else None
    if found is None and "/" not in short and ":" not in short:
        found = registry.resolve(REPOSITORY, short)
    if found is None:
        latest = sorted(tag for tag in registry.tags(REPOSITORY) if tag.startswith("v"))[-3:]
        raise UnknownName(
            f"there is no Airflow image {reference!r} in the registry",
            subject=name,
            cause=f"the latest ones are {', '.join(latest)}" if latest else "none was pushed to it",
            fix="push it: datakit airflow push; or name another one: --image TAG",
        )
    return found


def _lock(registry: Registry, manifest: Json, environment: str, where: str) -> Lock:
    """Return the lock that an image holds.

    :raises UnknownName: it has no such environment.
    """
    layer = next((each for each in reversed(manifest["layers"]) if LAYER_OF in each.get("annotations", {})), None)
    if layer is None:
        raise ImageCorrupt("the image has no layer with the tree", subject=where)
    data = registry.blob(REPOSITORY, layer["digest"])
    text: str | None = None
    known: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            folder, _, name = entry.name.rpartition("/")
            if not folder.endswith(_ENVIRONMENTS) or not name.endswith(".yaml"):
                continue
            if name == f"{environment}.lock.yaml" and (file := archive.extractfile(entry)) is not None:
                text = file.read().decode("utf-8-sig")
            elif not name.endswith(".lock.yaml"):
                known.append(name.removesuffix(".yaml"))
    if environment not in known:
        raise UnknownName.of("environment in this image called", environment, known, where=where)
    return Lock(environment=environment) if text is None else parse_lock(text, environment, f"{where}: its lock")
