"""The way of an image into a registry: layers, manifest, and the tag last, which nothing ever moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from datakit.errors import ReleaseRefused
from datakit.release._media import CONFIG, LAYER, Json, descriptor
from datakit.release.image import Origin, Parts
from datakit.release.registry import Registry


@dataclass(slots=True)
class Pushed:
    """What was sent.

    :ivar blobs: how many were not there before, and ``size`` their bytes.
    :ivar attachments: media types of what was attached.
    """

    blobs: int = 0
    size: int = 0
    attachments: list[str] = field(default_factory=list)


def push_parts(
    registry: Registry, repository: str, image: Parts, pushed: Pushed, say: Callable[[str], None] = lambda _: None
) -> None:
    """Push an image's layers and its manifest, without a tag. Safe to repeat at any point.

    :param pushed: counts what was sent.
    :param say: told before each step.
    """
    say("layers")
    for origin in image.origins:
        for layer in origin.layers:
            _take_over(registry, repository, origin, layer, pushed)
    for media_type, data in ((LAYER, image.layer), (CONFIG, image.config)):
        _send(registry, repository, descriptor(media_type, data), data, pushed)
    say("manifest")
    registry.push_manifest(repository, image.manifest)


def tag_once(registry: Registry, repository: str, image: Parts, tag: str) -> None:
    """Let a tag name an image that was pushed, and never another one.

    :raises ReleaseRefused: somebody else let it name another image.
    """
    for number in range(2):
        there = registry.resolve(repository, tag)
        if there == image.digest:
            break
        if there is not None:
            raise ReleaseRefused(
                f"{tag} names another image since this moment: {there}",
                subject=registry.image(repository),
                cause="somebody else pushed it at the same time",
                fix="see what it is, then push under another version",
            )
        if number == 0:
            registry.push_manifest(repository, image.manifest, tag=tag)


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
