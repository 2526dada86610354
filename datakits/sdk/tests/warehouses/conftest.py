"""Both warehouses, each empty, with a way to look at them that is not the adapter under test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from datakit.model.load import TableName
from datakit.testing import WarehouseCase
from datakit.warehouses import open_warehouse
from datakit.warehouses._duckdb.catalog import contract_type as duckdb_type
from datakit.warehouses._postgres.catalog import contract_type as postgres_type
from psycopg import sql

if TYPE_CHECKING:
    from datakit_lab.testing import LabDatabase, LabSecrets


def read_duckdb(path: Path, table: TableName) -> pa.Table | None:
    """Read a table through a connection of the test's own."""
    if not path.exists():
        return None
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        columns = connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = ? AND table_name = ?",
            [table.schema, table.table],
        ).fetchall()
        if not columns:
            return None
        types = [(name, duckdb_type(native)) for name, native in columns]
        schema = pa.schema([(name, type_.arrow()) for name, type_ in types if type_ is not None])
        assert len(types) == len(schema)
        quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.table))
        return connection.sql(f"SELECT * FROM {quoted}").to_arrow_table().cast(schema)


def read_postgres(dsn: str, table: TableName) -> pa.Table | None:
    """Read a table through a connection of the test's own."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        columns = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid "
            "WHERE relnamespace = to_regnamespace(quote_ident(%s)) AND relname = %s AND attnum > 0 "
            "AND NOT attisdropped ORDER BY attnum",
            (table.schema, table.table),
        ).fetchall()
        if not columns:
            return None
        names = [name for name, _ in columns]
        types = [postgres_type(native) for _, native in columns]
        rows: list[tuple[Any, ...]] = connection.execute(
            sql.SQL("SELECT * FROM {}").format(sql.Identifier(table.schema, table.table))
        ).fetchall()
        arrays = [
            pa.array([row[place] for row in rows], type_.arrow())
            for place, type_ in enumerate(types)
            if type_ is not None
        ]
        return pa.Table.from_arrays(arrays, names=names)


@pytest.fixture
def duckdb_case(tmp_path: Path) -> WarehouseCase:
    path = tmp_path / "warehouse.duckdb"
    return WarehouseCase(
        open=lambda: open_warehouse("duckdb", {"path": str(path)}, where="environment"),
        read=lambda table: read_duckdb(path, table),
        schema="bronze",
    )


@pytest.fixture
def postgres_settings(lab_database: LabDatabase, lab_secrets: LabSecrets) -> dict[str, Any]:
    lab_secrets.publish("warehouse/password", lab_database.password)
    return {
        "host": lab_database.host,
        "port": lab_database.port,
        "database": lab_database.name,
        "user": lab_database.role,
        "password": "warehouse/password",
    }


@pytest.fixture
def postgres_case(lab_database: LabDatabase, postgres_settings: dict[str, Any]) -> WarehouseCase:
    return WarehouseCase(
        open=lambda: open_warehouse("postgres", postgres_settings, where="environment"),
        read=lambda table: read_postgres(lab_database.dsn(), table),
        schema="bronze",
    )


@pytest.fixture(params=["duckdb", "postgres"])
def case(request: pytest.FixtureRequest) -> WarehouseCase:
    """Each warehouse in turn."""
    found: WarehouseCase = request.getfixturevalue(f"{request.param}_case")
    return found
