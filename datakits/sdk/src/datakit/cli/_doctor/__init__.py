"""What ``datakit doctor`` looks at. Each module looks at one side of the machine and yields findings, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from datakit.cli._doctor.finding import Finding, State
from datakit.cli._doctor.kerberos import examine_configuration, examine_tickets, takes_tickets
from datakit.cli._doctor.machine import examine_clock, examine_drivers, examine_libraries, examine_python
from datakit.cli._doctor.places import examine_hosts, examine_report_path, examine_secrets, examine_warehouses
from datakit.errors import DatakitError
from datakit.model.environment import Environment
from datakit.model.project import Project

__all__ = ["Finding", "State", "examine"]


@dataclass(frozen=True, slots=True)
class _Needs:
    """What the tree and the environment need of this machine; all of nothing where there is no tree."""

    systems: frozenset[str] = frozenset()
    warehouses: frozenset[str] = frozenset()
    kerberos: bool = False


def examine(environment: str | None) -> Iterator[Finding]:
    """Yield what was found, good and bad, from the machine outwards.

    :param environment: as :meth:`Project.environment` takes it.
    """
    tree_findings, project, chosen = _examine_tree(environment)
    needs = _needs(project, chosen)
    yield examine_python()
    yield from examine_drivers(needs.systems | needs.warehouses)
    yield from examine_libraries(needed="sqlserver" in needs.systems)
    yield examine_clock()
    yield from tree_findings
    yield from examine_configuration(needed=needs.kerberos, realms=_realms(chosen))
    yield from examine_tickets(chosen, needed=needs.kerberos)
    yield from examine_secrets(chosen)
    if project is not None and chosen is not None:
        yield from examine_hosts(chosen)
        yield from examine_warehouses(project, chosen)
    yield examine_report_path()


def _examine_tree(name: str | None) -> tuple[list[Finding], Project | None, Environment | None]:
    try:
        project = Project.find()
    except DatakitError as error:
        return [Finding.of("tree", error)], None, None
    findings = [Finding("tree", State.GOOD, str(project.root))]
    if project.broken:
        findings = [
            Finding(
                "tree", State.BAD, f"{len(project.broken)} files cannot be read", "datakit check lists what is wrong"
            )
        ]
    try:
        environment = project.environment(name)
    except DatakitError as error:
        return [*findings, Finding.of("environment", error)], project, None
    return [*findings, Finding("environment", State.GOOD, environment.name)], project, environment


def _needs(project: Project | None, environment: Environment | None) -> _Needs:
    if project is None:
        return _Needs()
    known = environment.warehouses if environment else None
    types = {config.type for config in project.warehouses().values() if known is None or config.connection in known}
    systems = {source.manifest.system for source in project.sources().values()}
    return _Needs(frozenset(systems), frozenset(types), environment is not None and takes_tickets(environment))


def _realms(environment: Environment | None) -> set[str]:
    systems = environment.sources.values() if environment else ()
    return {system.principal.rpartition("@")[2] for system in systems if system.principal}
