"""What DuckDB warehouses do beyond the laws: one process at a time, what a replaced table keeps, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datakit.errors import (
    ConfigurationError,
    ContractError,
    DatakitError,
    InvalidFile,
    LoadInProgress,
    NameCollision,
    RowsLost,
    UnsupportedType,
    ValueRefused,
)
from datakit.model.load import Slice, TableName
from datakit.model.manifest import LoadMode
from datakit.testing import WarehouseCase
from datakit.testing._warehouse_case import COLUMNS, DATASET, batch, column, request, rows_of, run, stage
from datakit.warehouses import open_warehouse

TWO = [(1, "one"), (2, "two")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"  # where duckdb_case has it


def sql(file: Path, statement: str) -> list[Any]:
    with duckdb.connect(str(file)) as connection:
        return connection.execute(statement).fetchall()


def load(case: WarehouseCase, run_id: str, rows: list[Any], base: int, **more: Any) -> None:
    with closing(case.open()) as warehouse:
        run(warehouse, request(case, run_id, base=base, **more), rows)


@contextmanager
def another_process(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Within, another process has the file open, until it is sent something."""
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        yield other


def test_another_process_that_has_the_file_is_named(duckdb_case: WarehouseCase, file: Path) -> None:
    impatient = open_warehouse("duckdb", {"path": str(file), "wait": "0s"}, where="environment")
    with another_process(file) as other, closing(impatient) as warehouse:
        with pytest.raises(LoadInProgress, match=f"process {other.pid} "):
            run(warehouse, request(duckdb_case, "a"), TWO)
        other.communicate()
        run(warehouse, request(duckdb_case, "a"), TWO)
    assert rows_of(duckdb_case) == TWO


def test_a_load_waits_for_another_process_to_close_the_file(
    duckdb_case: WarehouseCase, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "datakit")
    with another_process(file) as other:
        threading.Timer(1, other.communicate).start()
        load(duckdb_case, "a", TWO, 0)
    assert f"waiting for process {other.pid}" in caplog.text
    assert rows_of(duckdb_case) == TWO


def test_views_and_comments_survive_a_replacement(duckdb_case: WarehouseCase, file: Path) -> None:
    load(duckdb_case, "a", TWO, 0)
    sql(file, "CREATE VIEW bronze.v AS SELECT name FROM bronze.things")
    sql(file, "COMMENT ON TABLE bronze.things IS 'it''s ours'")
    sql(file, "COMMENT ON COLUMN bronze.things.name IS 'what it is called'")
    load(duckdb_case, "b", [(3, "three")], 1)
    assert sql(file, "FROM bronze.v") == [("three",)]
    assert sql(file, "SELECT comment FROM duckdb_tables() WHERE table_name = 'things'") == [("it's ours",)]
    assert sql(file, "SELECT comment FROM duckdb_columns() WHERE table_name = 'things' AND comment IS NOT NULL") == [
        ("what it is called",)
    ]


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE TABLE bronze.things (id BIGINT PRIMARY KEY, name VARCHAR)",
        "CREATE TABLE bronze.things (id BIGINT CHECK (id > 0), name VARCHAR)",
        "CREATE TABLE bronze.things (id BIGINT, name VARCHAR DEFAULT 'x')",
        "CREATE TABLE bronze.things (id BIGINT, name VARCHAR); CREATE INDEX i ON bronze.things (name)",
    ],
)
def test_a_table_made_by_hand_keeps_its_constraints_and_indexes(
    duckdb_case: WarehouseCase, file: Path, definition: str
) -> None:
    sql(file, f"CREATE SCHEMA bronze; {definition}; INSERT INTO bronze.things (id) VALUES (1)")
    load(duckdb_case, "a", TWO, 0, key=["id"])
    load(duckdb_case, "b", [*TWO, (3, "three")], 1, key=["id"])
    assert rows_of(duckdb_case) == [*TWO, (3, "three")]
    kept = sql(
        file,
        "SELECT count(*) FROM duckdb_constraints() WHERE table_name = 'things' AND constraint_type IN ('PRIMARY KEY', "
        "'CHECK') UNION ALL SELECT count(*) FROM duckdb_indexes() WHERE table_name = 'things' "
        "UNION ALL SELECT count(column_default) FROM duckdb_columns() WHERE table_name = 'things'",
    )
    assert sum(count for (count,) in kept) == 1


def test_a_column_of_a_foreign_type_is_named(duckdb_case: WarehouseCase, file: Path) -> None:
    sql(file, "CREATE SCHEMA bronze; CREATE TABLE bronze.things (id BIGINT, place UUID)")
    with closing(duckdb_case.open()) as warehouse, pytest.raises(UnsupportedType, match="'place' has the type UUID"):
        warehouse.inspect(duckdb_case.table)


def test_a_view_of_the_tables_name_is_refused(duckdb_case: WarehouseCase, file: Path) -> None:
    sql(file, "CREATE SCHEMA bronze; CREATE VIEW bronze.things AS SELECT 1 AS id")
    with pytest.raises(ContractError, match="view"):
        load(duckdb_case, "a", TWO, 0)


