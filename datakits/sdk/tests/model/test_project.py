from pathlib import Path

import pytest
from datakit.errors import ConfigurationError, InvalidFile, UnknownName
from datakit.model.project import Project

SOURCE = """\
kind: source
name: airline-source
version: 1.0.0
system: sqlserver
connection: airline
datasets:
  flights: {table: ops.Flights}
  planes: {table: ops.Planes}
"""
BRONZE = """\
kind: bronze
name: sqlserver-bronze
version: 1.0.0
system: sqlserver
sources:
  - datakit: airline-source
"""
WAREHOUSE = """\
name: finance
type: duckdb
connection: finance-db
schema: bronze
ingest:
  - datakit: sqlserver-bronze
    datasets: [airline.flights]
"""
ENVIRONMENT = """\
name: local
runtime: process
sources:
  airline: {host: sql.corp.example, database: AirlineOps}
warehouses:
  finance-db: {path: finance.duckdb}
"""
CONTRACT = "dataset: airline.flights\ncolumns:\n  - {name: FlightID, type: int64, nullable: false}\n"


def put(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATAKIT_HOME", "DATAKIT_ENVIRONMENT", "DATAKIT_ENVIRONMENTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    put(tmp_path, "datakits/airline-source/datakit.yaml", SOURCE)
    put(tmp_path, "datakits/airline-source/contracts/flights.yaml", CONTRACT)
    put(tmp_path, "datakits/sqlserver-bronze/datakit.yaml", BRONZE)
    put(tmp_path, "warehouses/finance/warehouse.yaml", WAREHOUSE)
    put(tmp_path, "warehouses/environments/local.yaml", ENVIRONMENT)
    return tmp_path


def test_a_tree_is_found_from_any_folder_in_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tree, tree / "datakits", tree / "datakits/airline-source/contracts", tree / "warehouses/finance"):
        monkeypatch.chdir(folder)
        assert tree == Project.find().root


def test_datakit_home_wins_over_the_working_directory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_HOME", str(tree))
    monkeypatch.chdir("/")
    assert tree == Project.find().root


def test_a_datakit_home_without_a_tree_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="DATAKIT_HOME"):
        Project.find()


def test_no_tree_at_all_says_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Project.find(tmp_path)
    assert "datakit new" in str(raised.value.fix)


def test_a_folder_on_its_own_is_a_tree(tmp_path: Path) -> None:
    put(tmp_path, "datakit.yaml", SOURCE)
    put(tmp_path, "environments/local.yaml", ENVIRONMENT)
    project = Project.find(tmp_path)
    assert (True, ("airline.flights", "airline.planes")) == (project.is_alone, project.datasets())
    assert "local" == project.environment("local").name


def test_a_lone_folder_is_not_mistaken_for_a_part_of_an_unrelated_tree_above_it(tree: Path) -> None:
    lone = put(tree, "elsewhere/deep/datakit.yaml", SOURCE.replace("airline", "other")).parent
    assert lone == Project.find(lone).root


def test_a_dataset_comes_with_its_datakit_and_contract(tree: Path) -> None:
    source, name, dataset, contract = Project.find(tree).dataset("airline.flights")
    assert contract is not None
    assert ("airline-source", "flights", "ops.Flights", "FlightID") == (
        source.manifest.name,
        name,
        dataset.table,
        contract.columns[0].name,
    )


def test_a_dataset_without_a_contract_has_none(tree: Path) -> None:
    assert Project.find(tree).dataset("airline.planes")[3] is None


def test_a_load_is_resolved_to_warehouse_bronze_and_source(tree: Path) -> None:
    config, ingest, bronze, source = Project.find(tree).ingest("finance", "airline.flights")
    found = (config.name, ingest.datakit, bronze.manifest.name, source.manifest.name)
    assert ("finance", "sqlserver-bronze", "sqlserver-bronze", "airline-source") == found


