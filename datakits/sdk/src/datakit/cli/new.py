"""``datakit new``: a working folder to begin from, with tests that pass; in an empty folder it begins a tree."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datakit.cli._output import out
from datakit.errors import ConfigurationError, UnknownName

if TYPE_CHECKING:
    from datakit.model.project import Project


class Kind(StrEnum):
    """What can be made."""

    SOURCE = "source"
    BRONZE = "bronze"
    WAREHOUSE = "warehouse"
    ENVIRONMENT = "environment"


_FOLDERS = {Kind.SOURCE: "datakits", Kind.BRONZE: "datakits", Kind.WAREHOUSE: "warehouses"}


def new(
    kind: Annotated[Kind, typer.Argument(help="What to make.")],
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens, such as airline-source.")],
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder that gets the new one. [dim]Default: its place in the tree[/dim]"),
    ] = None,
    connection: Annotated[
        str | None, typer.Option(help="A source's name in environments. [dim]Default: NAME without -source[/dim]")
    ] = None,
    system: Annotated[str, typer.Option(help="The kind of source system.")] = "sqlserver",
    type_: Annotated[str, typer.Option("--type", help="The kind of warehouse.")] = "duckdb",
    includes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A source datakit that a bronze one includes. [dim]Default: those here[/dim]"
        ),
    ] = None,
) -> None:
    """Make a source datakit, a bronze datakit, a warehouse or an environment.

    It works as it is, and has tests that pass. A bronze datakit includes the source datakits that are here, a warehouse
    takes their datasets, an environment names their connections. Where there is no tree yet, this folder becomes one.
    """
    _check_name(name)
    asked = connection is not None
    connection = connection or name.removesuffix("-source")
    _check_name(connection)
    if kind is Kind.WAREHOUSE:
        _check_installed("warehouse type", type_, "datakit.warehouses", "--type")
    else:
        _check_installed("source system type", system, "datakit.sources", "--system")
    project = _tree_around(into)
    if kind is Kind.ENVIRONMENT:
        _make_environment(name, project, into)
        return
    target, root = _place(_FOLDERS[kind], name, into, project)
    _check_free(target)
    if kind is Kind.SOURCE and not asked and project is not None and root != target:
        _check_unread(connection, project)
    values = {"name": name, "module": name.replace("-", "_"), "connection": connection, "system": system, "type": type_}
    if kind is Kind.BRONZE:
        values |= _included(project, system, includes or [], alone=root == target)
    elif kind is Kind.WAREHOUSE:
        values |= _taken(project, alone=root == target)
    _make_folder(kind, target, root, values)
    out().print(f"{target} is ready. Next: {_next(kind, connection, project)}", markup=False)


def _check_name(name: str) -> None:
    from datakit.model._base import pattern_words
    from datakit.model.manifest import NAME_PATTERN

    if not re.fullmatch(NAME_PATTERN, name) or len(name) > 63:
        raise ConfigurationError(
            f"{name!r} cannot be a name: it must be {pattern_words(NAME_PATTERN)}, of at most 63 characters",
            subject="datakit new",
        )


def _check_free(target: Path) -> None:
    if target.exists():
        raise ConfigurationError(
            "it is there already", subject=str(target), fix="choose another name, or another --into"
        )


def _check_installed(kind: str, name: str, group: str, option: str) -> None:
    from importlib.metadata import entry_points

    adapters = {point.name for point in entry_points(group=group)}
    if name not in adapters:
        raise UnknownName.of(kind, name, adapters, where=option)


def _check_unread(connection: str, project: Project) -> None:
    """Refuse a second source datakit of a source system, unless ``--connection`` says that it is meant."""
    for other, source in project.sources().items():
        if source.manifest.connection == connection:
            raise ConfigurationError(
                f"the source datakit {other} reads {connection} already",
                subject=str(source.folder),
                fix=f"name more tables in its datakit.yaml, or choose another name; --connection {connection}, "
                "if you mean a second one",
            )


def _tree_around(into: Path | None) -> Project | None:
    from datakit.model.project import Project

    try:
        return Project.find(into)
    except ConfigurationError:
        return None


def _new_root() -> Path:
    """Return the folder that becomes a tree where there is none yet."""
    return Path(os.environ.get("DATAKIT_HOME") or Path.cwd()).resolve()


def _place(folder: str, name: str, into: Path | None, project: Project | None) -> tuple[Path, Path]:
    """Return the new folder, and the root of its tree: the folder itself where it will be alone."""
    if into is not None:
        target = into.resolve() / name
        in_tree = target.parent.name == folder or (project is not None and target.parent.parent == project.root)
        return target, target.parents[1] if in_tree else target
    if project is not None and project.is_alone:
        raise ConfigurationError(
            "this folder is one datakit or one warehouse, and another one does not belong into it",
            subject=str(project.root),
            fix=f"go to the folder that shall hold both, or name one: datakit new … --into {project.root.parent}",
        )
    root = project.root if project is not None else _new_root()
    return root / folder / name, root


def _included(project: Project | None, system: str, asked: list[str], *, alone: bool) -> dict[str, str]:
    """Return the source datakits that a bronze datakit includes.

    :raises ConfigurationError: there is none here, or not one of those that are asked for.
    """
    here = {} if project is None or alone else project.sources()
    if not alone and (unknown := [name for name in asked if name not in here]):
        raise UnknownName.of("source datakit", unknown[0], here, where=str(project.root if project else _new_root()))
    names = asked or [name for name, source in here.items() if source.manifest.system == system]
    if not names and not alone:
        raise ConfigurationError(
            f"there is no source datakit for {system} here that a bronze datakit could include",
            subject=str(project.root if project else _new_root()),
            fix="begin with one: datakit new source NAME",
        )
    return {"sources": "\n".join(f"  - datakit: {name}" for name in names or ["example-source"])}


def _taken(project: Project | None, *, alone: bool) -> dict[str, str]:
    """Return the bronze datakit and the datasets that a warehouse takes.

    :raises ConfigurationError: there is none here.
    """
    for bronze in project.bronzes().values() if project is not None and not alone else ():
        datasets = [f"{s.manifest.connection}.{dataset}" for s in bronze.sources for dataset in s.manifest.datasets]
        if datasets:
            return {"bronze": bronze.manifest.name, "datasets": ", ".join(datasets)}
    if not alone:
        raise ConfigurationError(
            "there is no bronze datakit here whose datasets a warehouse could take",
            subject=str(project.root if project else _new_root()),
            fix="begin with one: datakit new bronze NAME",
        )
    return {"bronze": "sqlserver-bronze", "datasets": "example.example"}


def _make_folder(kind: Kind, target: Path, root: Path, values: dict[str, str]) -> None:
    from datakit.cli._templates import render, schema_line, write_missing_schemas

    write_missing_schemas(root)
    file = "warehouse.yaml" if kind is Kind.WAREHOUSE else "datakit.yaml"
    values["schema_line"] = schema_line(target / file, root, kind.value)
    values["contract_schema_line"] = schema_line(target / "contracts" / "example.yaml", root, "contract")
    render(kind.value, target, values)


def _make_environment(name: str, project: Project | None, into: Path | None) -> None:
    from datakit.cli._example import example_environment
    from datakit.cli._templates import schema_line, write_missing_schemas
    from datakit.model import yaml

    root = project.root if project is not None else _new_root()
    folder = project.environment_folders[-1] if project is not None else root / "warehouses" / "environments"
    target = (into.resolve() if into is not None else folder) / f"{name}.yaml"
    _check_free(target)
    environment = example_environment(name, project)
    write_missing_schemas(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = "# Where everything is. A secret is never here: REFERENCE/FIELD names a file that holds it.\n"
    target.write_text(schema_line(target, root, "environment") + text + yaml.write(environment), encoding="utf-8")
    places = ", ".join([*environment.sources, *environment.warehouses])
    step = f"say in it where {places} are" if places else "name in it sources and warehouses"
    out().print(f"{target} is ready. Next: {step}, then datakit doctor --environment {name}", markup=False)


def _next(kind: Kind, connection: str, project: Project | None) -> str:
    has_environment = project is not None and project.environments()
    if kind is Kind.SOURCE:
        where, environment = ("an environment", "NAME") if has_environment else ("it", "local")
        first = "" if has_environment else "datakit new environment local, "
        pull = f"datakit contract pull {connection}.example --environment {environment}"
        return f"{first}say in {where} where {connection} is, then {pull}"
    if kind is Kind.BRONZE and project is not None and not project.warehouses():
        return "datakit new warehouse NAME"
    return "datakit check" if has_environment or project is None else "datakit new environment local"
