"""Rules about the warehouses' sections of environments: the adapter's own model judges each, without its driver."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from datakit.errors import DatakitError, InvalidFile, UnknownName
from datakit.model.environment import SECRET_REFERENCE, Environment
from datakit.model.project import Found, Project
from datakit.warehouses import WarehouseAdapter, find_adapter

_SECRET_KEY: Final = re.compile(r"(?:\w+_)?(?:password|secret|token)", re.IGNORECASE)


def connection_problems(project: Project) -> Iterator[DatakitError]:
    """Yield what is wrong with the sections, and secrets that stand in one."""
    for environment in project.environment_files.values():
        seen: set[str] = set()
        for problem in _refused_by_adapters(project, environment):
            each = (problem, *problem.others)
            seen.update(one.subject for one in each if one.subject)
            yield problem
        for name, section in environment.model.warehouses.items():
            for path in _clear_text(section, ("warehouses", name)):
                where = f"{environment.path}:{environment.document.at(path)}"
                if where not in seen:
                    yield InvalidFile(
                        f"{path[-1]} is not shown, but must be a reference to a secret",
                        subject=where,
                        cause="a secret stands in the file, where everybody who sees the file can read it",
                        fix="write REFERENCE/FIELD, which names a file in the secrets folder, and change the secret",
                    )


def connection_notes(project: Project) -> Iterator[str]:
    """Yield sections that no model could judge."""
    for environment in project.environment_files.values():
        for name, type_ in _used(project, environment):
            adapter = _adapter(type_)
            if isinstance(adapter, str):
                yield f"{environment.where('warehouses', name)}: {name} was not checked: {adapter}"


def _refused_by_adapters(project: Project, environment: Found[Environment]) -> Iterator[InvalidFile]:
    for name, type_ in _used(project, environment):
        adapter = _adapter(type_)
        if isinstance(adapter, WarehouseAdapter):
            try:
                environment.document.part_into(("warehouses", name), adapter.model)
            except InvalidFile as problem:
                yield problem


def _used(project: Project, environment: Found[Environment]) -> list[tuple[str, str]]:
    """Return the sections that a warehouse of the tree uses, each with the warehouse's type."""
    used = {(config.connection, config.type) for config in project.warehouses().values()}
    return sorted((name, type_) for name, type_ in used if name in environment.model.warehouses)


def _adapter(type_: str) -> WarehouseAdapter[Any] | str | None:
    """Return the adapter; or why it cannot say what its section looks like; or None if a rule about its name does."""
    try:
        found = find_adapter(type_, where="")
    except UnknownName:
        return None
    except ImportError as error:
        return f"the adapter {type_!r} cannot be imported here: {error}"
    # one from a package that has not used @adapter is a plain function, and judges its section only when it opens it
    return found if isinstance(found, WarehouseAdapter) else f"the adapter {type_!r} has no model of its section"


def _clear_text(section: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _clear_text(value, (*path, key))
        elif _SECRET_KEY.fullmatch(key) and value is not None and not _is_reference(value):
            yield (*path, key)


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and SECRET_REFERENCE.fullmatch(value) is not None
