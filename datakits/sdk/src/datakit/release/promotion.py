"""What a change of a lock will be: pins resolved, promoted or rolled back, each checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from datakit.errors import ConfigurationError, LockRefused, RegistryUnavailable, UnknownName
from datakit.model.environment import Environment
from datakit.model.lock import Lock, Pin
from datakit.model.project import Project
from datakit.release.locks import LockFile, PinChange, compare
from datakit.release.proposal import Proposal
from datakit.release.ranges import Range
from datakit.release.registry import Registry, Release
from datakit.release.selectors import Selector, check_selectors, select
from datakit.release.semver import SemVer


@dataclass(frozen=True, slots=True)
class Place:
    """An environment, its file and its lock."""

    environment: Environment
    file: Path
    lock: LockFile

    @classmethod
    def read(cls, project: Project, name: str) -> Place:
        """Read them from the tree.

        :raises UnknownName: there is no such environment.
        :raises InvalidFile: one of the two files cannot be read.
        """
        environment = project.environment(name)
        file = project.environment_files[environment.name].path
        return cls(environment, file, LockFile.read(file))

    def registry(self, open_one: Callable[[str], Registry]) -> Registry:
        """Open the environment's registry.

        :raises ConfigurationError: it has none.
        """
        if self.environment.registry is None:
            raise ConfigurationError(
                f"environment {self.environment.name!r} has no registry, so nothing can be released to it",
                subject=str(self.file),
                fix="add registry: HOST/PATH",
            )
        return open_one(self.environment.registry)


@dataclass
class Planner:
    """Plans changes of locks.

    :ivar by: who asks, as Git knows them.
    :ivar now: the time that the pins will carry.
    :ivar why: in their words, one line.
    """

    project: Project
    open_registry: Callable[[str], Registry]
    by: str
    now: datetime
    why: str | None = None
    _notes: list[str] = field(default_factory=list)

    def lock(self, name: str, wanted: Sequence[Selector]) -> Proposal:
        """Pin what the environment's warehouses take, by the newest release in range.

        :raises LockRefused: the environment is frozen, and a release is not named by digest.
        :raises UnknownName: nothing of that name is taken, or no release is in range.
        """
        place = Place.read(self.project, name)
        registry = place.registry(self.open_registry)
        _refuse_tags(place, wanted)
        pairs = taken_in(self.project, place.environment)
        check_selectors(wanted, pairs, f"warehouses in {name}")
        found: dict[tuple[str, str], Release] = {}
        changes: dict[tuple[str, str], Pin | None] = {}
        for warehouse, datakit in pairs:
            selector = select(wanted, warehouse, datakit)
            if wanted and selector is None:
                continue
            there = place.lock.lock.pin(warehouse, datakit)
            asked = selector.release if selector and selector.release else None
            text = asked or (there.range if there and there.range else None)
            key = (datakit, text or "*")
            if key not in found:
                found[key] = self._release(registry, datakit, text or "*")
            kept = None if text is None or text.startswith("sha256:") else text
            changes[warehouse, datakit] = self._pin(found[key], kept, self.why)
        if not wanted:
            changes |= self._obsolete(place, pairs)
        return self._proposal("lock", place, changes, None)

    def promote(self, source_name: str, target_name: str, only: Sequence[Selector]) -> Proposal:
        """Copy pins from one environment to the next.

        :raises LockRefused: a pin was edited by hand, never released, or is not in the environment it comes from.
        """
        if source_name == target_name:
            raise ConfigurationError(f"{source_name!r} cannot be promoted to itself", fix="name two environments")
        source, target = (Place.read(self.project, name) for name in (source_name, target_name))
        pins = {(house, kit): pin for house, kit, pin in source.lock.lock.pins()}
        if not pins:
            raise LockRefused(
                f"nothing is pinned in {source_name!r}",
                subject=str(source.lock.path),
                fix=f"datakit lock {source_name}",
            )
        check_selectors(only, pins, f"pins of {source_name}")
        chosen = {
            key: pin
            for key, pin in pins.items()
            if not only or ((selector := select(only, *key)) is not None and _is_in(selector, pin, source, *key))
        }
        pairs = set(taken_in(self.project, target.environment))
        registry = target.registry(self.open_registry)
        changes: dict[tuple[str, str], Pin | None] = {}
        for (warehouse, datakit), pin in chosen.items():
            if (warehouse, datakit) not in pairs:
                self._notes.append(f"{warehouse}/{datakit} is left out: {target_name} has no such warehouse")
                continue
            _refuse_by_hand(source.lock, warehouse, datakit)
            release = released(registry, datakit, pin)
            words = f"promoted from {source_name}{f': {self.why}' if self.why else ''}"
            there = target.lock.lock.pin(warehouse, datakit)
            kept = there.range if there and there.range and _in_range(there.range, pin.version) else None
            changes[warehouse, datakit] = self._pin(release, kept, words)
        if not only:
            changes |= self._obsolete(target, pairs)
        return self._proposal("promote", target, changes, source_name)

    def roll_back(self, name: str, then: Lock, revision: str, only: Sequence[Selector]) -> Proposal:
        """Restore the pins of an earlier lock.

        :param then: the lock as it was.
        :param revision: the commit that it is of.
        :raises LockRefused: a release of then is not in the registry any more.
        """
        place = Place.read(self.project, name)
        differing = compare(place.lock.lock, then)
        check_selectors(only, {(each.warehouse, each.datakit) for each in differing}, f"pins that changed in {name}")
        registry = place.registry(self.open_registry)
        changes: dict[tuple[str, str], Pin | None] = {}
        for each in differing:
            if only and select(only, each.warehouse, each.datakit) is None:
                continue
            pin = each.after
            if pin is not None:
                contract = pin.contract
                try:
                    contract = released(registry, each.datakit, pin).contract_hash
                except RegistryUnavailable as error:  # a rollback must go also while the registry is away
                    if not then.is_by_command(each.warehouse, each.datakit):
                        raise
                    self._notes.append(f"not checked with the registry: {error.what}")
                words = f"rolled back to {revision[:12]}{f': {self.why}' if self.why else ''}"
                # one version as the range: the next datakit lock must not undo what a person has undone
                said = {"range": pin.version, "by": self.by, "at": self.now, "why": words}
                pin = pin.model_copy(update={"contract": contract, "seal": None, **said})
            changes[each.warehouse, each.datakit] = pin
        return self._proposal("rollback", place, changes, revision)

    def _proposal(
        self, action: str, place: Place, changes: dict[tuple[str, str], Pin | None], origin: str | None
    ) -> Proposal:
        lock = place.lock.lock
        real = {key: pin for key, pin in changes.items() if _differs(lock, key, pin)}
        after = place.lock.with_pins(real) if real else place.lock
        # also what was edited by hand and is the same release: its seal is new
        pins = tuple(
            PinChange(*key, lock.pin(*key), pin) for key, pin in sorted(real.items(), key=lambda item: item[0])
        )
        for change in pins:
            self._notes += _worth_knowing(change)
        return Proposal(action, place.lock, after, origin, self.why, pins, tuple(dict.fromkeys(self._notes)))

    def _pin(self, release: Release, kept_range: str | None, why: str | None) -> Pin:
        return Pin(
            version=release.version,
            digest=release.digest,
            contract=release.contract_hash or None,
            range=kept_range,
            by=self.by,
            at=self.now,
            why=why,
        )

    def _release(self, registry: Registry, name: str, text: str) -> Release:
        repository = registry.image(f"datakits/{name}")
        if text.startswith("sha256:"):
            release = next((each for each in registry.releases(name) if each.digest == text), None)
            if release is None:
                raise LockRefused(
                    "no release of this datakit has that digest",
                    subject=f"{repository}@{text}",
                    cause="it was never released, or its tag was moved",
                    fix=f"datakit releases {name}",
                )
            return release
        allowed = Range.parse(text)
        tags = registry.tags(f"datakits/{name}")
        versions = [version for tag in tags if (version := SemVer.of_tag(tag)) is not None]
        best, newest = allowed.best(versions), Range.parse("*").best(versions)
        if best is not None and newest is not None and newest > best:
            self._notes.append(f"{name} {newest} is newer than the range {text} lets in")
        release = None if best is None else registry.release(name, str(best))
        if release is None:
            latest = ", ".join(str(version) for version in sorted(versions)[-5:])
            raise UnknownName(
                f"there is no release of {name!r} in the range {text!r}",
                subject=repository,
                cause=f"the latest ones are {latest}" if latest else "it was never released",
                fix=f"datakit releases {name} shows them; datakit release makes one",
            )
        return release

    def _obsolete(self, place: Place, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Pin | None]:
        """Return the pins of what no warehouse of the tree takes any more."""
        taken = set(pairs)
        gone = [(house, kit) for house, kit, _ in place.lock.lock.pins() if (house, kit) not in taken]
        self._notes += [f"{house}/{kit} is removed: no warehouse takes it any more" for house, kit in gone]
        return dict.fromkeys(gone)


def released(registry: Registry, name: str, pin: Pin) -> Release:
    """Return the release that a pin is of.

    :raises LockRefused: the registry has no such release, or another one under that version.
    """
    release = registry.release(name, pin.version)
    where = registry.image(f"datakits/{name}", pin.digest)
    if release is None:
        raise LockRefused(
            f"{name} {pin.version} was never released to this registry",
            subject=where,
            cause="its tag was deleted there, or another registry has it",
            fix=f"datakit releases {name} shows what there is",
        )
    if release.digest != pin.digest:
        raise LockRefused(
            f"the digest is not the one that was released as {name} {pin.version}",
            subject=where,
            cause=f"the tag v{pin.version} names {release.digest} now: somebody moved it, or edited the lock",
            fix="find out who: datakit drift. Runs by digest are not affected; release a new version",
        )
    return release


def taken_in(project: Project, environment: Environment) -> tuple[tuple[str, str], ...]:
    """Return (warehouse, datakit) of everything that can run in an environment, sorted."""
    if project.broken:
        raise project.broken[0]
    return tuple(
        sorted(
            {
                (config.name, ingest.datakit)
                for config in project.warehouses_in(environment).values()
                for ingest in config.ingest
            }
        )
    )


def _is_in(selector: Selector, pin: Pin, source: Place, warehouse: str, datakit: str) -> bool:
    if selector.wants(pin):
        return True
    name = source.environment.name
    raise LockRefused(
        f"{selector.release} of {datakit} is not what {name!r} pins for {warehouse}: that is {pin.version}",
        subject=str(source.lock.path),
        cause=f"it never ran in {name}, or was replaced there",
        fix=f"datakit lock {name} {warehouse}/{datakit}@{selector.release}, let it run there, and promote then",
    )


def _refuse_by_hand(lock: LockFile, warehouse: str, datakit: str) -> None:
    if lock.lock.is_by_command(warehouse, datakit):
        return
    pin = lock.lock.warehouses[warehouse][datakit]
    name = lock.lock.environment
    raise LockRefused(
        f"the pin {warehouse}/{datakit} was edited by hand" if pin.seal else f"no command wrote {warehouse}/{datakit}",
        subject=str(lock.path),
        cause=f"its seal is {pin.seal}, but what it says calls for {pin.seal_for(name, warehouse, datakit)}"
        if pin.seal
        else "it has no seal",
        fix=f"datakit history {name} shows who; write it with datakit lock {name} {warehouse}/{datakit}@{pin.version}",
    )


def _refuse_tags(place: Place, wanted: Sequence[Selector]) -> None:
    name = place.environment.name
    named = [each for each in wanted if not (each.release or "").startswith("sha256:")]
    if place.environment.frozen and (named or not wanted):
        raise LockRefused(
            f"environment {name!r} is frozen: it takes releases by digest, and no tags, versions or ranges",
            subject=str(place.file),
            cause=f"{named[0].text} may be another image tomorrow" if named else "without names, ranges would decide",
            fix=f"datakit promote ENVIRONMENT {name}; or datakit lock {name} DATAKIT@sha256:…",
        )


def _in_range(text: str, version: str) -> bool:
    return Range.parse(text).allows(SemVer.parse(version))


def _differs(lock: Lock, key: tuple[str, str], pin: Pin | None) -> bool:
    there = lock.pin(*key)
    if there is None or pin is None:
        return there is not pin
    said = [(each.version, each.digest, each.contract, each.range) for each in (there, pin)]
    return said[0] != said[1] or not lock.is_by_command(*key)


def _worth_knowing(change: PinChange) -> Iterator[str]:
    before, after = change.before, change.after
    if before is None or after is None:
        return
    old, new = SemVer.parse(before.version), SemVer.parse(after.version)
    if new < old:
        yield f"{change.name}: {after.version} is older than {before.version}"
    elif new >= SemVer(old.major + 1, 0, 0) or (old.major == 0 and new >= SemVer(0, old.minor + 1, 0)):
        yield f"{change.name}: {before.version} → {after.version} may break who reads the tables"
