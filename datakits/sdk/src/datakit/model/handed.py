"""A configuration that travels with the request, for a datakit whose image holds datakits and nothing else.

Warehouses and environments are the orchestrator's: they change without a release of any datakit, and a run has to use
those that its orchestrator was deployed with. So the request carries them, and no tree is asked for its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from datakit.model._found import Found
from datakit.model.environment import Environment
from datakit.model.project import Project
from datakit.model.run import RunConfiguration
from datakit.model.warehouse import WarehouseConfig
from datakit.model.yaml import Document

M = TypeVar("M", WarehouseConfig, Environment)


def with_configuration(project: Project, configuration: RunConfiguration) -> Project:
    """Return the tree with the warehouse and the environment that a request carries, instead of its own.

    :raises InvalidFile: one of them is not what it has to be.
    """
    handed = Project(project.root)
    # the tree reads these once and keeps them; here they are kept before anybody asks
    vars(handed)["warehouse_files"] = _found(configuration.warehouse, WarehouseConfig, "warehouse")
    vars(handed)["environment_files"] = _found(configuration.environment, Environment, "environment")
    return handed


def _found(data: Mapping[str, Any], model: type[M], name: str) -> Mapping[str, Found[M]]:
    where = f"DATAKIT_RUN.configuration.{name}"
    document = Document(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True), where)
    parsed = document.into(model)
    return MappingProxyType({parsed.name: Found(parsed, Path(where), document)})