def test_columns_that_differ_in_case_only_are_refused(duckdb_case: WarehouseCase) -> None:
    with pytest.raises(NameCollision, match="'name' and 'NAME'"):
        load(duckdb_case, "a", [(1, "a", "b")], 0, columns=(*COLUMNS, column("NAME", "string")))


def test_rows_that_vanish_from_staging_are_noticed_at_commit(duckdb_case: WarehouseCase, file: Path) -> None:
    wanted = request(duckdb_case, "a")
    with closing(duckdb_case.open()) as warehouse:
        stage(warehouse, wanted, TWO)
    ((name,),) = sql(file, "SELECT staging FROM bronze._dk_runs")
    sql(file, f"DELETE FROM bronze.{name} WHERE id = 1")
    with closing(duckdb_case.open()) as warehouse:
        with pytest.raises(RowsLost, match="2 rows were staged, and staging holds 1"):
            warehouse.commit(wanted, None)
        assert stage(warehouse, wanted, TWO)
        assert warehouse.commit(wanted, None).rows == 2


FULL_DISK = """
import json, resource, signal, sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datakit.errors import DatakitError
from datakit.model.load import Slice
from datakit.testing import WarehouseCase
from datakit.testing._warehouse_case import COLUMNS, batch, request
from datakit.warehouses import open_warehouse

case = WarehouseCase(lambda: open_warehouse("duckdb", {"path": sys.argv[1]}, where="x"), lambda table: None, "bronze")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails with EFBIG, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, resource.RLIM_INFINITY))
wanted = request(case, "big", base=1)
try:
    with closing(case.open()) as warehouse:
        load = warehouse.begin(wanted, Slice())
        for start in range(0, 3_000_000, 50_000):
            rows = [(start + number, f"{(start + number) * 2654435761 % 2**64:x}" * 4) for number in range(50_000)]
            load.write(batch(COLUMNS, rows))
        load.stage(3_000_000)
        warehouse.commit(wanted, None)
except DatakitError as error:
    print(json.dumps(error.as_json()))
"""


def test_a_full_disk_is_said_and_leaves_the_old_table(duckdb_case: WarehouseCase, file: Path) -> None:
    load(duckdb_case, "a", TWO, 0)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, file], capture_output=True, text=True, check=False, timeout=200
    )
    error = json.loads(done.stdout)
    assert (error["type"], error["retryable"]) == ("WarehouseUnavailable", True), (error, done.stderr)
    assert "full" in error["what"]
    assert rows_of(duckdb_case) == TWO
    load(duckdb_case, "big", [(9, "nine")], 1)
    assert rows_of(duckdb_case) == [(9, "nine")]


def test_each_refusal_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is a text file, and longer than a header of DuckDB is" * 100)
    (tmp_path / "folder").mkdir()
    for section, kind, word in [
        ({"paht": "x"}, InvalidFile, "paht"),
        ({}, InvalidFile, "path"),
        ({"path": str(tmp_path / "missing" / "x.duckdb")}, InvalidFile, "mkdir -p"),
        ({"path": str(tmp_path / "x"), "memory_limit": "much"}, InvalidFile, "memory_limit"),
        ({"path": str(tmp_path / "text")}, ConfigurationError, "cannot be opened"),
    ]:
        with pytest.raises(kind, match=word):
            open_warehouse("duckdb", section, where="local.yaml: warehouses.x").last_load(DATASET, request_table())


def test_a_path_that_can_hold_no_file_is_a_mistake_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere/file.duckdb")
    for name, says in (("folder", "name a file in it"), ("link", "ls -ld"), ("x" * 300, "too long")):
        warehouse = open_warehouse("duckdb", {"path": str(tmp_path / name)}, where="local.yaml:6:3")
        with closing(warehouse), pytest.raises(InvalidFile) as refused:
            warehouse.last_load(DATASET, TableName("bronze", "things"))
        assert ("local.yaml:6:3.path", True) == (refused.value.subject, says in str(refused.value))


def test_a_damaged_file_is_said_to_be_damaged_and_not_tried_again(duckdb_case: WarehouseCase, file: Path) -> None:
    load(duckdb_case, "a", TWO, 0)
    content = bytearray(file.read_bytes())
    for header in (4096, 8192):
        content[header + 20] ^= 0xFF
    file.write_bytes(content)
    with closing(duckdb_case.open()) as warehouse:
        for _ in range(2):  # the failure to open it leaves nothing locked
            with pytest.raises(ConfigurationError, match="damaged") as refused:
                warehouse.last_load(DATASET, duckdb_case.table)
            assert "backup" in str(refused.value)


