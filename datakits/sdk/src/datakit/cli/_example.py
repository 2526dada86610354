"""An environment to begin from: every connection of the tree, with values that are examples and say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from datakit.errors import UnknownName
from datakit.model.environment import Environment, SourceSystem
from datakit.warehouses import WarehouseAdapter, find_adapter

if TYPE_CHECKING:
    from datakit.model.project import Project


def example_environment(name: str, project: Project | None) -> Environment:
    """Return an environment whose datakits run as processes, with a section for each source and warehouse."""
    sources = sorted({source.manifest.connection for source in project.sources().values()}) if project else []
    warehouses = sorted({(w.connection, w.type) for w in project.warehouses().values()}) if project else []
    return Environment.model_validate(
        {
            "name": name,
            "runtime": "process",
            "sources": {connection: _example(SourceSystem, connection) for connection in sources},
            "warehouses": {connection: _section(connection, type_) for connection, type_ in warehouses},
        }
    )


def _section(connection: str, type_: str) -> dict[str, Any]:
    try:
        adapter = find_adapter(type_, where=connection)
    except (UnknownName, ImportError):  # what is wrong with the type, or not installed here, datakit check says
        return {}
    return _example(adapter.model, connection) if isinstance(adapter, WarehouseAdapter) else {}


def _example(model: type[BaseModel], connection: str) -> dict[str, Any]:
    """Return a value for each field that is required or has an example; NAME in one stands for the connection's."""
    plain = connection.removesuffix("-db")
    found: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        if field.examples:
            value = field.examples[0]
            found[field.alias or key] = value.replace("NAME", plain) if isinstance(value, str) else value
        elif field.is_required():
            found[field.alias or key] = "change-me"
    return found
