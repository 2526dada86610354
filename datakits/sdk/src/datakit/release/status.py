"""What runs where: for every environment, warehouse and datakit the pin, how old it is, and what is newer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from datakit.errors import AccessDenied, ConfigurationError, TemporaryError
from datakit.model.lock import Lock, Pin, read_lock
from datakit.model.project import Project
from datakit.release.promotion import taken_in
from datakit.release.registry import Registry
from datakit.release.semver import SemVer

_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One datakit of one warehouse in one environment.

    :ivar pin: None where nothing pins it.
    :ivar in_tree: the version that this tree has, which runs where nothing pins another and the environment is not
        frozen.
    :ivar newer: stable releases that are newer than the pin, the lowest first; None if the registry was not asked, or
        did not answer.
    :ivar by_command: whether the pin is as a command wrote it.
    :ivar deployed: what the Airflow pins that the environment was deployed with; None if that pins nothing here, or is
        not known, which ``is_deployed`` tells apart.
    :ivar is_deployed: whether that is what the pin says; None if it is not known.
    """

    environment: str
    warehouse: str
    datakit: str
    pin: Pin | None
    in_tree: str | None
    newer: tuple[str, ...] | None
    by_command: bool = True
    frozen: bool = False
    deployed: Pin | None = None
    is_deployed: bool | None = None

    def age(self, now: datetime) -> timedelta | None:
        """How long it has been pinned; None if that is not known."""
        return now - self.pin.at if self.pin and self.pin.at else None

    def as_json(self, now: datetime) -> dict[str, Any]:
        """Return it as ``--json`` shows it; the age in seconds."""
        age = self.age(now)
        return {
            "environment": self.environment,
            "warehouse": self.warehouse,
            "datakit": self.datakit,
            "version": self.pin.version if self.pin else None,
            "digest": self.pin.digest if self.pin else None,
            "pinned_at": self.pin.at.isoformat() if self.pin and self.pin.at else None,
            "age_seconds": None if age is None else round(age.total_seconds()),
            "by": self.pin.by if self.pin else None,
            "why": self.pin.why if self.pin else None,
            "behind_by": None if self.newer is None else len(self.newer),
            "newest": self.newer[-1] if self.newer else None,
            "by_command": self.by_command,
            "in_tree": self.in_tree,
            "frozen": self.frozen,
            "deployed": {"version": self.deployed.version, "digest": self.deployed.digest} if self.deployed else None,
            "is_deployed": self.is_deployed,
        }


def status(
    project: Project,
    environments: Sequence[str] = (),
    *,
    open_registry: Callable[[str], Registry] | None,
    deployed: Mapping[str, Lock] = MappingProxyType({}),
) -> tuple[tuple[StatusRow, ...], tuple[str, ...]]:
    """Return a row for everything that can run, and for every pin; and notes about registries that do not answer.

    :param environments: none means all.
    :param open_registry: None asks no registry.
    :param deployed: by environment, the lock that its Airflow was deployed with, where that is known.
    :raises UnknownName: there is no such environment.
    :raises InvalidFile: a lock cannot be read.
    """
    if project.broken:
        raise project.broken[0]
    found: list[tuple[str | None, StatusRow]] = []
    kits = {name: each.model.version for name, each in project.datakit_files.items()}
    for name in environments or sorted(project.environment_files):
        environment = project.environment(name)
        lock = read_lock(project.environment_files[name].path)
        pinned = {(house, kit) for house, kit, _ in lock.pins()} if lock else set()
        taken = set(taken_in(project, environment))
        for house, kit in sorted(pinned | taken):
            pin = lock.pin(house, kit) if lock else None
            by_command = pin is None or (lock is not None and lock.is_by_command(house, kit))
            row = StatusRow(name, house, kit, pin, kits.get(kit), None, by_command, environment.frozen)
            if name in deployed:
                runs = deployed[name].pin(house, kit)
                same = (runs and runs.digest) == (pin and pin.digest)
                row = replace(row, deployed=runs, is_deployed=same)
            found.append((environment.registry, row))
    if open_registry is None:
        return tuple(row for _, row in found), ()
    wanted = {(registry, row.datakit) for registry, row in found if registry and row.pin}
    versions, notes = _versions(wanted, open_registry)
    rows = tuple(_compared(row, versions.get((registry or "", row.datakit))) for registry, row in found)
    return rows, notes


def _compared(row: StatusRow, versions: tuple[SemVer, ...] | None) -> StatusRow:
    if row.pin is None or versions is None:
        return row
    own = SemVer.parse(row.pin.version)
    newer = tuple(str(version) for version in versions if version > own and version.is_stable)
    return replace(row, newer=newer)


def _versions(
    wanted: Iterable[tuple[str, str]], open_registry: Callable[[str], Registry]
) -> tuple[Mapping[tuple[str, str], tuple[SemVer, ...]], tuple[str, ...]]:
    """Ask each registry for the versions of each datakit, several at once."""
    keys = sorted(wanted)
    notes: dict[str, str] = {}

    def ask(key: tuple[str, str]) -> tuple[SemVer, ...] | None:
        reference, name = key
        if reference in notes:  # it did not answer once; do not wait for each datakit again
            return None
        try:
            tags = open_registry(reference).tags(f"datakits/{name}")
        except (TemporaryError, AccessDenied, ConfigurationError) as error:
            notes[reference] = f"{reference} was not compared: {error.what}"
            return None
        return tuple(sorted(version for tag in tags if (version := SemVer.of_tag(tag)) is not None))

    with ThreadPoolExecutor(_AT_ONCE) as workers:
        answers = zip(keys, workers.map(ask, keys), strict=True)
        found = {key: versions for key, versions in answers if versions is not None}
    return found, tuple(notes[reference] for reference in sorted(notes))
