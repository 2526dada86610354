"""Rules about bronze datakits and warehouses: that what they name exists, and that every load can be carried out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Final

from datakit.errors import ConfigurationError, DatakitError, InvalidFile, NameCollision, UnknownName
from datakit.model.manifest import BronzeDatakit
from datakit.model.project import Found, LoadedBronze, Project
from datakit.model.run import RunRequest
from datakit.model.warehouse import Ingest, WarehouseConfig

_PRESETS: Final = ("@once", "@continuous", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
_CRON_FIELD: Final = re.compile(r"[\w*/,\-#?]+")


def landing_problems(project: Project) -> Iterator[DatakitError]:
    """Yield what is wrong with the bronze datakits and the warehouses."""
    for name, bronze in project.bronzes().items():
        yield from _bronze_problems(project, bronze, project.datakit_files[name])  # type: ignore[arg-type]  # its own file
    adapters = {point.name for point in entry_points(group="datakit.warehouses")}
    for found in project.warehouse_files.values():
        if found.model.type not in adapters:
            yield UnknownName.of("warehouse type", found.model.type, adapters, where=found.where("type"))
        yield from _warehouse_problems(project, found)


def landing_notes(project: Project) -> Iterator[str]:
    """Yield references that cannot be followed because this folder is alone."""
    if not project.is_alone:
        return
    for found in project.datakit_files.values():
        if isinstance(found.model, BronzeDatakit):
            for number, item in enumerate(found.model.sources):
                if item.datakit not in project.sources():
                    where = found.where("sources", number, "datakit")
                    yield f"{where}: {item.datakit} is not in this folder, so it was not checked"
    for warehouse in project.warehouse_files.values():
        for number, ingest in enumerate(warehouse.model.ingest):
            if ingest.datakit not in project.bronzes():
                where = warehouse.where("ingest", number, "datakit")
                yield f"{where}: {ingest.datakit} is not in this folder, so what it lands was not checked"


def _bronze_problems(project: Project, bronze: LoadedBronze, found: Found[BronzeDatakit]) -> Iterator[DatakitError]:
    adapters = {point.name for point in entry_points(group="datakit.sources")}
    if bronze.manifest.system not in adapters:
        yield UnknownName.of("source system type", bronze.manifest.system, adapters, where=found.where("system"))
    seen: set[str] = set()
    for number, item in enumerate(bronze.manifest.sources):
        where = found.where("sources", number, "datakit")
        if item.datakit in seen:
            yield InvalidFile(f"{item.datakit!r} is included twice", subject=where, fix="remove one of the two")
        seen.add(item.datakit)
        source = project.sources().get(item.datakit)
        if source is None:
            if not project.is_alone and not project.broken:  # it may well be in a file that cannot be read
                yield UnknownName.of("source datakit", item.datakit, project.sources(), where=where)
            continue
        if source.manifest.system != bronze.manifest.system:
            yield ConfigurationError(
                f"{item.datakit!r} reads {source.manifest.system}, but this datakit lands {bronze.manifest.system}",
                subject=where,
                fix="include it in a bronze datakit of its own system",
            )
        if item.version is not None and item.version != source.manifest.version:
            yield ConfigurationError(
                f"version {item.version} of {item.datakit!r} is asked for, but the tree has {source.manifest.version}",
                subject=found.where("sources", number, "version"),
                fix=f"write {source.manifest.version}, or leave version out to take the one in this tree",
            )


def _warehouse_problems(project: Project, found: Found[WarehouseConfig]) -> Iterator[DatakitError]:
    tables: dict[str, str] = {}
    for number, ingest in enumerate(found.model.ingest):
        if ingest.schedule is not None and (why := _why_no_schedule(ingest.schedule)):
            yield InvalidFile(
                f"{ingest.schedule!r} is no schedule: {why}",
                subject=found.where("ingest", number, "schedule"),
                fix=f"write five cron fields, such as 15 * * * *, or one of: {', '.join(_PRESETS)}",
            )
        if ingest.datakit not in project.bronzes():
            if not project.is_alone and not project.broken:
                where = found.where("ingest", number, "datakit")
                yield UnknownName.of("bronze datakit", ingest.datakit, project.bronzes(), where=where)
            continue
        for place, reference in enumerate(ingest.datasets):
            yield from _load_problems(project, found, ingest, reference, (number, place), tables)


def _load_problems(
    project: Project,
    found: Found[WarehouseConfig],
    ingest: Ingest,
    reference: str,
    place: tuple[int, int],
    tables: dict[str, str],
) -> Iterator[DatakitError]:
    """Resolve a load exactly as a run does, and compare its table with those of the loads before it."""
    from datakit.ingest.bronze import warehouse_names
    from datakit.ingest.settings import Settings

    if project.is_alone and reference not in project.datasets():
        return
    where = found.where("ingest", place[0], "datasets", place[1])
    schema = ingest.table_schema or found.model.table_schema
    table = f"{schema}.{reference.partition('.')[2]}"
    if table in tables:
        yield NameCollision(
            f"{reference!r} and {tables[table]!r} would both land in the table {table}",
            subject=where,
            fix="take each dataset once, or give one of the two entries of ingest another schema",
        )
        return
    tables[table] = reference
    try:
        request = RunRequest(run_id="check", dataset=reference, warehouse=found.model.name)
        settings = Settings.resolve(request, project)
        if settings.contract is not None:
            names = (column.name for column in settings.contract.columns)
            warehouse_names(names, settings.naming, subject=where)
    except InvalidFile as error:
        if error not in project.broken and not _is_about_contract(project, reference, error):  # reported elsewhere
            yield error
    except DatakitError as error:
        yield _at(where, error)


def _is_about_contract(project: Project, reference: str, error: InvalidFile) -> bool:
    path = project.dataset_source(reference).contract_path(reference.partition(".")[2])
    return (error.subject or "").startswith(str(path))


def _at(where: str, error: DatakitError) -> DatakitError:
    """Return the error a run would raise, about the place that causes it."""
    return type(error)(error.what, subject=where, cause=error.cause, fix=error.fix)


def _why_no_schedule(schedule: str) -> str | None:
    if schedule.startswith("@"):
        return None if schedule in _PRESETS else "there is no such preset"
    fields = schedule.split()
    if len(fields) != 5:
        return f"it has {len(fields)} fields instead of 5"
    wrong = [field for field in fields if not _CRON_FIELD.fullmatch(field)]
    return f"{wrong[0]!r} is no cron field" if wrong else None
