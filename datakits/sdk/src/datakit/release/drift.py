"""Where the lock and the world differ: the registry, the hands of people, the tree, and what actually ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from datakit.errors import AccessDenied, ConfigurationError, ImageCorrupt, TemporaryError
from datakit.model.lock import Pin
from datakit.model.project import Project
from datakit.release.deploying import Deployable
from datakit.release.git import GitRepository
from datakit.release.history import lock_history
from datakit.release.locks import compare
from datakit.release.promotion import Place, taken_in
from datakit.release.registry import Registry
from datakit.release.reports import FoundReport

_AT_ONCE: Final = 8
_COMMITS_LOOKED_AT: Final = 20


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference.

    :ivar kind: ``moved-tag``, ``missing-tag``, ``missing-digest``, ``edited``, ``uncommitted``, ``not-by-command``,
        ``unpinned``, ``unused-pin``, ``not-deployed`` or ``ran-another``.
    :ivar subject: the pin or the file.
    """

    kind: str
    environment: str
    subject: str
    what: str
    fix: str

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "kind": self.kind,
            "environment": self.environment,
            "subject": self.subject,
            "what": self.what,
            "fix": self.fix,
        }


def find_drift(
    project: Project,
    name: str,
    *,
    repository: GitRepository | None,
    open_registry: Callable[[str], Registry] | None,
    reports: tuple[FoundReport, ...] = (),
    deployed: Deployable | None = None,
) -> tuple[tuple[Drift, ...], tuple[str, ...]]:
    """Compare an environment's lock with all that is given; return the differences, and what could not be compared.

    :param deployed: the image that its Airflow was deployed with, if that is known.
    :raises UnknownName: there is no such environment.
    :raises InvalidFile: the lock cannot be read.
    """
    place = Place.read(project, name)
    found: list[Drift] = []
    notes: list[str] = []
    found += _by_hand(place)
    if repository is None:
        notes.append(f"{name}: not compared with its history: there is no Git repository")
    else:
        found += _in_git(place, repository)
    found += _in_tree(place, project)
    if open_registry is None or place.environment.registry is None:
        why = "it was not to be asked" if open_registry is None else "the environment has none"
        notes.append(f"{name}: not compared with a registry: {why}")
    else:
        try:
            found += _in_registry(place, open_registry(place.environment.registry))
        except (TemporaryError, AccessDenied) as error:
            notes.append(f"{name}: not compared with the registry: {error.what}")
    found += _in_airflow(place, deployed)
    found += _ran(place, reports)
    return tuple(found), tuple(notes)


def _by_hand(place: Place) -> Iterator[Drift]:
    name = place.environment.name
    for house, kit in place.lock.by_hand():
        pin = place.lock.lock.warehouses[house][kit]
        yield Drift(
            "edited",
            name,
            f"{house}/{kit}",
            f"{pin.version} was edited by hand: its seal does not fit" if pin.seal else "no command wrote this pin",
            f"datakit history {name} shows who; datakit lock {name} {house}/{kit}@{pin.version} writes it anew",
        )


def _in_git(place: Place, repository: GitRepository) -> Iterator[Drift]:
    name, path = place.environment.name, place.lock.path
    if path.exists() and repository.uncommitted([path]):
        yield Drift(
            "uncommitted",
            name,
            path.name,
            "the lock has changes that are not committed",
            f"git diff HEAD -- {path}; commit them through datakit lock, or git restore {path}",
        )
    for entry in islice(lock_history(repository, path, name), _COMMITS_LOOKED_AT):
        if entry.is_by_command:
            break
        if entry.changes:
            changes = "; ".join(str(change) for change in entry.changes)
            yield Drift(
                "not-by-command",
                name,
                path.name,
                f"{entry.commit.author} changed it by hand in {entry.commit.revision[:12]}: {changes}",
                f"datakit rollback {name} --to {entry.commit.revision[:12]}^ undoes it",
            )


