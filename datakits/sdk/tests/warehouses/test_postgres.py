"""What PostgreSQL warehouses do beyond the laws: what a replaced table keeps, foreign tables, crashes, refusals."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from datakit.errors import (
    ConfigurationError,
    ContractError,
    InvalidFile,
    InvalidKey,
    LoadInProgress,
    LoginRefused,
    RowsLost,
    SchemaChangeRefused,
    SecretUnavailable,
    TicketMissing,
    UnknownName,
    UnsupportedType,
    ValueRefused,
    WarehouseUnavailable,
)
from datakit.model.load import ReadPlan, Slice
from datakit.model.manifest import LoadMode
from datakit.testing import WarehouseCase
from datakit.testing._warehouse_case import COLUMNS, DATASET, batch, column, request, rows_of, run, stage
from datakit.warehouses import open_warehouse
from datakit.warehouses._postgres.warehouse import PostgresWarehouse
from psycopg import sql

if TYPE_CHECKING:
    from datakit_lab.testing import LabDatabase, LabSecrets

TWO = [(1, "one"), (2, "two")]


@pytest.fixture
def person(lab_database: LabDatabase) -> Iterator[psycopg.Connection[Any]]:
    """A session of the role that owns everything, in autocommit."""
    with psycopg.connect(lab_database.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def analyst(lab_database: LabDatabase, postgres_case: WarehouseCase) -> Iterator[str]:
    """Another role."""
    name = f"{lab_database.role}_analyst"
    lab_database.server.create_role(name, "x")
    yield name
    with lab_database.server.connect(lab_database.name) as superuser:
        superuser.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    lab_database.server.drop_role(name)


def one(connection: psycopg.Connection[Any], query: str, *parameters: object) -> Any:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def load(case: WarehouseCase, run_id: str, rows: list[Any], base: int, **more: Any) -> None:
    with closing(case.open()) as warehouse:
        run(warehouse, request(case, run_id, base=base, **more), rows)


def test_a_replaced_table_keeps_its_grants_comments_and_options_and_gets_no_others(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any], analyst: str
) -> None:
    load(postgres_case, "a", TWO, 0, key=["id"])
    who = sql.Identifier(analyst)
    person.execute(sql.SQL("GRANT SELECT ON bronze.things TO {} WITH GRANT OPTION").format(who))
    person.execute(sql.SQL("GRANT UPDATE (name) ON bronze.things TO {}").format(who))
    person.execute("COMMENT ON TABLE bronze.things IS 'it''s ours'")
    person.execute("COMMENT ON COLUMN bronze.things.name IS 'what it is called'")
    person.execute("ALTER TABLE bronze.things SET (fillfactor = 70)")
    person.execute(sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA bronze GRANT ALL ON TABLES TO PUBLIC"))
    before = one(person, "SELECT 'bronze.things'::regclass::oid::bigint")
    carried = (
        "SELECT (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a) "
        "|| (SELECT attacl::text FROM pg_attribute WHERE attrelid = c.oid AND attname = 'name') "
        "|| ARRAY[reloptions::text, obj_description(c.oid), col_description(c.oid, 2)] "
        "FROM pg_class c WHERE oid = 'bronze.things'::regclass"
    )
    expected = one(person, carried)
    load(postgres_case, "b", [(3, "three")], 1, key=["id"])
    assert one(person, "SELECT 'bronze.things'::regclass::oid::bigint") != before, "the table was swapped"
    assert one(person, carried) == expected
    assert rows_of(postgres_case) == [(3, "three")]
    assert one(person, "SELECT relpersistence FROM pg_class WHERE oid = 'bronze.things'::regclass") == "p"


@pytest.mark.parametrize(
    "attachment",
    [
        "CREATE VIEW bronze.v AS SELECT id, name FROM bronze.things",
        "CREATE MATERIALIZED VIEW bronze.v AS SELECT id FROM bronze.things",
        "CREATE INDEX i ON bronze.things (name)",
        "CREATE TABLE bronze.child (id bigint REFERENCES bronze.things)",
        "ALTER TABLE bronze.things ADD CHECK (id > 0)",
        "ALTER TABLE bronze.things ALTER name SET DEFAULT 'x'",
        "CREATE STATISTICS bronze.s ON id, name FROM bronze.things",
        "CREATE PUBLICATION p FOR TABLE bronze.things",
        "ALTER TABLE bronze.things ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE bronze.things REPLICA IDENTITY FULL",
        "CREATE FUNCTION bronze.f(bronze.things) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        (
            "CREATE TRIGGER t BEFORE UPDATE ON bronze.things FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
    ],
)
def test_a_table_that_something_depends_on_is_filled_anew_instead_of_swapped(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any], attachment: str
) -> None:
    load(postgres_case, "a", TWO, 0, key=["id"])
    before = one(person, "SELECT 'bronze.things'::regclass::oid::bigint")
    person.execute(attachment)
    columns = (*COLUMNS, column("born", "int32"))
    load(postgres_case, "b", [(3, "three", 3)], 1, key=["id"], columns=columns)
    assert one(person, "SELECT 'bronze.things'::regclass::oid::bigint") == before, "the table stayed"
    assert rows_of(postgres_case, "id", "name", "born", "_dk_run_id") == [(3, "three", 3, "b")]


@pytest.mark.parametrize("nullable", [False, True])
def test_a_table_that_stays_gets_the_key_of_the_load_and_loses_its_former_one(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any], nullable: bool
) -> None:
    columns = (column("id", "int64", nullable=nullable), column("part", "int64", nullable=nullable))
    load(postgres_case, "a", [(1, 7), (2, 7)], 0, key=["id"], columns=columns)
    person.execute("CREATE VIEW bronze.v AS SELECT id, part FROM bronze.things")
    person.execute("CREATE INDEX ours ON bronze.things (id, part)")
    before = one(person, "SELECT 'bronze.things'::regclass::oid::bigint")
    load(postgres_case, "b", [(1, 7), (1, 8)], 1, key=["id", "part"], columns=columns)
    load(postgres_case, "c", [(1, 8), (1, 9)], 2, mode=LoadMode.MERGE, key=["id", "part"], columns=columns)
    load(postgres_case, "d", [(1, 5), (2, 6)], 3, key=["part"], columns=columns)
    load(postgres_case, "e", [(2, 5), (3, 4)], 4, mode=LoadMode.MERGE, key=["part"], columns=columns)
    assert rows_of(postgres_case, "id", "part") == [(2, 5), (2, 6), (3, 4)]
    assert one(person, "SELECT 'bronze.things'::regclass::oid::bigint") == before, "the table stayed"
    keys = "SELECT array_agg(pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = %s AND indisunique"
    (definition,) = one(person, keys, before)
    assert definition.endswith("(part)")
    assert one(person, "SELECT count(*) FROM pg_class WHERE relname = 'ours'") == 1, "an index of others stays"
    load(postgres_case, "f", [(2, None), (3, None)], 5, columns=(columns[0], column("part", "int64")))
    assert rows_of(postgres_case, "id", "part") == [(2, None), (3, None)]


def test_a_replacement_that_would_change_a_column_of_a_view_is_refused(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    load(postgres_case, "a", TWO, 0)
    person.execute("CREATE VIEW bronze.v AS SELECT name FROM bronze.things")
    with pytest.raises(SchemaChangeRefused, match="view"):
        load(postgres_case, "b", [(3, 4)], 1, columns=(COLUMNS[0], column("name", "int32")))
    assert rows_of(postgres_case) == TWO


def test_readers_of_the_old_table_are_waited_for_and_then_given_up(
    postgres_case: WarehouseCase, postgres_settings: dict[str, Any], person: psycopg.Connection[Any]
) -> None:
    load(postgres_case, "a", TWO, 0)
    with closing(open_warehouse("postgres", postgres_settings | {"lock_timeout": "100ms"}, where="test")) as warehouse:
        with person.transaction():
            assert one(person, "SELECT count(*) FROM bronze.things") == 2
            with pytest.raises(WarehouseUnavailable, match="holds the table"):
                run(warehouse, request(postgres_case, "b", base=1), [(3, "three")])
        run(warehouse, request(postgres_case, "b", base=1), [])
    assert rows_of(postgres_case) == [(3, "three")], "the retry used what was staged"


def test_a_merge_does_not_wait_for_readers(postgres_case: WarehouseCase, person: psycopg.Connection[Any]) -> None:
    load(postgres_case, "a", TWO, 0, mode=LoadMode.MERGE, key=["id"])
    with person.transaction():
        assert one(person, "SELECT count(*) FROM bronze.things") == 2
        load(postgres_case, "b", [(3, "three")], 1, mode=LoadMode.MERGE, key=["id"])
    assert rows_of(postgres_case) == [*TWO, (3, "three")]


def test_a_table_made_by_hand_without_a_key_can_be_merged_into(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    person.execute("CREATE SCHEMA bronze")
    person.execute("CREATE TABLE bronze.things (name varchar, id bigint)")
    person.execute("INSERT INTO bronze.things VALUES ('one', 1)")
    for base, name in enumerate(["uno", "eins"]):
        load(postgres_case, name, [(1, name), (2, "two")], base, mode=LoadMode.MERGE, key=["id"])
    assert rows_of(postgres_case) == [(1, "eins"), (2, "two")]
    person.execute("TRUNCATE bronze._dk_loads")
    person.execute("INSERT INTO bronze.things (id) VALUES (9)")


def test_a_table_made_by_hand_whose_key_is_not_unique_is_refused(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    person.execute("CREATE SCHEMA bronze")
    person.execute("CREATE TABLE bronze.things AS SELECT 7::bigint AS id, 'x' AS name FROM generate_series(1, 2)")
    with pytest.raises(InvalidKey, match=r"the table has 2 rows of one key \(id\): id = '7'"):
        load(postgres_case, "a", TWO, 0, mode=LoadMode.MERGE, key=["id"])


def test_a_partitioned_table_can_be_loaded(postgres_case: WarehouseCase, person: psycopg.Connection[Any]) -> None:
    person.execute("CREATE SCHEMA bronze")
    person.execute("CREATE TABLE bronze.things (id bigint PRIMARY KEY, name text) PARTITION BY RANGE (id)")
    person.execute("CREATE TABLE bronze.low PARTITION OF bronze.things FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
    load(postgres_case, "a", TWO, 0, mode=LoadMode.MERGE, key=["id"])
    load(postgres_case, "b", [(3, "three")], 1, key=["id"])
    assert rows_of(postgres_case) == [(3, "three")]


def test_a_column_of_a_foreign_type_is_named(postgres_case: WarehouseCase, person: psycopg.Connection[Any]) -> None:
    person.execute("CREATE SCHEMA bronze")
    person.execute("CREATE TABLE bronze.things (id bigint, place point)")
    with (
        closing(postgres_case.open()) as warehouse,
        pytest.raises(UnsupportedType, match=r"'place' has the type point"),
    ):
        warehouse.inspect(postgres_case.table)


def test_a_view_of_the_tables_name_is_refused(postgres_case: WarehouseCase, person: psycopg.Connection[Any]) -> None:
    person.execute("CREATE SCHEMA bronze")
    person.execute("CREATE VIEW bronze.things AS SELECT 1 AS id")
    with pytest.raises(ContractError, match="view"):
        load(postgres_case, "a", TWO, 0)


def test_a_name_that_postgres_would_cut_is_refused(postgres_case: WarehouseCase) -> None:
    long = "ü" * 32
    with pytest.raises(ContractError, match="64 bytes"):
        load(postgres_case, "a", [(1, None)], 0, columns=(COLUMNS[0], column(long, "string")))


LARGEST_ROW = (1 << 30) - (1 << 15)


def documents(*sizes: int) -> pa.RecordBatch:
    """Rows with documents of these sizes, all zeros: memory that nobody touches is not there."""
    offsets = pa.array([0, *accumulate(sizes)], pa.int32()).buffers()[1]
    texts = pa.BinaryArray.from_buffers(pa.binary(), len(sizes), [None, offsets, pa.py_buffer(bytearray(sum(sizes)))])
    names = pa.array(["x"] * len(sizes))
    return pa.RecordBatch.from_arrays([pa.array(range(len(sizes)), pa.int64()), names, texts], ["id", "name", "doc"])


def test_a_row_larger_than_postgres_holds_is_refused_with_column_and_key(postgres_case: WarehouseCase) -> None:
    wanted = request(postgres_case, "a", columns=(*COLUMNS, column("doc", "binary")), key=["id"])
    with closing(postgres_case.open()) as warehouse:
        load = warehouse.begin(wanted, Slice())
        assert load is not None
        with pytest.raises(ValueRefused, match=r"'doc'.*1,073,709,057 bytes.*1,073,709,056 are the most \(id = 1\)"):
            load.write(documents(5, LARGEST_ROW, 5))
        load.abort()
    assert rows_of(postgres_case) is None


@pytest.mark.slow
def test_the_largest_row_that_is_not_refused_arrives(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    wanted = request(postgres_case, "a", columns=(*COLUMNS, column("doc", "binary")), key=["id"])
    with closing(postgres_case.open()) as warehouse:
        load = warehouse.begin(wanted, Slice())
        assert load is not None
        load.write(documents(5, LARGEST_ROW - 1, 5))
        load.stage(3)
        warehouse.commit(wanted, None)
    assert one(person, "SELECT array_agg(length(doc) ORDER BY id) FROM bronze.things") == [5, LARGEST_ROW - 1, 5]


def test_a_schema_whose_name_postgres_would_cut_is_refused_and_not_made(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    table = replace(postgres_case.table, schema="s" * 64)
    with closing(postgres_case.open()) as warehouse, pytest.raises(ContractError, match="64 bytes"):
        warehouse.remember_plan("a", DATASET, table, ReadPlan(None, (Slice(),)))
    assert one(person, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'sss%%'") == 0


def test_the_key_is_that_of_the_newest_load_whatever_a_clock_says(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    load(postgres_case, "a", TWO, 0, key=["name"])
    person.execute("UPDATE bronze._dk_loads SET loaded_at = loaded_at + interval '1 hour'")  # a clock that was ahead
    load(postgres_case, "b", TWO, 1, key=["id"])
    with closing(postgres_case.open()) as warehouse:
        state = warehouse.inspect(postgres_case.table)
    assert state is not None
    assert state.key == ("id",)


def test_timeouts_of_the_role_do_not_end_the_session_that_holds_a_table(
    lab_database: LabDatabase, postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    role = sql.Identifier(lab_database.role)
    person.execute(sql.SQL("ALTER ROLE {} SET idle_session_timeout = '100ms'").format(role))
    person.execute(sql.SQL("ALTER ROLE {} SET idle_in_transaction_session_timeout = '100ms'").format(role))
    with (
        closing(postgres_case.open()) as first,
        closing(postgres_case.open()) as second,
        first.exclusive(DATASET, postgres_case.table),
    ):
        one(person, "SELECT pg_sleep(1)")
        with pytest.raises(LoadInProgress), second.exclusive(DATASET, postgres_case.table):
            pass


def test_a_role_that_may_not_create_schemas_uses_one_that_is_there(
    lab_database: LabDatabase,
    lab_secrets: LabSecrets,
    postgres_case: WarehouseCase,
    postgres_settings: dict[str, Any],
    person: psycopg.Connection[Any],
    analyst: str,
) -> None:
    lab_secrets.publish("analyst/password", "x")
    settings = postgres_settings | {"user": analyst, "password": "analyst/password"}
    case = replace(postgres_case, open=lambda: open_warehouse("postgres", settings, where="test"))
    with pytest.raises(LoginRefused, match="permission denied"):
        load(case, "a", TWO, 0)
    person.execute(sql.SQL("CREATE SCHEMA bronze AUTHORIZATION {}").format(sql.Identifier(lab_database.role)))
    person.execute(sql.SQL("GRANT CREATE, USAGE ON SCHEMA bronze TO {}").format(sql.Identifier(analyst)))
    with closing(case.open()) as warehouse:
        assert run(warehouse, request(case, "a"), TWO).rows == 2


def test_a_crash_of_the_server_that_empties_staging_is_noticed(
    lab_database: LabDatabase, postgres_case: WarehouseCase
) -> None:
    load(postgres_case, "a", TWO, 0, mode=LoadMode.MERGE, key=["id"])
    wanted = request(postgres_case, "b", LoadMode.MERGE, key=["id"], base=1, slices=2)
    first, second = Slice(1, 2), Slice(2, 2)
    with closing(postgres_case.open()) as warehouse:
        stage(warehouse, wanted, [(3, "three")], first)
        lab_database.server.kill()
        lab_database.server.start()
        # the mark of slice 1 survived the crash, its rows did not
        assert stage(warehouse, wanted, [(4, "four")], second)
        with pytest.raises(RowsLost, match="slice 1"):
            warehouse.commit(wanted, None)
        assert stage(warehouse, wanted, [(3, "three")], first)
        assert warehouse.commit(wanted, None).rows == 2
    assert rows_of(postgres_case) == [*TWO[:1], (2, "two"), (3, "three"), (4, "four")]


def test_a_run_that_begins_right_after_a_commit_keeps_what_it_staged(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = PostgresWarehouse._sweep
    again, new = (request(postgres_case, name, LoadMode.APPEND, base=1) for name in ("again", "new"))

    def others_first(self: PostgresWarehouse, *arguments: Any) -> None:
        monkeypatch.setattr(PostgresWarehouse, "_sweep", sweep)
        with closing(postgres_case.open()) as other:
            other.discard("again", DATASET, postgres_case.table)  # its plan was made from an older base
            for wanted in (again, new):
                other.remember_plan(wanted.run_id, DATASET, wanted.table, ReadPlan(None, (Slice(),), base_sequence=1))
                assert stage(other, wanted, [(3, wanted.run_id)])
        sweep(self, *arguments)

    with closing(postgres_case.open()) as warehouse:
        for name in ("again", "lost"):
            stage(warehouse, request(postgres_case, name, LoadMode.APPEND), TWO)
        monkeypatch.setattr(PostgresWarehouse, "_sweep", others_first)
        run(warehouse, request(postgres_case, "a", LoadMode.APPEND), TWO)
        assert one(person, "SELECT array_agg(run_id ORDER BY run_id) FROM bronze._dk_runs") == ["again", "new"]
        assert (
            one(person, "SELECT count(*) FROM pg_class WHERE relname LIKE '\\_dk\\_staging%%' AND relkind = 'r'") == 2
        )
        for wanted in (again, new):
            assert not stage(warehouse, wanted, []), f"{wanted.run_id} is staged"
        assert warehouse.commit(new, None).rows == 1
    assert rows_of(postgres_case) == [*TWO, (3, "new")]


def test_rows_that_vanish_from_staging_are_noticed_at_commit(
    postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    for base, mode in enumerate([LoadMode.REPLACE, LoadMode.MERGE, LoadMode.APPEND]):
        wanted = request(postgres_case, f"run-{mode}", mode, key=["id"], base=base)
        with closing(postgres_case.open()) as warehouse:
            stage(warehouse, wanted, [(10 * base + 1, "x"), (10 * base + 2, "y")])
            name = one(person, "SELECT staging FROM bronze._dk_runs")
            person.execute(sql.SQL("DELETE FROM {} WHERE name = 'x'").format(sql.Identifier("bronze", name)))
            with pytest.raises(RowsLost, match="2 rows were staged, and staging holds 1"):
                warehouse.commit(wanted, None)
            assert stage(warehouse, wanted, [(10 * base + 1, "x"), (10 * base + 2, "y")])
            if mode is LoadMode.APPEND:
                with pytest.raises(InvalidKey):  # the key of the merge forbids what it already has
                    run(warehouse, request(postgres_case, "again", mode, key=["id"], base=base), [(1, "x")])
            assert warehouse.commit(wanted, None).rows == 2


def test_a_server_that_dies_in_the_middle_of_a_slice_leaves_nothing_of_it(
    lab_database: LabDatabase, postgres_case: WarehouseCase
) -> None:
    wanted = request(postgres_case, "a")
    with closing(postgres_case.open()) as warehouse:
        going = warehouse.begin(wanted, Slice())
        assert going is not None
        going.write(batch(COLUMNS, TWO))
        lab_database.server.kill()
        large = batch(COLUMNS, [(1, "x" * 1000)] * 10_000)
        with pytest.raises(WarehouseUnavailable):  # noqa: PT012  # the first writes only fill buffers
            for _ in range(100):
                going.write(large)
        going.abort()
        going.abort()
        with pytest.raises(WarehouseUnavailable, match="cannot be reached"):
            warehouse.find_load("a", DATASET, postgres_case.table)
        lab_database.server.start()
        run(warehouse, wanted, TWO)
    assert rows_of(postgres_case) == TWO


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("53100", WarehouseUnavailable, "disk is full"),
        ("53200", WarehouseUnavailable, "out of a resource"),
        ("40001", LoadInProgress, "another load"),
        ("57P01", WarehouseUnavailable, "broke"),
        ("25006", WarehouseUnavailable, "takes no writes"),
        ("42501", LoginRefused, "may not do this"),
        ("P0001", ContractError, "P0001"),
    ],
)
def test_what_the_server_says_during_a_commit_becomes_an_error_of_ours_and_changes_nothing(
    lab_database: LabDatabase, postgres_case: WarehouseCase, state: str, kind: type[Exception], words: str
) -> None:
    load(postgres_case, "a", TWO, 0)
    wanted = request(postgres_case, "b", base=1)
    with closing(postgres_case.open()) as warehouse:
        stage(warehouse, wanted, [(3, "three")])
        with lab_database.server.connect(lab_database.name) as superuser:  # a real server with a real SQLSTATE
            superuser.execute(
                "CREATE FUNCTION public.fail() RETURNS event_trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'; END $$"
            )
            superuser.execute("CREATE EVENT TRIGGER fail ON sql_drop EXECUTE FUNCTION public.fail()")
            with pytest.raises(kind, match=words):
                warehouse.commit(wanted, None)
            assert rows_of(postgres_case) == TWO
            superuser.execute("DROP EVENT TRIGGER fail")
        assert warehouse.commit(wanted, None).rows == 1
    assert rows_of(postgres_case) == [(3, "three")]


def test_who_holds_the_table_is_named(postgres_case: WarehouseCase) -> None:
    with (
        closing(postgres_case.open()) as first,
        closing(postgres_case.open()) as second,
        first.exclusive(DATASET, postgres_case.table),
        pytest.raises(LoadInProgress) as refused,
        second.exclusive(DATASET, postgres_case.table),
    ):
        pass
    assert f"datakit on {socket.gethostname()[:40]} pid {os.getpid()}" in str(refused.value)


def test_a_table_that_another_role_holds_is_said_to_be_held_though_the_server_hides_who(
    lab_database: LabDatabase, postgres_case: WarehouseCase
) -> None:
    table = postgres_case.table
    name = f'datakit table ["{table.schema}", "{table.table}"]'
    with lab_database.server.connect(lab_database.name) as superuser, closing(postgres_case.open()) as ours:
        superuser.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
        with pytest.raises(LoadInProgress) as refused, ours.exclusive(DATASET, table):
            pass
    assert "since" not in (refused.value.cause or "")


def test_a_table_is_free_again_when_the_session_that_held_it_is_ended(
    lab_database: LabDatabase, postgres_case: WarehouseCase
) -> None:
    with (
        closing(postgres_case.open()) as first,
        closing(postgres_case.open()) as second,
        first.exclusive(DATASET, postgres_case.table),
    ):
        with lab_database.server.connect(lab_database.name) as superuser:
            superuser.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks "
                "WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = %s)",
                (lab_database.name,),
            )
        with second.exclusive(DATASET, postgres_case.table):
            pass


def test_each_refusal_of_a_connection_says_what_is_wrong(
    lab_database: LabDatabase, lab_secrets: LabSecrets, postgres_settings: dict[str, Any], unused_port: int
) -> None:
    lab_secrets.publish("wrong/password", "canary-5f2")
    refusals: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"password": "wrong/password"}, LoginRefused, "password authentication failed"),
        ({"password": "missing/password"}, SecretUnavailable, "missing/password"),
        ({"user": "nobody_here"}, LoginRefused, "nobody_here"),
        ({"database": "not here"}, UnknownName, "not here"),
        ({"port": unused_port}, WarehouseUnavailable, str(unused_port)),
        ({"host": "no-such-host.invalid"}, WarehouseUnavailable, "no-such-host.invalid"),
        ({"sslmode": "verify-full"}, ConfigurationError, "sslmode"),
    ]
    for change, kind, word in refusals:
        with closing(open_warehouse("postgres", postgres_settings | change, where="test")) as warehouse:
            with pytest.raises(kind, match=word) as refused:
                warehouse.last_load(DATASET, request_table())
            assert "canary" not in str(refused.value)


def request_table() -> Any:
    from datakit.model.load import TableName

    return TableName("bronze", "things")


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that is bound and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_rotated_password_works_at_the_next_connection(
    lab_database: LabDatabase, lab_secrets: LabSecrets, postgres_case: WarehouseCase, person: psycopg.Connection[Any]
) -> None:
    with closing(postgres_case.open()) as warehouse:
        run(warehouse, request(postgres_case, "a"), TWO)
        person.execute(sql.SQL("ALTER ROLE {} PASSWORD 'next'").format(sql.Identifier(lab_database.role)))
        with pytest.raises(LoginRefused), warehouse.exclusive(DATASET, postgres_case.table):
            pass
        lab_secrets.publish("warehouse/password", "next")
        run(warehouse, request(postgres_case, "b", base=1), TWO)


def test_the_environment_variable_of_a_password_is_not_looked_at(
    lab_database: LabDatabase, postgres_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", lab_database.password)
    settings = {name: value for name, value in postgres_settings.items() if name != "password"}
    with closing(open_warehouse("postgres", settings, where="test")) as warehouse, pytest.raises(LoginRefused):
        warehouse.last_load(DATASET, request_table())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hots": "x"}, "hots"),
        ({"port": 0}, "port"),
        ({"gssapi": True}, "either password or gssapi"),
        ({"password": "plain text"}, "password"),
        ({"sslmode": "yes"}, "sslmode"),
    ],
)
def test_a_wrong_section_of_the_environment_is_refused(
    change: dict[str, Any], word: str, postgres_settings: dict[str, Any]
) -> None:
    with pytest.raises(InvalidFile, match=word):
        open_warehouse("postgres", postgres_settings | change, where="local.yaml: warehouses.finance")


def test_a_ticket_opens_the_warehouse_and_none_does_not(
    lab_database: LabDatabase, lab_tickets: Any, postgres_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "svc-datakit"
    lab_database.server.create_role(role)
    try:
        with lab_database.server.connect(lab_database.name) as superuser:
            superuser.execute(f'GRANT CREATE ON DATABASE {lab_database.name} TO "svc-datakit"')
        settings = {**postgres_settings, "user": role, "gssapi": True, "principal": lab_tickets.principal}
        del settings["password"]
        case = WarehouseCase(lambda: open_warehouse("postgres", settings, where="test"), lambda table: None, "bronze")
        load(case, "a", TWO, 0)
        with lab_database.server.connect(lab_database.name) as superuser:
            assert one(superuser, "SELECT count(*) FROM bronze.things") == 2
        monkeypatch.setenv("KRB5CCNAME", f"{lab_tickets.ccache}-none")
        with pytest.raises(TicketMissing):
            load(case, "b", TWO, 1)
    finally:
        with lab_database.server.connect(lab_database.name) as superuser:
            superuser.execute('DROP OWNED BY "svc-datakit" CASCADE')
        lab_database.server.drop_role(role)