@pytest.mark.parametrize(
    ("ask", "suggestion"),
    [
        (lambda project: project.warehouse("finanse"), "finance"),
        (lambda project: project.dataset("airline.flight"), "airline.flights"),
        (lambda project: project.environment("locl"), "local"),
        (lambda project: project.bronze("sqlserver-bronce"), "sqlserver-bronze"),
        (lambda project: project.ingest("finanse", "airline.flights"), "finance"),
        (lambda project: project.ingest("finance", "airline.fligths"), "airline.flights"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(tree: Path, ask: object, suggestion: str) -> None:
    with pytest.raises(UnknownName) as raised:
        ask(Project.find(tree))  # type: ignore[operator]
    assert f"did you mean {suggestion!r}?" == raised.value.cause


def test_a_dataset_that_the_warehouse_does_not_take_is_refused_with_the_place(tree: Path) -> None:
    with pytest.raises(UnknownName, match=r"'finance' does not take airline\.planes") as raised:
        Project.find(tree).ingest("finance", "airline.planes")
    assert str(raised.value.subject).endswith("finance/warehouse.yaml:5:1")


def test_a_dataset_taken_twice_is_refused(tree: Path) -> None:
    put(
        tree,
        "warehouses/finance/warehouse.yaml",
        WAREHOUSE + "  - {datakit: sqlserver-bronze, datasets: [airline.flights]}\n",
    )
    with pytest.raises(InvalidFile, match="2 entries"):
        Project.find(tree).ingest("finance", "airline.flights")


def test_a_source_that_the_bronze_datakit_does_not_include_is_refused(tree: Path) -> None:
    put(tree, "datakits/sqlserver-bronze/datakit.yaml", BRONZE.replace("- datakit: airline-source", "- datakit: other"))
    with pytest.raises(InvalidFile, match="does not include 'airline-source'"):
        Project.find(tree).ingest("finance", "airline.flights")


def test_no_environment_is_guessed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Project.find(tree).environment(None)
    assert "DATAKIT_ENVIRONMENT" in str(raised.value)
    assert "local" in str(raised.value)
    assert str(tree / "warehouses/environments") in str(raised.value)
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", "local")
    assert "local" == Project.find(tree).environment(None).name


def test_environments_of_another_folder_are_added_and_win(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = tmp_path_factory.mktemp("extra")
    put(extra, "local.yaml", ENVIRONMENT.replace("sql.corp.example", "127.0.0.1"))
    put(extra, "lab.yaml", "name: lab\nruntime: process\n")
    monkeypatch.setenv("DATAKIT_ENVIRONMENTS", str(extra))
    project = Project.find(tree)
    assert {"lab", "local"} == set(project.environments())
    assert "127.0.0.1" == project.environment("local").sources["airline"].host


def test_connections_come_with_file_and_line(tree: Path) -> None:
    project = Project.find(tree)
    environment, source = project.environment("local"), project.sources()["airline-source"]
    system, where = project.source_system(environment, source)
    assert ("sql.corp.example", f"{tree}/warehouses/environments/local.yaml:4:3") == (system.host, where)
    section, where = project.warehouse_connection(environment, project.warehouse("finance"))
    assert ({"path": "finance.duckdb"}, True) == (section, where.endswith("local.yaml:6:3"))


def test_a_connection_that_the_environment_lacks_suggests_the_nearest(tree: Path) -> None:
    put(tree, "warehouses/environments/local.yaml", ENVIRONMENT.replace("airline:", "airlines:"))
    project = Project.find(tree)
    with pytest.raises(UnknownName) as raised:
        project.source_system(project.environment("local"), project.sources()["airline-source"])
    assert "did you mean 'airlines'?" == raised.value.cause


def test_a_connection_that_the_environment_lacks_is_to_be_added_to_its_file(tree: Path) -> None:
    put(tree, "warehouses/environments/local.yaml", ENVIRONMENT.replace("finance-db:", "marketing-db:"))
    put(tree, "warehouses/finance/warehouse.yaml", WAREHOUSE.replace("finance-db", "lake-db"))
    project = Project.find(tree)
    with pytest.raises(UnknownName, match="called 'lake-db'") as raised:
        project.warehouse_connection(project.environment("local"), project.warehouse("finance"))
    added = f"add lake-db under warehouses: in {tree}/warehouses/environments/local.yaml"
    assert (None, added) == (raised.value.cause, raised.value.fix)


def test_a_broken_file_does_not_stop_work_on_others(tree: Path) -> None:
    put(tree, "datakits/broken/datakit.yaml", "kind: source\nnme: broken\n")
    put(tree, "warehouses/marketing/warehouse.yaml", "name: [\n")
    put(tree, "warehouses/environments/prod.yaml", "name: prod\n")
    project = Project.find(tree)
    assert "airline-source" == project.ingest("finance", "airline.flights")[3].manifest.name
    assert "local" == project.environment("local").name
    files = [str(error.subject).removeprefix(f"{tree}/").partition(":")[0] for error in project.broken]
    assert [
        "datakits/broken/datakit.yaml",
        "warehouses/marketing/warehouse.yaml",
        "warehouses/environments/prod.yaml",
    ] == files


def test_asking_for_what_is_broken_tells_what_is_wrong_with_the_file(tree: Path) -> None:
    put(tree, "warehouses/marketing/warehouse.yaml", "name: marketing\ntyp: duckdb\n")
    with pytest.raises(InvalidFile, match="marketing/warehouse"):
        Project.find(tree).warehouse("marketing")


def test_a_broken_contract_stops_only_its_own_dataset(tree: Path) -> None:
    put(tree, "datakits/airline-source/contracts/planes.yaml", "dataset: 1\n")
    project = Project.find(tree)
    assert project.dataset("airline.flights")[3] is not None
    with pytest.raises(InvalidFile, match=r"planes\.yaml"):
        project.dataset("airline.planes")


def test_two_datakits_of_one_name_are_reported(tree: Path) -> None:
    put(tree, "datakits/copy/datakit.yaml", SOURCE)
    assert ["the datakit 'airline-source' is there twice"] == [error.what for error in Project.find(tree).broken]


def test_a_file_is_read_once(tree: Path) -> None:
    project = Project.find(tree)
    first = project.dataset("airline.flights")
    for file in tree.rglob("*.yaml"):
        file.write_text("broken: [")
    assert first == project.dataset("airline.flights")
