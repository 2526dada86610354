"""``datakit new``: a working folder to begin from, with tests that pass."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datakit.cli._output import out
from datakit.errors import ConfigurationError

if TYPE_CHECKING:
    from datakit.model.project import Project


class Kind(StrEnum):
    """What can be made."""

    SOURCE = "source"
    BRONZE = "bronze"
    WAREHOUSE = "warehouse"


def new(
    kind: Annotated[Kind, typer.Argument(help="What to make.")],
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens, such as airline-source.")],
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder that gets the new one. [dim]Default: the tree's, else here[/dim]"),
    ] = None,
    connection: Annotated[
        str | None, typer.Option(help="A source's name in environments. [dim]Default: NAME without -source[/dim]")
    ] = None,
    system: Annotated[str, typer.Option(help="The kind of source system.")] = "sqlserver",
    type_: Annotated[str, typer.Option("--type", help="The kind of warehouse.")] = "duckdb",
) -> None:
    """Make a folder for a source datakit, a bronze datakit or a warehouse.

    It works as it is, and has tests that pass.
    """
    from datakit.cli._templates import SCHEMA_FOLDER, render, schema_line
    from datakit.model.schemas import write_schemas

    _check_name(name)
    connection = connection or name.removesuffix("-source")
    _check_name(connection)
    project, target = _place(kind, name, into)
    if target.exists():
        raise ConfigurationError(
            "it is there already", subject=str(target), fix="choose another name, or another --into"
        )
    root = project.root if project else target
    values = {"name": name, "connection": connection, "system": system, "type": type_}
    values |= _neighbours(kind, project, system)
    if not (root / SCHEMA_FOLDER).is_dir():
        write_schemas(root / SCHEMA_FOLDER)
    file = "warehouse.yaml" if kind is Kind.WAREHOUSE else "datakit.yaml"
    values["schema_line"] = schema_line(target / file, root, kind.value)
    values["contract_schema_line"] = schema_line(target / "contracts" / "example.yaml", root, "contract")
    render(kind.value, target, values)
    out().print(f"{target} is ready. Next: {_next(kind, connection)}", markup=False)


def _check_name(name: str) -> None:
    from datakit.model._base import pattern_words
    from datakit.model.manifest import NAME_PATTERN

    if not re.fullmatch(NAME_PATTERN, name) or len(name) > 63:
        raise ConfigurationError(
            f"{name!r} cannot be a name: it must be {pattern_words(NAME_PATTERN)}, of at most 63 characters",
            subject="datakit new",
        )


def _place(kind: Kind, name: str, into: Path | None) -> tuple[Project | None, Path]:
    """Return the tree that the new folder will be in, if any, and the folder."""
    from datakit.model.project import Project

    try:
        project: Project | None = Project.find(into)
    except ConfigurationError:
        project = None
    if project is not None and project.is_alone:
        project = None
    if into is not None:
        target = into.resolve() / name
        inside = project is not None and target.parent.parent == project.root
        return (project if inside else None), target
    if project is not None:
        return project, project.root / ("warehouses" if kind is Kind.WAREHOUSE else "datakits") / name
    return None, Path.cwd() / name


def _neighbours(kind: Kind, project: Project | None, system: str) -> dict[str, str]:
    """Return what the new folder refers to: what the tree has, or an example where it is alone."""
    sources = [s for s in project.sources().values() if s.manifest.system == system] if project else []
    if kind is Kind.BRONZE:
        names = [source.manifest.name for source in sources] or ["example-source"]
        return {"sources": "\n".join(f"  - datakit: {name}" for name in names)}
    if kind is Kind.WAREHOUSE:
        for bronze in project.bronzes().values() if project else ():
            datasets = [f"{s.manifest.connection}.{dataset}" for s in bronze.sources for dataset in s.manifest.datasets]
            if datasets:
                return {"bronze": bronze.manifest.name, "datasets": ", ".join(datasets)}
        return {"bronze": "sqlserver-bronze", "datasets": "example.example"}
    return {}


def _next(kind: Kind, connection: str) -> str:
    if kind is Kind.SOURCE:
        return f"say in an environment where {connection} is, then datakit contract pull"
    return "datakit check"
