#!/usr/bin/env python3
"""Write the tables of keys in docs/configuration.md from the models; with ``--check``, fail if they are not current.

The page is written by hand but for what lies between ``<!-- keys: MODEL -->`` and ``<!-- /keys -->``.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from datakit.model._base import pattern_words
from datakit.model.contract import Column, Contract
from datakit.model.environment import (
    AirflowDeployment,
    DockerRuntime,
    Environment,
    KubernetesRuntime,
    ProcessRuntime,
    Resources,
    SidecarRuntime,
    SourceSystem,
    TaskDefaults,
)
from datakit.model.lock import Lock, Pin
from datakit.model.manifest import BronzeDatakit, Cursor, Dataset, IncludedSource, SlicePlan, SourceDatakit
from datakit.model.warehouse import Ingest, WarehouseConfig
from datakit.warehouses.duckdb import DuckDBConnection
from datakit.warehouses.postgres import PostgresConnection
from generated_page import ROOT, write_or_check
from pydantic import BaseModel

PAGE = ROOT / "docs" / "configuration.md"
MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        SourceDatakit,
        Dataset,
        Cursor,
        SlicePlan,
        Contract,
        Column,
        BronzeDatakit,
        IncludedSource,
        WarehouseConfig,
        Ingest,
        Environment,
        TaskDefaults,
        Resources,
        ProcessRuntime,
        DockerRuntime,
        KubernetesRuntime,
        SidecarRuntime,
        AirflowDeployment,
        Lock,
        Pin,
        SourceSystem,
        DuckDBConnection,
        PostgresConnection,
    )
}
BLOCK = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- /keys -->)", re.DOTALL)


def render(text: str) -> str:
    """Return the page with its tables made anew.

    :raises ValueError: a model has no table, or more than one.
    """
    shown = [match[2] for match in BLOCK.finditer(text)]
    if sorted(shown) != sorted(MODELS):
        raise ValueError(f"tables for {sorted(shown)}, expected one for each of {sorted(MODELS)}")
    return BLOCK.sub(lambda match: f"{match[1]}\n{_table(MODELS[match[2]])}\n{match[3]}", text)


def _table(model: type[BaseModel]) -> str:
    # What a default looks like in YAML (5m, not PT5M) is what the model writes.
    schema = model.model_json_schema(mode="serialization", by_alias=True)
    required = set(schema.get("required", ()))
    rows = ["| key | value | default | |\n|---|---|---|---|\n"]
    for name, key in schema["properties"].items():
        kind, words = _kind(key, schema.get("$defs", {}))
        default = "required" if name in required else _default(key.get("default"))
        meaning = " ".join(str(key.get("description", "")).split()) or words
        cells = (f"`{name}`", kind, default, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(rows)


def _default(value: Any) -> str:
    match value:
        case None | {} | []:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case list():
            return ", ".join(f"`{item}`" for item in value)
        case _:
            return f"`{value}`"


def _kind(key: dict[str, Any], definitions: dict[str, Any]) -> tuple[str, str]:
    """Return what a value is, and what its pattern asks for (empty without one)."""
    if "anyOf" in key:
        return _kind(next(kind for kind in key["anyOf"] if kind.get("type") != "null"), definitions)
    if "$ref" in key:
        name = key["$ref"].rpartition("/")[2]
        if "enum" in definitions[name]:
            return _kind(definitions[name], definitions)
        return f"[{_words(name)}](#{_words(name).replace(' ', '-')})", ""
    if "const" in key:
        return f"`{key['const']}`", ""
    if "enum" in key:
        return ", ".join(f"`{value}`" for value in key["enum"]), ""
    if key["type"] == "array":
        kind, words = _kind(key["items"], definitions)
        return f"list of {kind}", words
    if key["type"] == "object":
        inner = [*key.get("patternProperties", {}).values(), key.get("additionalProperties")][0]
        plain = isinstance(inner, dict) and inner.get("additionalProperties") is not True
        kind = _kind(inner, definitions)[0] if plain else "mapping"
        return f"name → {kind}", ""
    words = pattern_words(key["pattern"]) if "pattern" in key else ""
    return {"string": "text", "integer": "number", "number": "number", "boolean": "`true`, `false`"}[key["type"]], words


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, render(PAGE.read_text(encoding="utf-8")), __file__))
