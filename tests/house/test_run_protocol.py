"""docs/run-protocol.md and the code say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from datakit import errors
from datakit.model.run import PROTOCOL, RunReport, RunRequest
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/run-protocol.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")


def rows_after(mark: str) -> list[list[str]]:
    """Return the cells of the first table after ``mark``, without its head."""
    lines = PAGE[PAGE.index(mark) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table[2:]


def documented(mark: str) -> list[str]:
    return [name for row in rows_after(mark) for name in CODE.findall(row[0])]


@pytest.mark.parametrize("model", [RunRequest, RunReport])
def test_every_field_is_documented_and_nothing_else(model: type[BaseModel]) -> None:
    fields = documented(f"<!-- fields: {model.__name__} -->")
    assert sorted(fields) == sorted(model.model_fields)


def test_the_required_fields_are_those_that_are_marked() -> None:
    marked = {CODE.findall(row[0])[0] for row in rows_after("<!-- fields: RunRequest -->") if row[1] == "yes"}
    assert marked == {name for name, field in RunRequest.model_fields.items() if field.is_required()}


def test_every_status_is_explained() -> None:
    row = next(row for row in rows_after("<!-- fields: RunReport -->") if row[0] == "`status`")
    for status in get_args(RunReport.model_fields["status"].annotation):
        assert f"`{status}`" in row[1]


def test_the_page_has_the_version_of_the_code() -> None:
    assert PAGE.startswith(f"# The run protocol, version {PROTOCOL}\n")


def test_the_example_document_is_a_valid_request() -> None:
    match = re.search(r"```json DATAKIT_RUN\n(.*?)```", PAGE, re.DOTALL)
    assert match
    document = json.loads(match[1])
    request = RunRequest.model_validate(document)
    assert request.protocol == PROTOCOL
    assert set(document) <= set(RunRequest.model_fields)


def test_the_exit_codes_are_those_of_the_error_tree() -> None:
    def tree(kind: type[errors.DatakitError]) -> set[int]:
        return {kind.exit_code}.union(*map(tree, kind.__subclasses__()))

    listed = {int(row[0]) for row in rows_after("**Exit code**")}
    assert listed == (tree(errors.DatakitError) - {errors.DatakitError.exit_code}) | {0}


def test_every_environment_variable_of_the_code_is_documented_and_no_other() -> None:
    sources = (ROOT / "datakits/sdk/src").rglob("*.py")
    used = {name for path in sources for name in re.findall(r"\bDATAKIT_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    listed = documented("## Environment variables")
    releases = (ROOT / "docs/releases.md").read_text(encoding="utf-8")
    of_registries = set(re.findall(r"`(DATAKIT_REGISTRY[A-Z_]*)`", releases))  # a run knows no registry
    assert {name for name in listed if name.startswith("DATAKIT_")} | of_registries == used


def test_the_parts_of_an_error_are_those_of_the_code() -> None:
    row = next(row for row in rows_after("<!-- fields: RunReport -->") if row[0] == "`error`")
    assert set(errors.DatakitError("x").as_json()) <= set(CODE.findall(row[1]))


def test_the_page_of_errors_is_written_from_the_tree() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/write_error_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
