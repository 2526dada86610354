"""What ``datakit new`` makes works as it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datakit.model.project import Project
from datakit.model.schemas import json_schema

from .conftest import Tree

NAMES = {"source": "shop-source", "bronze": "shop-bronze", "warehouse": "shop"}


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=dict(os.environ))


@pytest.mark.parametrize("kind", NAMES)
def test_a_new_folder_outside_a_tree_is_valid_and_its_tests_pass(
    kind: str, tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = datakit("new", kind, NAMES[kind])
    assert 0 == made.code, made.err
    folder = tmp_path / NAMES[kind]
    assert 0 == datakit("check", str(folder)).code
    tests = run_tests(folder)
    assert 0 == tests.returncode, tests.stdout
    assert "passed" in tests.stdout


def test_new_folders_inside_a_tree_find_each_other(
    tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch, adapter: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(adapter))
    assert 0 == datakit("new", "source", "shop-source", "--system", "memory").code
    assert 0 == datakit("new", "bronze", "shop-bronze", "--system", "memory").code
    assert 0 == datakit("new", "warehouse", "shop").code
    project = Project.find(tree.root)
    assert {"airline-source", "shop-source"} == {s.manifest.name for s in project.bronze("shop-bronze").sources}
    assert "airline.flights" in project.warehouse("shop").ingest[0].datasets
    assert 0 == datakit("check").code
    for folder in ("datakits/shop-source", "datakits/shop-bronze", "warehouses/shop"):
        tests = run_tests(tree.root / folder)
        assert 0 == tests.returncode, tests.stdout


def test_the_tests_of_a_new_source_fail_once_it_is_broken(
    tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datakit("new", "source", "shop-source")
    path = tmp_path / "shop-source" / "datakit.yaml"
    path.write_text(path.read_text().replace("key: [ExampleID]", "key: [Example]"))
    assert 1 == run_tests(path.parent).returncode


def test_the_editors_line_points_at_the_schema(tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datakit("new", "source", "shop-source")
    for name, schema in (("datakit.yaml", "source"), ("contracts/example.yaml", "contract")):
        path = tmp_path / "shop-source" / name
        match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
        assert match is not None
        assert json_schema(schema) == json.loads((path.parent / match[1]).read_text())


def test_an_existing_folder_is_never_overwritten(tree: Tree, datakit: Any) -> None:
    before = (tree.root / "datakits/airline-source/datakit.yaml").read_text()
    result = datakit("new", "source", "airline-source")
    assert (78, True) == (result.code, "it is there already" in result.err)
    assert before == (tree.root / "datakits/airline-source/datakit.yaml").read_text()


@pytest.mark.parametrize("name", ["Shop", "shop_source", "../shop", "", "-shop", "a" * 64])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, datakit: Any, monkeypatch: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert 78 == datakit("new", "source", "--", name).code
    assert [] == list(tmp_path.iterdir())


def test_into_chooses_the_folder(tree: Tree, datakit: Any, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    assert 0 == datakit("new", "source", "shop-source", "--into", str(target)).code
    assert (target / "shop-source" / "datakit.yaml").is_file()


def test_schemas_are_listed_printed_and_written(datakit: Any, tmp_path: Path) -> None:
    assert "contract" in datakit("schema").out
    assert "warehouse" in json.loads(datakit("schema", "--json").out)
    assert json_schema("source") == json.loads(datakit("schema", "source").out)
    assert 0 == datakit("schema", "--write", str(tmp_path / "s")).code
    assert json_schema("run-report") == json.loads((tmp_path / "s" / "run-report.schema.json").read_text())
    wrong = datakit("schema", "sources")
    assert (78, True) == (wrong.code, "did you mean 'source'?" in wrong.err)
