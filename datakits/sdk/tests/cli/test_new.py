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
def test_a_new_folder_alone_is_valid_and_its_tests_pass(kind: str, tmp_path: Path, datakit: Any) -> None:
    made = datakit("new", kind, NAMES[kind], "--into", str(tmp_path / "alone"))
    assert 0 == made.code, made.err
    folder = tmp_path / "alone" / NAMES[kind]
    assert 0 == datakit("check", str(folder)).code
    tests = run_tests(folder)
    assert 0 == tests.returncode, tests.stdout
    assert "passed" in tests.stdout


def test_an_empty_folder_becomes_a_tree_whose_parts_name_each_other(
    tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = []
    for kind, name in {**NAMES, "environment": "local"}.items():
        made = datakit("new", kind, name)
        assert 0 == made.code, made.err
        steps.append(made.out.partition("Next: ")[2].strip())
    assert [
        (
            "datakit new environment local, say in it where shop is, "
            "then datakit contract pull shop.example --environment local"
        ),
        "datakit new warehouse NAME",
        "datakit new environment local",
        "say in it where shop, shop-db are, then datakit doctor --environment local",
    ] == steps

    project = Project.find()
    assert (tmp_path, False) == (project.root, project.is_alone)
    assert ["shop-source"] == [source.manifest.name for source in project.bronze("shop-bronze").sources]
    ingest = project.warehouse("shop").ingest[0]
    assert ("shop-bronze", ("shop.example",)) == (ingest.datakit, ingest.datasets)
    environment = project.environment("local")
    assert (["shop"], {"shop-db": {"path": "shop.duckdb"}}) == (list(environment.sources), environment.warehouses)

    checked = datakit("check", "--json")
    assert (0, [], []) == (checked.code, json.loads(checked.out)["problems"], json.loads(checked.out)["notes"])
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert 0 == tests.returncode, tests.stdout
    assert "5 passed" in tests.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bronze", "shop-bronze"), "datakit new source NAME"),
        (("warehouse", "shop"), "datakit new bronze NAME"),
        (("bronze", "shop-bronze", "--includes", "shop-source"), "there is no source datakit 'shop-source'"),
        (("warehouse", "shop", "--type", "postgrs"), "did you mean 'postgres'?"),
        (("source", "shop-source", "--system", "sqlservr"), "did you mean 'sqlserver'?"),
    ],
)
def test_what_would_refer_to_nothing_is_refused_and_the_next_step_named(
    tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = datakit("new", *arguments)
    assert (78, True) == (result.code, says in result.err), result.err
    assert [] == list(tmp_path.iterdir())


def test_the_folder_that_datakit_home_names_becomes_the_tree(
    tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_HOME", str(tmp_path / "home"))
    assert 0 == datakit("new", "source", "shop-source").code
    assert {"shop-source"} == set(Project.find().sources())
    assert ["home"] == [path.name for path in tmp_path.iterdir()]


def test_a_bronze_datakit_includes_what_it_is_told_to(tree: Tree, datakit: Any) -> None:
    assert 0 == datakit("new", "source", "shop-source", "--system", "memory").code
    assert 0 == datakit("new", "bronze", "shop-bronze", "--system", "memory", "--includes", "shop-source").code
    bronze = Project.find(tree.root).bronze("shop-bronze")
    assert ["shop-source"] == [source.manifest.name for source in bronze.sources]
    wrong = datakit("new", "bronze", "other-bronze", "--includes", "shop-sauce")
    assert (78, True) == (wrong.code, "did you mean 'shop-source'?" in wrong.err)


def test_an_environment_has_a_section_for_each_connection_in_the_words_of_its_adapter(tree: Tree, datakit: Any) -> None:
    assert 0 == datakit("new", "warehouse", "lake", "--type", "postgres").code
    made = datakit("new", "environment", "prod")
    assert 0 == made.code, made.err
    text = (tree.root / "warehouses/environments/prod.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=../../.datakit/schemas/environment.schema.json\n")
    environment = Project.find(tree.root).environment("prod")
    assert {"airline"} == set(environment.sources)
    assert "lake-db/password" == environment.warehouses["lake-db"]["password"]
    assert {"path": "finance.duckdb"} == environment.warehouses["finance-db"]
    assert 0 == datakit("check", "warehouses/environments").code
    assert 78 == datakit("new", "environment", "prod").code


def test_nothing_is_made_inside_a_datakit_that_is_alone(
    tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    datakit("new", "source", "shop-source", "--into", str(tmp_path))
    monkeypatch.chdir(tmp_path / "shop-source")
    before = sorted(tmp_path.rglob("*"))
    result = datakit("new", "bronze", "shop-bronze")
    assert (78, True) == (result.code, f"--into {tmp_path}" in result.err), result.err
    assert before == sorted(tmp_path.rglob("*"))
    assert 0 == datakit("new", "environment", "local").code
    assert {"local"} == set(Project.find().environments()), "where a lone datakit is, its environments are beside it"


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
    path = tmp_path / "datakits" / "shop-source" / "datakit.yaml"
    path.write_text(path.read_text().replace("key: [ExampleID]", "key: [Example]"))
    assert 1 == run_tests(path.parent).returncode


def test_the_editors_line_points_at_the_schema(tmp_path: Path, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datakit("new", "source", "shop-source")
    for name, schema in (("datakit.yaml", "source"), ("contracts/example.yaml", "contract")):
        path = tmp_path / "datakits" / "shop-source" / name
        match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
        assert match is not None
        assert json_schema(schema) == json.loads((path.parent / match[1]).read_text())


def test_an_existing_folder_is_never_overwritten(tree: Tree, datakit: Any) -> None:
    before = (tree.root / "datakits/airline-source/datakit.yaml").read_text()
    result = datakit("new", "source", "airline-source")
    assert (78, True) == (result.code, "it is there already" in result.err)
    assert before == (tree.root / "datakits/airline-source/datakit.yaml").read_text()


def test_a_second_source_datakit_of_a_source_system_is_made_only_where_it_is_meant(tree: Tree, datakit: Any) -> None:
    refused = datakit("new", "source", "airline")
    assert (78, True) == (refused.code, "airline-source reads airline already" in refused.err), refused.err
    assert not (tree.root / "datakits/airline").exists()
    made = datakit("new", "source", "airline", "--connection", "airline")
    assert 0 == made.code, made.err
    assert "datakit contract pull airline.example --environment NAME" in made.out


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
