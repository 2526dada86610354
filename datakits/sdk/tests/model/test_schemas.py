import json
import re
from pathlib import Path
from typing import Any

import pytest
from datakit.model.schemas import SCHEMAS, json_schema, write_schemas


def test_every_schema_is_written_for_editors(tmp_path: Path) -> None:
    paths = write_schemas(tmp_path / "schemas")
    assert {f"{name}.schema.json" for name in SCHEMAS} == {path.name for path in paths}
    for path in paths:
        assert "object" == json.loads(path.read_text())["type"]


@pytest.mark.parametrize("name", ["source", "bronze", "warehouse", "environment", "contract"])
def test_a_schema_refuses_unknown_keys_as_the_models_do(name: str) -> None:
    assert json_schema(name)["additionalProperties"] is False


def test_a_schema_has_the_names_that_people_write() -> None:
    assert "schema" in json_schema("warehouse")["properties"]
    assert "table_schema" not in json_schema("warehouse")["properties"]


@pytest.mark.parametrize(
    ("text", "fits"), [("int64", True), ("decimal(19,4)", True), ("decimal", False), ("int", False)]
)
def test_the_schema_knows_the_types_of_a_contract(text: str, fits: bool) -> None:
    pattern = _definition("contract", "Column")["properties"]["type"]["pattern"]
    assert fits == bool(re.search(pattern, text))


def test_a_duration_is_text_in_the_schema() -> None:
    assert "string" == _definition("source", "Cursor")["properties"]["lag"]["type"]


def _definition(schema: str, name: str) -> dict[str, Any]:
    definition: dict[str, Any] = json_schema(schema)["$defs"][name]
    return definition
