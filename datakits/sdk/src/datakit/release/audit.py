"""The story of a run: commit, release, provenance, pin, run, tickets and secrets, in the order in which they happened.

Each moment says where it was read. What is not at hand is named as missing, with the way to get it; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

from datakit.errors import DatakitError, UnknownName
from datakit.model.lock import Pin
from datakit.model.project import Project
from datakit.release._sidecar_log import SidecarLine, SidecarLog
from datakit.release.git import GitRepository
from datakit.release.history import LockChange, lock_history
from datakit.release.promotion import Place
from datakit.release.registry import Registry, Release
from datakit.release.reports import FoundReport

_SHORT: Final = 12
_ORDER: Final = ("commit", "release", "lock", "ticket", "secret", "dag-run", "run")
"""Of what happened in the same second."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened.

    :ivar kind: ``commit``, ``release``, ``lock``, ``ticket``, ``secret``, ``dag-run`` or ``run``.
    :ivar source: where it was read.
    """

    time: datetime
    kind: str
    what: str
    source: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "time": self.time.astimezone(UTC).isoformat(),
            "kind": self.kind,
            "what": self.what,
            "source": self.source,
            "details": self.details,
        }


@dataclass(frozen=True, slots=True)
class Missing:
    """A link of the chain that is not at hand."""

    kind: str
    what: str
    fix: str

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {"kind": self.kind, "what": self.what, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known about one run.

    :ivar digest: of the image that ran, as the run report says it, else as the lock pinned it when the run began; None
        if neither is known.
    """

    report: FoundReport
    digest: str | None
    moments: tuple[Moment, ...]
    missing: tuple[Missing, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        said = self.report.report
        return {
            "run_id": said.run_id,
            "dataset": said.dataset,
            "warehouse": said.warehouse,
            "environment": said.environment,
            "table": said.table,
            "datakit": said.datakit,
            "digest": self.digest,
            "status": said.status,
            "timeline": [moment.as_json() for moment in self.moments],
            "missing": [each.as_json() for each in self.missing],
        }


def runs_of(reports: tuple[FoundReport, ...], wanted: str, warehouse: str | None = None) -> tuple[FoundReport, ...]:
    """Return the reports of a run id; or, of a table ``SCHEMA.TABLE``, the last one that changed it.

    :raises UnknownName: there is none.
    """
    mine = [each for each in reports if warehouse is None or each.report.warehouse == warehouse]
    of_run = [each for each in mine if each.report.run_id == wanted]
    if of_run:
        return tuple(of_run)
    of_table = [each for each in mine if each.report.table == wanted]
    houses = sorted({str(each.report.warehouse) for each in of_table})
    if len(houses) > 1:
        raise UnknownName(
            f"{len(houses)} warehouses have a table {wanted!r}",
            subject=", ".join(houses),
            fix=f"name one: --warehouse {houses[0]}",
        )
    loaded = [each for each in of_table if each.report.status == "loaded"]
    if loaded or of_table:
        return tuple((loaded or of_table)[-1:])
    known = {str(each.report.run_id) for each in mine} | {str(each.report.table) for each in mine if each.report.table}
    raise UnknownName.of("run or table called", wanted, known, where="the run reports")


@dataclass
class Auditor:
    """Tells stories of runs.

    :ivar repository: None where there is no Git; the chain then lacks commits and changes of locks.
    :ivar open_registry: None asks no registry.
    :ivar provenance: reads a release's provenance and the key that signed it.
    :ivar log: the sidecar's audit log; None if there is none at hand.
    """

    project: Project
    repository: GitRepository | None
    open_registry: Callable[[str], Registry] | None
    provenance: Callable[[Registry, Release], tuple[dict[str, Any] | None, str | None]]
    log: SidecarLog | None = None
    _moments: list[Moment] = field(default_factory=list)
    _missing: list[Missing] = field(default_factory=list)

    def tell(self, found: FoundReport) -> Story:
        """Put the story of one run together."""
        self._moments, self._missing = [], []
        digest: str | None = None
        self._run(found)
        place = self._place(found)
        datakit = found.datakit
        if datakit is None:
            self._lacks("release", "the run report names no datakit", "the run failed before it was known; see its log")
        elif place is not None and found.report.warehouse:
            pin = self._lock_change(found, place, *datakit)
            digest = found.digest or (pin.digest if pin else None)
            release = self._release(place, *datakit, digest)
            if release is not None:
                self._commit(release)
        if place is not None:
            self._credentials(found, place)
        moments = tuple(sorted(self._moments, key=lambda each: (each.time, _ORDER.index(each.kind))))
        return Story(found, digest, moments, tuple(self._missing))

    def _lacks(self, kind: str, what: str, fix: str) -> None:
        self._missing.append(Missing(kind, what, fix))

    def _add(self, time: datetime, kind: str, what: str, source: str, **details: Any) -> None:
        self._moments.append(Moment(time, kind, what, source, details))

    def _place(self, found: FoundReport) -> Place | None:
        name = found.report.environment
        if name is None:
            self._lacks("lock", "the run report names no environment", "run with --environment or DATAKIT_ENVIRONMENT")
            return None
        try:
            return Place.read(self.project, name)
        except DatakitError as error:
            self._lacks("lock", f"environment {name!r}: {error.what}", error.fix or "restore its files")
            return None

    def _run(self, found: FoundReport) -> None:
        said = found.report
        dag, slash, dag_run = (said.run_id or "").partition("/")
        if slash:
            # as the Airflow provider makes run ids; Airflow's own database knows who triggered it
            interval = said.data_interval
            covers = f", for {interval.start} to {interval.end}" if interval and interval.start else ""
            words = f"{dag}: {dag_run}{covers}, came to this task"
            self._add(said.started_at, "dag-run", words, f"run id and data interval in {found.path}")
        else:
            self._lacks("dag-run", f"the run id {said.run_id!r} is no DAG's", "it was run without Airflow")
        self._add(
            said.started_at,
            "run",
            f"{said.datakit or 'a datakit'} began to load {said.dataset} into {said.warehouse}",
            str(found.path),
            source_datakit=said.source_datakit,
        )
        failed = f": {said.error.get('what')}" if said.error else ""
        table = f" into {said.table}" if said.table else ""
        words = f"{said.status}{table}: {said.rows_written} rows in {said.seconds:g} s{failed}"
        self._add(said.ended_at, "run", words, str(found.path), exit_code=said.exit_code, mode=said.mode)

    def _lock_change(self, found: FoundReport, place: Place, kit: str, version: str) -> Pin | None:
        """Find the change that pinned what ran: the last one before the run after which the lock had it."""
        name, house = place.environment.name, str(found.report.warehouse)
        if self.repository is None:
            self._lacks("lock", "there is no Git repository here", "run it in a clone of the tree")
            return None
        history = lock_history(self.repository, place.lock.path, name)
        before = (entry for entry in history if entry.commit.time <= found.report.started_at)
        latest = next(before, None)
        earlier = chain([latest] if latest else [], before)
        holding = next((entry for entry in earlier if _holds(entry, house, kit, version, found.digest)), None)
        if latest is None or holding is None:
            shallow = self.repository.is_shallow()
            self._lacks(
                "lock",
                f"no lock of {name!r} before the run pins {house}/{kit} {version}"
                + (f" as {found.digest}" if found.digest else ", so its digest is not known"),
                "git fetch --unshallow: history is cut off"
                if shallow
                else "see which image ran: its container's record",
            )
            return None
        change = next((entry for entry in chain([holding], earlier) if _sets(entry, house, kit)), holding)
        pin = change.lock.pin(house, kit) if change.lock else None
        if pin is None:
            return None
        words = f"{change.action or 'edited by hand'}: {house}/{kit} {version} in {name}, by {change.commit.author}"
        self._add(
            change.commit.time,
            "lock",
            f"{words}{f' ({pin.why})' if pin.why else ''}",
            f"{place.lock.path.name} in Git, commit {change.commit.revision[:_SHORT]}",
            commit=change.commit.revision,
            digest=pin.digest,
            by_command=change.is_by_command,
        )
        if holding is not latest:
            self._lacks(
                "deployment",
                f"when the run began, the lock pinned {_version(latest, house, kit)} already",
                "the Airflow image of then held an earlier lock; see when it was deployed",
            )
        return pin

    def _release(self, place: Place, kit: str, version: str, digest: str | None) -> Release | None:
        reference = place.environment.registry
        if self.open_registry is None or reference is None:
            why = "the environment has no registry" if reference is None else "the registry was not asked"
            self._lacks("release", why, "run it where the registry can be reached, without --offline")
            return None
        try:
            registry = self.open_registry(reference)
            release = registry.release_of_digest(kit, digest) if digest else registry.release(kit, version)
        except DatakitError as error:
            self._lacks("release", f"{reference}: {error.what}", error.fix or "ask the registry's keepers")
            return None
        if release is None or release.version != version:
            said = (
                f"has no {digest or 'release of that version'}"
                if release is None
                else f"has {digest} as {release.version}"
            )
            self._lacks("release", f"{kit} {version}: {reference} {said}", "datakit drift says more")
            return None
        self._provenance(registry, release)
        return release

    def _provenance(self, registry: Registry, release: Release) -> None:
        name, source = f"{release.name} {release.version}", registry.image(f"datakits/{release.name}", release.digest)
        try:
            statement, key = self.provenance(registry, release)
        except DatakitError as error:
            self._lacks("provenance", f"{name}: {error.what}", error.fix or f"datakit verify {release.name}")
            statement = None
        else:
            if statement is None:
                self._lacks("provenance", f"{name} has none", "release it with datakit release, which attaches it")
        details: dict[str, Any] = {"digest": release.digest, "contract": release.contract_hash}
        details["includes"] = [f"{each.name}@{each.version}" for each in release.includes]
        run = ((statement or {}).get("predicate") or {}).get("runDetails") or {}
        finished = (run.get("metadata") or {}).get("finishedOn") or (run.get("metadata") or {}).get("startedOn")
        builder = (run.get("builder") or {}).get("id")
        if finished:
            signed = f", signed by the key {key}" if key else ", not signed"
            words = f"{name} was released by {builder or 'an unnamed builder'}{signed}"
            self._add(datetime.fromisoformat(finished), "release", words, f"provenance of {source}", **details)
        else:
            # an image carries the time of its commit, so that two builds of it are equal
            what = f"{name} is in the registry; when it was pushed, nothing says"
            self._add(release.created, "release", what, source, **details)

    def _commit(self, release: Release) -> None:
        revision = release.revision
        commit = None if self.repository is None else self.repository.commit_of(revision)
        if commit is None:
            self._lacks(
                "commit",
                f"commit {revision[:_SHORT]}, of {release.name} {release.version}, is not in this clone",
                "git fetch, or look into the repository that the datakit lives in",
            )
            return
        words = f"{commit.subject} ({commit.author})"
        self._add(commit.time, "commit", words, f"Git, commit {revision[:_SHORT]}", commit=commit.revision)

    def _credentials(self, found: FoundReport, place: Place) -> None:
        if self.log is None:
            self._lacks("tickets", "the sidecar's audit log is not at hand", "give it: --audit-log FILE")
            return
        if self.log.breaks:
            self._lacks(
                "tickets",
                f"the chain of the audit log is broken at {self.log.breaks[0]}: lines were changed, lost or cut off",
                "datakit-sidecar verify-audit FILE says more",
            )
        principals, secrets = _credentials_of(self.project, place, found)
        since, until = found.report.started_at, found.report.ended_at
        for principal in principals:
            self._lines("ticket", principal, list(self.log.of_tickets(principal, since, until)))
        for name in secrets:
            self._lines("secret", name, list(self.log.of_secrets([name], since, until)))

    def _lines(self, kind: str, name: str, lines: list[SidecarLine]) -> None:
        if not lines:
            what = f"the audit log says nothing of {name} before or during the run"
            self._lacks(f"{kind}s", what, "it is another sidecar's log, or begins later")
        for line in lines:
            said = ", ".join(f"{key} {_words(value)}" for key, value in line.details.items() if value is not None)
            self._add(line.time, kind, f"{line.event}: {said}", line.where, event=line.event, **line.details)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} until {_words(each)}" for key, each in value.items())
    if isinstance(value, int) and value > 1_000_000_000:  # seconds since 1970, as the log has the ends of tickets
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _version(entry: LockChange, house: str, kit: str) -> str | None:
    pin = entry.lock.pin(house, kit) if entry.lock else None
    return pin.version if pin else None


