import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from datakit.errors import InvalidFile, UnknownName
from datakit.model._problems import nearest
from datakit.model.contract import Column, Contract
from datakit.model.environment import Environment, SourceSystem
from datakit.model.manifest import BronzeDatakit, Cursor, Dataset, IncludedSource, SlicePlan, SourceDatakit
from datakit.model.types import TYPE_NAMES, DataType
from datakit.model.warehouse import Ingest, WarehouseConfig
from datakit.model.yaml import Document, load, parse, validate, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

SOURCE = """\
kind: source
name: airline-source
version: 1.2.3
system: sqlserver
connection: airline
datasets:
  flights:
    table: ops.Flights
    key: [FlightID]
    cursor: {column: ModifiedAt, lag: 5m}
"""

ENVIRONMENT = """\
name: local
runtime: process
sources:
  airline: {host: sql.corp.example, database: AirlineOps}
"""


def refused(text: str, model: type[BaseModel] = SourceDatakit) -> InvalidFile:
    with pytest.raises(InvalidFile) as raised:
        parse(text, model, "datakit.yaml")
    return raised.value


def complaint(read: Callable[[], object]) -> InvalidFile | None:
    """Return the error in our words, or None; any other exception fails the test."""
    try:
        read()
    except InvalidFile as error:
        return error
    return None


def test_a_whole_datakit_is_read() -> None:
    datakit = parse(SOURCE, SourceDatakit, "datakit.yaml")
    assert datakit.datasets["flights"].cursor == Cursor(column="ModifiedAt", lag=timedelta(minutes=5))


@pytest.mark.parametrize(
    ("right", "wrong", "place", "suggestion"),
    [
        ("connection:", "conection:", "5:1", "connection"),
        ("    table:", "    tabel:", "8:5", "table"),
        ("{column: ModifiedAt", "{colum: ModifiedAt", "10:14", "column"),
        ("lag: 5m", "Lag: 5m", "10:34", "lag"),
    ],
)
def test_an_unknown_key_at_any_depth_names_its_place_and_the_nearest_key(
    right: str, wrong: str, place: str, suggestion: str
) -> None:
    error = refused(SOURCE.replace(right, wrong))
    assert f"datakit.yaml:{place}" == error.subject
    assert wrong.strip(" {:").split(":")[0] in error.what
    assert f"did you mean {suggestion!r}?" == error.cause
    assert suggestion in str(error.fix)


def test_a_misspelt_required_key_is_one_problem_not_two() -> None:
    assert () == refused(SOURCE.replace("connection:", "conection:")).others


def test_a_wrong_choice_names_the_nearest_one() -> None:
    error = refused(SOURCE + "isolation: snapshto\n")
    assert ("datakit.yaml:11:12", "did you mean 'snapshot'?") == (error.subject, error.cause)
    assert "read_committed" in str(error.fix)


def test_a_wrong_type_of_a_contract_names_the_nearest_one() -> None:
    error = refused("dataset: a.b\ncolumns:\n  - {name: A, type: strng}\n", Contract)
    assert ("datakit.yaml:3:21", "did you mean 'string'?") == (error.subject, error.cause)


def test_a_missing_key_is_reported_at_its_parent() -> None:
    error = refused(SOURCE.replace("column: ModifiedAt, ", ""))
    assert "datakit.yaml:10:5" == error.subject
    assert "the key 'datasets.flights.cursor.column' is missing" == error.what


def test_every_problem_is_listed_in_the_order_of_the_file() -> None:
    error = refused(SOURCE.replace("1.2.3", "v1").replace("table:", "tabel:").replace("5m", "soon"))
    assert ["3:10", "8:5", "10:39"] == [str(each.subject).partition(":")[2] for each in (error, *error.others)]
    assert all(each.what in str(error) for each in error.others)
    assert [each.as_json() for each in error.others] == error.as_json()["others"]


def test_the_same_key_twice_is_an_error() -> None:
    error = refused(SOURCE + "name: other\n")
    assert ("datakit.yaml:11:1", "the first one is at line 2") == (error.subject, error.cause)


@pytest.mark.parametrize(
    "word", ["no", "yes", "on", "off", "y", "N", "12:30", "2026-01-01", "0b1", "1_000", "=", "null_"]
)
def test_words_that_yaml_1_1_takes_for_something_else_stay_text(word: str) -> None:
    assert word == parse(SOURCE.replace("ops.Flights", word), SourceDatakit, "x").datasets["flights"].table


