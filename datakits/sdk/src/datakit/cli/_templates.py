"""The folders that ``datakit new`` makes, from the templates beside this module."""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Final

SCHEMA_FOLDER: Final = Path(".datakit/schemas")
"""Where a tree keeps its JSON Schemas for editors, relative to its root; under version control like the rest."""

_SUFFIX: Final = (
    ".tmpl"  # without it, test runners and linters of this package would take the templates for its own code
)


def schema_line(path: Path, root: Path, name: str) -> str:
    """Return the line that tells editors the schema of ``path``, or nothing where the tree holds no schemas."""
    schema = root / SCHEMA_FOLDER / f"{name}.schema.json"
    if not schema.is_file():
        return ""
    relative = Path(os.path.relpath(schema, path.parent)).as_posix()
    return f"# yaml-language-server: $schema={relative}\n"


def write_missing_schemas(root: Path) -> None:
    """Give a tree its JSON Schemas, if it has none."""
    from datakit.model.schemas import write_schemas

    if not (root / SCHEMA_FOLDER).is_dir():
        write_schemas(root / SCHEMA_FOLDER)


def render(kind: str, folder: Path, values: dict[str, str]) -> None:
    """Write the template ``kind`` into ``folder``, which is made if need be."""
    _render(files("datakit.cli") / "templates" / kind, folder, values)


def _render(template: Traversable, target: Path, values: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for item in sorted(template.iterdir(), key=lambda entry: entry.name):
        if item.is_dir():
            _render(item, target / item.name, values)
        else:
            text = Template(item.read_text(encoding="utf-8")).substitute(values)
            # named like the folder, because pytest by default wants every file of tests to have a name of its own
            name = item.name.removesuffix(_SUFFIX).replace("NAME", values["module"])
            (target / name).write_text(text, encoding="utf-8")
