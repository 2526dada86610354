"""Rules about environments: that every load that an environment can begin has both of its ends there."""

from __future__ import annotations

from collections.abc import Iterator

from datakit.errors import DatakitError, InvalidFile, UnknownName
from datakit.model.environment import Environment
from datakit.model.lock import read_lock
from datakit.model.project import Found, Project


def environment_problems(project: Project) -> Iterator[DatakitError]:
    """Yield what is wrong with the environments."""
    for found in project.environment_files.values():
        if found.path.stem != found.model.name:
            yield InvalidFile(
                f"the environment is named {found.model.name!r}, but its file {found.path.name!r}",
                subject=found.where("name"),
                fix=f"rename the file to {found.model.name}.yaml",
            )
        for name, system in found.model.sources.items():
            if (system.user is None) != (system.password is None):
                missing = "password" if system.password is None else "user"
                yield InvalidFile(
                    f"an SQL login needs both user and password; {missing} is missing",
                    subject=found.where("sources", name),
                    fix=f"add {missing}, or remove the other and connect by Kerberos",
                )
        yield from _incomplete(project, found)
        try:
            read_lock(found.path)
        except InvalidFile as error:
            yield error


def environment_notes(project: Project) -> Iterator[str]:
    """Yield warehouses that no environment, or not every one, knows; and connections that nothing uses."""
    environments = project.environment_files.values()
    for found in project.warehouse_files.values():
        without = [e.model.name for e in environments if found.model.connection not in e.model.warehouses]
        if without or not environments:
            where = found.where("connection")
            whose = f"environment {', '.join(without)}" if without else "any environment"
            yield f"{where}: {found.model.connection} is not in {whose}, so {found.model.name} cannot be loaded there"
    if project.is_alone:
        return
    sources = {source.manifest.connection for source in project.sources().values()}
    warehouses = {config.connection for config in project.warehouses().values()}
    for environment in environments:
        for section, names, used, users in (
            ("sources", environment.model.sources, sources, "datakit.yaml"),
            ("warehouses", environment.model.warehouses, warehouses, "warehouse.yaml"),
        ):
            if any(f"/{users}" in (error.subject or "") for error in project.broken):
                continue  # the one that uses it may be the one that cannot be read
            for name in names:
                if name not in used:
                    yield f"{environment.where(section, name)}: nothing in this tree uses {name}"


def _incomplete(project: Project, found: Found[Environment]) -> Iterator[DatakitError]:
    """Yield sources that an environment lacks although it knows a warehouse that takes them."""
    seen: set[str] = set()
    for config in project.warehouses_in(found.model).values():
        for ingest in config.ingest:
            for reference in ingest.datasets:
                connection = reference.partition(".")[0]
                if connection in seen or reference not in project.datasets():
                    continue
                seen.add(connection)
                try:
                    project.source_system(found.model, project.dataset_source(reference))
                except UnknownName as error:
                    error.cause = error.cause or f"warehouse {config.name!r} takes its datasets"
                    yield error