def test_a_number_where_text_belongs_says_that_it_needs_quotes() -> None:
    error = refused(SOURCE.replace("1.2.3", "1.2"))
    assert ("datakit.yaml:3:10", 'put it in quotes: "1.2"') == (error.subject, error.fix)


def test_a_lone_word_where_a_list_belongs_says_that_it_needs_brackets() -> None:
    assert "put it in brackets: [FlightID]" == refused(SOURCE.replace("[FlightID]", "FlightID")).fix


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("kind: source\n name: x\n", ":2:6", "not valid YAML"),
        ("kind: source\n\tname: x\n", ":2:1", "not valid YAML"),
        ("kind: [source\n", ":2:1", "not valid YAML"),
        ("kind: *nothing\n", ":1:7", "undefined alias"),
        ("kind: source\n---\nkind: source\n", ":2:1", "another document"),
        ("kind: !!python/name:os.system\n", ":1:7", "tag"),
        ("kind: &loop [*loop]\n", ":1:7", "contains itself"),
        ("? [a, b]\n: c\n", ":1:3", "a key must be text"),
        ("- kind\n", ":1:1", "holds a list"),
        ("source\n", ":1:1", "holds the text"),
        ("[" * 100_000, ":1:51", "nested"),
        ("kind: !!int x\n", ":1:7", "cannot be read as int"),
        ("<<: 3\n", ":1:5", "<<"),
    ],
)
def test_what_is_no_file_of_ours_is_refused_with_its_place(text: str, place: str, says: str) -> None:
    error = refused(text)
    assert f"datakit.yaml{place}" == error.subject
    assert says in error.what


def test_a_list_without_entries_is_refused_where_one_is_needed() -> None:
    error = refused("dataset: a.b\ncolumns: []\n", Contract)
    assert ("datakit.yaml:2:10", "columns needs at least one entry") == (error.subject, error.what)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "null\n", "\x00", "a: \x07"])
def test_an_empty_or_binary_file_is_refused(text: str) -> None:
    assert "datakit.yaml" == refused(text).subject


def test_a_file_that_is_not_there_or_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Zürich".encode("latin-1"))
    for name, says in (("none.yaml", "No such file"), ("latin.yaml", "UTF-8"), (".", "directory")):
        with pytest.raises(InvalidFile, match=says):
            load(tmp_path / name, Environment)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + ENVIRONMENT.encode())
    assert "local" == load(path, Environment).name


def test_anchors_and_merge_keys_work() -> None:
    text = ENVIRONMENT + "  other:\n    <<: &base {host: b, port: 1}\n    database: D\n    port: 2\n"
    other = parse(text, Environment, "x").sources["other"]
    assert ("b", 2, "D") == (other.host, other.port, other.database)


def test_a_problem_in_a_merged_mapping_is_reported_where_it_is_written() -> None:
    error = refused(ENVIRONMENT + "  other:\n    <<: {hots: b}\n    database: D\n", Environment)
    assert "datakit.yaml:6:10" == error.subject


def test_an_alias_bomb_is_read_without_growing() -> None:
    lines = [SOURCE, "a0: &a0 {x: y}"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]" for n in range(1, 30)]
    assert "unknown key 'a0'" == refused("\n".join(lines)).what


def test_a_password_that_was_written_into_the_file_is_not_repeated_in_the_error() -> None:
    error = refused(ENVIRONMENT.replace("}", ", user: u, password: hunter2!}"), Environment)
    assert "hunter2" not in str(error)
    assert "never holds one" in error.what


def test_a_section_of_another_file_is_validated_with_the_same_words() -> None:
    with pytest.raises(InvalidFile) as raised:
        validate({"hots": "a", "database": "b"}, SourceSystem, "local.yaml:4:3")
    assert ("local.yaml:4:3", "did you mean 'host'?") == (raised.value.subject, raised.value.cause)


def test_positions_are_known_for_every_key_and_value() -> None:
    document = Document(SOURCE, "x")
    assert "8:5" == str(document.at(("datasets", "flights", "table"), key=True))
    assert "8:12" == str(document.at(("datasets", "flights", "table")))
    assert "9:11" == str(document.at(("datasets", "flights", "key", 0)))


