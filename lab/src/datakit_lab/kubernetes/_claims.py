"""Persistent volumes: each claim is a folder of this machine, bound at once, as a cluster on a laptop provides them."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from datakit_lab.kubernetes._errors import invalid, not_modelled
from datakit_lab.kubernetes._quantities import quantity

Json = dict[str, Any]

_MODES: Final = frozenset({"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"})
_ONE_POD: Final = "ReadWriteOncePod"
_NOT_MODELLED: Final = frozenset({"volumeName", "selector", "dataSource", "dataSourceRef"})
_EVERYBODY: Final = 0o777


class Claims:
    """The folders of a cluster's claims. Use it as a context manager; with the end of it, they are gone."""

    def __init__(self) -> None:
        self._root: Path | None = None

    def __enter__(self) -> Self:
        self._root = Path(tempfile.mkdtemp(prefix="datakit-lab-claims-"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)  # what a container's user left, only root may remove

    def bound(self, given: Json) -> Json:
        """Return a new claim with a folder, which every user of a container may write to.

        :raises ApiError: the claim lacks what a real one has to have, or wants what is not modelled.
        """
        spec = given.get("spec") or {}
        if causes := list(_causes(spec)):
            raise invalid("PersistentVolumeClaim", given["metadata"]["name"], causes)
        if _ONE_POD in spec["accessModes"]:
            raise not_modelled(f"the access mode {_ONE_POD}")
        for field in _NOT_MODELLED & spec.keys():
            raise not_modelled(f"{field} of a claim")
        storage = spec["resources"]["requests"]["storage"]
        status = {"phase": "Bound", "accessModes": spec["accessModes"], "capacity": {"storage": storage}}
        claim = {**given, "spec": {**spec, "volumeName": f"pvc-{uuid.uuid4()}"}, "status": status}
        folder = self.folder(claim)
        folder.mkdir()
        folder.chmod(_EVERYBODY)
        return claim

    def folder(self, claim: Json) -> Path:
        """Return where a claim's data is."""
        if self._root is None:
            raise RuntimeError("the double was not started")
        return self._root / str(claim["spec"]["volumeName"])

    def remove(self, claim: Json) -> None:
        """Remove a claim's data, which nobody mounts any more."""
        shutil.rmtree(self.folder(claim), ignore_errors=True)


def claims_of(pod: Json) -> set[str]:
    """Return the names of the claims that a pod mounts."""
    return {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"].get("volumes") or []
        if "persistentVolumeClaim" in volume
    }


def _causes(spec: Json) -> Iterator[tuple[str, str]]:
    modes = spec.get("accessModes") or []
    if not modes:
        yield "spec.accessModes", "Required value: at least 1 access mode is required"
    for mode in set(modes) - _MODES - {_ONE_POD}:
        yield "spec.accessModes", f'Unsupported value: "{mode}"'
    storage = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if storage is None:
        yield "spec.resources[storage]", "Required value"
        return
    try:
        quantity(storage)
    except ValueError:
        yield "spec.resources[storage]", f'Invalid value: "{storage}": it is no quantity'
