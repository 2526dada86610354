"""The JSON Schemas of every file, made from the models, so that editors complete keys and show what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from datakit.model.contract import Contract
from datakit.model.environment import Environment
from datakit.model.manifest import BronzeDatakit, SourceDatakit
from datakit.model.run import RunReport, RunRequest
from datakit.model.warehouse import WarehouseConfig

__all__ = ["SCHEMAS", "json_schema", "write_schemas"]

SCHEMAS: Final[dict[str, type[BaseModel]]] = {
    "source": SourceDatakit,
    "bronze": BronzeDatakit,
    "contract": Contract,
    "warehouse": WarehouseConfig,
    "environment": Environment,
    "run-request": RunRequest,
    "run-report": RunReport,
}


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one kind of file; ``name`` is a key of :data:`SCHEMAS`."""
    body = SCHEMAS[name].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body}


def write_schemas(folder: Path) -> list[Path]:
    """Write ``NAME.schema.json`` for every schema into ``folder``, which is made if need be; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in SCHEMAS:
        path = folder / f"{name}.schema.json"
        path.write_text(json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        paths.append(path)
    return paths