# a slow machine is no failure of ours
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)
DATASETS = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
TEXT = st.text(min_size=1, max_size=40)
DURATIONS = st.integers(0, 10**9).map(lambda ms: timedelta(milliseconds=ms))
TYPES = st.one_of(
    st.sampled_from([name for name in TYPE_NAMES if name != "decimal"]).map(DataType.parse),
    st.integers(1, 38).flatmap(
        lambda precision: st.integers(0, precision).map(lambda scale: DataType("decimal", precision, scale))
    ),
)
COLUMNS = st.builds(Column, name=TEXT, type=TYPES, nullable=st.booleans(), source_type=st.none() | TEXT)
CONTRACTS = st.builds(
    Contract,
    dataset=TEXT,
    key=st.just(()),
    columns=st.lists(COLUMNS, min_size=1, max_size=5, unique_by=lambda column: column.name).map(tuple),
)
DATASET = st.builds(
    Dataset,
    table=TEXT,
    sql=st.none(),
    key=st.lists(TEXT, max_size=3).map(tuple),
    cursor=st.none() | st.builds(Cursor, column=TEXT, lag=DURATIONS),
    slices=st.none() | st.builds(SlicePlan, column=TEXT, rows=st.integers(1, 10**12)),
)
SOURCES = st.builds(
    SourceDatakit,
    kind=st.just("source"),
    name=NAMES,
    version=st.just("1.0.0-rc.1+5"),
    system=TEXT,
    connection=NAMES,
    description=st.none() | TEXT,
    datasets=st.dictionaries(DATASETS, DATASET, min_size=1, max_size=3),
)
BRONZES = st.builds(
    BronzeDatakit,
    kind=st.just("bronze"),
    name=NAMES,
    version=st.just("0.1.0"),
    system=TEXT,
    description=st.none() | TEXT,
    sources=st.lists(NAMES.map(lambda name: IncludedSource(datakit=name)), min_size=1, max_size=3).map(tuple),
)
WAREHOUSES = st.builds(
    WarehouseConfig,
    name=NAMES,
    type=TEXT,
    connection=NAMES,
    schema=TEXT,
    ingest=st.lists(
        st.builds(
            Ingest, datakit=NAMES, datasets=st.just(("a.b",)), schedule=st.none() | TEXT, schema=st.none() | TEXT
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
ENVIRONMENTS = st.builds(
    Environment,
    name=NAMES,
    runtime=st.sampled_from(["process", "docker", "kubernetes"]),
    sources=st.dictionaries(
        NAMES, st.builds(SourceSystem, host=TEXT, database=TEXT, server_spn=st.none() | TEXT), max_size=2
    ),
    warehouses=st.dictionaries(NAMES, st.dictionaries(TEXT, SCALARS, max_size=3), max_size=2),
)


@unhurried
@given(st.one_of(CONTRACTS, SOURCES, BRONZES, WAREHOUSES, ENVIRONMENTS))
def test_what_is_written_is_read_back_equal(model: Any) -> None:
    text = write(model)
    assert model == parse(text, type(model), "written.yaml")
    assert text == write(parse(text, type(model), "written.yaml"))


ANY_YAML = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=10,
)
KEYS = sorted(
    {*SourceDatakit.model_fields, *Dataset.model_fields, *Environment.model_fields, "schema", "ingest", "host"}
)


MODELS = st.sampled_from([SourceDatakit, Environment, WarehouseConfig, Contract, BronzeDatakit])


@unhurried
@given(st.dictionaries(st.sampled_from(KEYS) | TEXT, ANY_YAML, max_size=6), MODELS)
def test_any_mapping_is_accepted_or_refused_in_words(data: dict[str, Any], model: type[BaseModel]) -> None:
    error = complaint(lambda: validate(data, model, "somewhere"))
    assert error is None or (error.subject == "somewhere" and error.what)


@unhurried
@given(TEXT | st.just(""), st.lists(TEXT, max_size=5))
def test_a_suggestion_is_always_one_of_the_known_names(name: str, known: list[str]) -> None:
    suggested = nearest(name, known)
    assert suggested is None or suggested in known
    cause = UnknownName.of("dataset", name, known).cause
    assert cause is None or any(repr(each) in cause for each in known)


@unhurried
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda data: data.decode("latin-1")))
def test_any_text_is_accepted_or_refused_in_words(text: str) -> None:
    error = complaint(lambda: parse(text, Environment, "x.yaml"))
    assert error is None or str(error.subject).startswith("x.yaml")


def test_importing_the_models_imports_neither_pyarrow_nor_a_driver() -> None:
    code = (
        "import sys, datakit.cli, datakit.model.project, datakit.model.schemas; "
        "print([m for m in ('pyarrow', 'duckdb', 'psycopg', 'mssql_python', 'krb5') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert "[]" == result.stdout.strip(), result.stderr