def _holds(entry: LockChange, house: str, kit: str, version: str, digest: str | None) -> bool:
    """Whether a lock pinned that version and, where it is known, that digest."""
    pin = entry.lock.pin(house, kit) if entry.lock else None
    return pin is not None and pin.version == version and digest in (None, pin.digest)


def _sets(entry: LockChange, house: str, kit: str) -> bool:
    return any((each.warehouse, each.datakit) == (house, kit) for each in entry.changes)


def _credentials_of(project: Project, place: Place, found: FoundReport) -> tuple[list[str], list[str]]:
    """Return the principals and the names of secrets that a run needed, as the environment says today."""
    return sorted(set(_principals(project, place, found))), sorted(set(_secrets(project, place, found)))


def _sections(project: Project, place: Place, found: FoundReport) -> Iterator[dict[str, Any]]:
    connection = (found.report.dataset or "").partition(".")[0]
    if connection in place.environment.sources:
        yield place.environment.sources[connection].model_dump()
    config = project.warehouses().get(found.report.warehouse or "")
    if config is not None and config.connection in place.environment.warehouses:
        yield dict(place.environment.warehouses[config.connection])


def _principals(project: Project, place: Place, found: FoundReport) -> Iterator[str]:
    for section in _sections(project, place, found):
        if section.get("principal"):
            yield str(section["principal"])


def _secrets(project: Project, place: Place, found: FoundReport) -> Iterator[str]:
    for section in _sections(project, place, found):
        if isinstance(section.get("password"), str):
            yield section["password"].partition("/")[0]
