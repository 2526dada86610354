"""``environments/NAME.lock.yaml``: which release of each datakit an environment runs, by version and digest.

It stands beside the environment's own file. Who releases and promotes writes it; here it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from datakit.errors import InvalidFile
from datakit.model._base import Model, text_like
from datakit.model.manifest import KebabName, Version
from datakit.model.yaml import Document

Digest = Annotated[str, text_like(r"^sha256:[0-9a-f]{64}$", "a digest: sha256: and 64 hexadecimal digits")]
"""What an image is, whatever its tag says today."""


class Pin(Model):
    """One release of a datakit."""

    version: Version
    digest: Annotated[Digest, Field(description="Of the image's manifest, as the registry names it")]


class Lock(Model):
    """The pins of one environment."""

    environment: KebabName
    warehouses: dict[KebabName, dict[KebabName, Pin]] = Field({}, description="Warehouse → datakit → its release")


def lock_path(environment_file: Path) -> Path:
    """Return where the lock of an environment is: beside its file."""
    return environment_file.with_name(f"{environment_file.stem}.lock.yaml")


def read_lock(environment_file: Path) -> Lock | None:
    """Read the lock that stands beside an environment's file; None if there is none.

    :raises InvalidFile: it cannot be read, or is another environment's.
    """
    path = lock_path(environment_file)
    if not path.is_file():
        return None
    document = Document.read(path)
    lock = document.into(Lock)
    if lock.environment != environment_file.stem:
        raise InvalidFile(
            f"the lock of {environment_file.stem!r} says that it is the one of {lock.environment!r}",
            subject=f"{path}:{document.at(('environment',))}",
            cause="it was copied from there",
            fix="promote pins instead of copying the file, or correct the name",
        )
    return lock