def test_a_log_of_another_file_is_said_to_be_damaged_and_not_tried_again(
    duckdb_case: WarehouseCase, file: Path, tmp_path: Path
) -> None:
    leave_a_log = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute('CREATE TABLE t (i INT)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", leave_a_log, file], check=True)
    sql(tmp_path / "other.duckdb", "CREATE TABLE u (i INT)")
    (tmp_path / "other.duckdb").replace(file)
    with closing(duckdb_case.open()) as warehouse, pytest.raises(ConfigurationError, match="damaged"):
        warehouse.last_load(DATASET, duckdb_case.table)


def test_a_database_that_gave_up_is_opened_again_instead_of_waited_for(duckdb_case: WarehouseCase) -> None:
    load(duckdb_case, "a", TWO, 0)
    with closing(duckdb_case.open()) as warehouse:
        database = warehouse._database  # type: ignore[attr-defined]  # to break it from within
        outcomes: list[Any] = []

        def ask() -> None:
            for _ in range(2):
                try:
                    outcomes.append(warehouse.last_load(DATASET, duckdb_case.table))
                except DatakitError as error:
                    outcomes.append(error)

        with closing(database.cursor()) as cursor:
            cursor.execute("SET GLOBAL debug_checkpoint_abort = 'before_header'")
            cursor.execute("CREATE TABLE bronze.more (i INT)")
            with pytest.raises(duckdb.FatalException):  # from now on DuckDB refuses everything, also a new cursor
                cursor.execute("CHECKPOINT")
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(60)
        assert not asking.is_alive(), "it waits for itself"
    assert isinstance(outcomes[0], DatakitError)
    assert outcomes[1].run_id == "a"


def request_table() -> Any:
    from datakit.model.load import TableName

    return TableName("bronze", "things")


def test_a_merge_of_every_row_fits_in_little_memory(tmp_path: Path) -> None:
    settings = {"path": str(tmp_path / "small.duckdb"), "memory_limit": "64MB"}
    case = WarehouseCase(lambda: open_warehouse("duckdb", settings, where="test"), lambda table: None, "bronze")
    columns = (COLUMNS[0], *(column(f"c{number}", "string") for number in range(8)))
    for base, word in enumerate(["before", "after"]):
        wanted = request(case, word, LoadMode.MERGE, columns=columns, key=["id"], base=base)
        with closing(case.open()) as warehouse:
            going = warehouse.begin(wanted, Slice())
            assert going is not None
            for start in range(0, 500_000, 50_000):
                ids = pa.array(range(start, start + 50_000), pa.int64())
                text = pc.binary_join_element_wise(pa.scalar(word), pc.cast(ids, pa.string()), " ")
                going.write(pa.RecordBatch.from_arrays([ids, *[text] * 8], [each.name for each in columns]))
            going.stage(500_000)
            assert warehouse.commit(wanted, None).rows == 500_000
    assert sql(
        tmp_path / "small.duckdb",
        "SELECT count(*), count(DISTINCT id), count(*) FILTER (c7 = 'after ' || id) FROM bronze.things",
    ) == [(500_000, 500_000, 500_000)]


def test_a_row_that_does_not_fit_in_memory_is_refused_with_column_key_and_the_setting(tmp_path: Path) -> None:
    columns = (*COLUMNS, column("doc", "binary"))

    def attempt(run_id: str, memory_limit: str, size: int) -> None:
        settings = {"path": str(tmp_path / "small.duckdb"), "memory_limit": memory_limit}
        wanted = request(case, run_id, columns=columns, key=["id"], base=0)
        with closing(open_warehouse("duckdb", settings, where="test")) as warehouse:
            run(warehouse, wanted, [(1, "short", b"x"), (2, "long", b"x" * size)])

    case = WarehouseCase(lambda: open_warehouse("duckdb", {}, where="test"), lambda table: None, "bronze")
    with pytest.raises(ValueRefused, match=r"'doc'.*30,000,004 bytes.*12,800,000 are the most \(id = 2\)") as refused:
        attempt("a", "32MB", 30_000_000)
    assert "memory_limit" in str(refused.value.fix)
    attempt("a", "80MB", 30_000_000)
    assert sql(tmp_path / "small.duckdb", "SELECT id, octet_length(doc) FROM bronze.things ORDER BY id") == [
        (1, 1),
        (2, 30_000_000),
    ]


def test_a_merge_in_several_parts_replaces_exactly_the_rows_of_the_load(
    duckdb_case: WarehouseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit.warehouses._duckdb.warehouse._KEYS_AT_ONCE", 7)
    columns = (column("part", "string", nullable=False), *COLUMNS)
    old = [(f"p{number % 3}", number, "old") for number in range(100)]
    new = [(f"p{number % 3}", number, "new") for number in range(50, 120)]
    with closing(duckdb_case.open()) as warehouse:
        for base, rows in enumerate([old, new]):
            wanted = request(duckdb_case, f"r{base}", LoadMode.MERGE, columns=columns, key=["part", "id"], base=base)
            run(warehouse, wanted, rows)
    assert rows_of(duckdb_case, "part", "id", "name") == sorted([*old[:50], *new], key=repr)


def test_an_abandoned_load_does_not_keep_the_file(duckdb_case: WarehouseCase) -> None:
    """A handle that is closed while a load waits for batches gives the file back."""
    with closing(duckdb_case.open()) as warehouse:
        going = warehouse.begin(request(duckdb_case, "a"), Slice())
        assert going is not None
        going.write(batch(COLUMNS, TWO))
        going.abort()
    load(duckdb_case, "b", TWO, 0)
    assert rows_of(duckdb_case) == TWO