def _in_tree(place: Place, project: Project) -> Iterator[Drift]:
    name = place.environment.name
    taken = set(taken_in(project, place.environment))
    pinned = {(house, kit) for house, kit, _ in place.lock.lock.pins()}
    for house, kit in sorted(pinned - taken):
        fix = f"datakit lock {name} removes it, and so does a promotion of everything"
        yield Drift("unused-pin", name, f"{house}/{kit}", "no warehouse of the tree takes it", fix)
    if not place.environment.pulls and not pinned:
        return
    for house, kit in sorted(taken - pinned):
        how = f"datakit promote ENVIRONMENT {name}" if place.environment.frozen else f"datakit lock {name}"
        says = "it cannot run" if place.environment.frozen else "the tag of the tree's version runs, whatever it names"
        yield Drift("unpinned", name, f"{house}/{kit}", f"nothing pins it, so {says}", how)


def _in_airflow(place: Place, deployed: Deployable | None) -> Iterator[Drift]:
    name = place.environment.name
    if deployed is None:
        return
    for change in compare(deployed.lock, place.lock.lock):
        before, after = (f"pins {pin.version}" if pin else "pins none" for pin in (change.before, change.after))
        what = f"the deployed Airflow, {deployed.version}, {before}, and the lock {after}"
        yield Drift(
            "not-deployed", name, change.name, what, f"datakit airflow push; then datakit airflow deploy {name}"
        )


def _in_registry(place: Place, registry: Registry) -> Iterator[Drift]:
    name = place.environment.name
    pins: dict[tuple[str, str, str], list[str]] = {}
    for house, kit, pin in place.lock.lock.pins():
        pins.setdefault((kit, pin.version, pin.digest), []).append(f"{house}/{kit}")

    def look(key: tuple[str, str, str]) -> tuple[str, str, str] | None:
        return _look(registry, *key)

    with ThreadPoolExecutor(_AT_ONCE) as workers:
        for said, names in zip(workers.map(look, pins), pins.values(), strict=True):
            if said is not None:
                kind, what, fix = said
                yield Drift(kind, name, ", ".join(names), what, fix)


def _look(registry: Registry, kit: str, version: str, digest: str) -> tuple[str, str, str] | None:
    repository = f"datakits/{kit}"
    try:
        there = registry.resolve(repository, digest)
        tagged = registry.resolve(repository, f"v{version}")
    except (ImageCorrupt, ConfigurationError) as error:
        return "missing-digest", f"{version}: {error.what}", error.fix or f"datakit verify {kit}@{version}"
    if there is None:
        return (
            "missing-digest",
            f"{version}: the registry does not have {digest} any more; the next run that has to pull it fails",
            "restore it from a backup, or release a new version and promote that",
        )
    if tagged is None:
        return "missing-tag", f"{version}: the tag v{version} is gone", f"somebody deleted it; tag {digest} again"
    if tagged != digest:
        return (
            "moved-tag",
            f"{version}: the tag v{version} names {tagged} now, not {digest}; runs by digest are not affected",
            f"move it back: {digest} is what was released",
        )
    return None


def _ran(place: Place, reports: tuple[FoundReport, ...]) -> Iterator[Drift]:
    """Compare the latest run of each pin, if it began after the pin was set."""
    name = place.environment.name
    latest: dict[tuple[str, str], FoundReport] = {}
    for each in reports:
        if each.report.environment == name and each.report.warehouse and each.datakit:
            latest[each.report.warehouse, each.datakit[0]] = each
    for (house, kit), each in sorted(latest.items()):
        pin = place.lock.lock.pin(house, kit)
        ran = each.datakit[1] if each.datakit else ""
        if pin is None or not _is_after(each, pin):
            continue
        if pin.version != ran or (each.digest or pin.digest) != pin.digest:
            image = f" ({each.digest})" if each.digest and pin.version == ran else ""
            yield Drift(
                "ran-another",
                name,
                f"{house}/{kit}",
                f"{ran}{image} ran at {each.report.started_at:%Y-%m-%d %H:%M:%S%z} ({each.report.run_id}), "
                f"although {pin.version} is pinned",
                "deploy the Airflow image that holds this lock; until then the one before runs",
            )


def _is_after(each: FoundReport, pin: Pin) -> bool:
    return pin.at is None or each.report.started_at >= pin.at
