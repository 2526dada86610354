"""TPC-H tables for volume, made by ``tpchgen-cli`` and typed as SQL Server would (TPC-H specification 1.4)."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from datakit_lab.data._bulk import create_database, fill
from datakit_lab.sqlserver.tsql import ColumnSpec, TableSpec

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql import DuckBackend

DATABASE: Final = "Tpch"
_COLUMNS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "region": (("r_regionkey",), "r_regionkey int, r_name char(25), r_comment varchar(152)"),
    "nation": (("n_nationkey",), "n_nationkey int, n_name char(25), n_regionkey int, n_comment varchar(152)"),
    "supplier": (
        ("s_suppkey",),
        (
            "s_suppkey bigint, s_name char(25), s_address varchar(40), s_nationkey int, s_phone char(15), "
            "s_acctbal decimal(15;2), s_comment varchar(101)"
        ),
    ),
    "customer": (
        ("c_custkey",),
        (
            "c_custkey bigint, c_name varchar(25), c_address varchar(40), c_nationkey int, c_phone char(15), "
            "c_acctbal decimal(15;2), c_mktsegment char(10), c_comment varchar(117)"
        ),
    ),
    "part": (
        ("p_partkey",),
        (
            "p_partkey bigint, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25), p_size int, "
            "p_container char(10), p_retailprice decimal(15;2), p_comment varchar(23)"
        ),
    ),
    "partsupp": (
        ("ps_partkey", "ps_suppkey"),
        "ps_partkey bigint, ps_suppkey bigint, ps_availqty int, ps_supplycost decimal(15;2), ps_comment varchar(199)",
    ),
    "orders": (
        ("o_orderkey",),
        (
            "o_orderkey bigint, o_custkey bigint, o_orderstatus char(1), o_totalprice decimal(15;2), o_orderdate date, "
            "o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79)"
        ),
    ),
    "lineitem": (
        ("l_orderkey", "l_linenumber"),
        (
            "l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity decimal(15;2), "
            "l_extendedprice decimal(15;2), l_discount decimal(15;2), l_tax decimal(15;2), l_returnflag char(1), "
            "l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), "
            "l_shipmode char(10), l_comment varchar(44)"
        ),
    ),
}
TABLES: Final = tuple(_COLUMNS)


def table_spec(name: str) -> TableSpec:
    """Return one of :data:`TABLES`, in the schema ``dbo``."""
    key, columns = _COLUMNS[name]
    specs = [part.strip().split(" ", 1) for part in columns.split(",")]
    return TableSpec(
        "dbo",
        name,
        tuple(ColumnSpec(column, type_.replace(";", ","), nullable=False) for column, type_ in specs),
        key=key,
        enforced=False,
    )


def load_tpch(backend: DuckBackend, *, scale: float = 0.01, tables: Iterable[str] = TABLES) -> list[str]:
    """Create the database ``Tpch`` and fill its tables.

    :param scale: TPC-H's scale factor; 1 has 6,001,215 line items.
    :returns: one sentence for each table.
    :raises ValueError: the database is there already, or a table is none of :data:`TABLES`.
    """
    wanted = list(tables)
    if unknown := [name for name in wanted if name not in _COLUMNS]:
        raise ValueError(f"TPC-H has no table {unknown[0]!r}; it has {', '.join(TABLES)}")
    create_database(backend, DATABASE)
    done = []
    with tempfile.TemporaryDirectory(prefix="datakit-lab-tpch-") as folder:
        generate(Path(folder), scale=scale, tables=wanted)
        for name in wanted:
            table = table_spec(name)
            backend.create_table(DATABASE, table)
            values = [
                f"rpad({column.name}, {column.type[5:-1]}, ' ')" if column.type.startswith("char(") else column.name
                for column in table.columns
            ]
            query = f"SELECT {', '.join(values)} FROM read_parquet(?)"
            with backend.cursor() as cursor:
                names = [column.name for column in table.columns]
                count = fill(cursor, DATABASE, table, names, query, [str(Path(folder) / f"{name}.parquet")])
            done.append(f"{DATABASE}.dbo.{name}: {count:,} rows")
    return done


def generate(folder: Path, *, scale: float, tables: Iterable[str]) -> None:
    """Write ``TABLE.parquet`` files with ``tpchgen-cli``.

    :raises RuntimeError: the program is not installed, or failed.
    """
    beside = Path(sys.executable).with_name("tpchgen-cli")
    program = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if program is None:
        raise RuntimeError("tpchgen-cli is not installed; it comes with datakit-lab")
    command = [
        program,
        "parquet",
        "--scale-factor",
        str(scale),
        "--tables",
        ",".join(tables),
        "--output-dir",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tpchgen-cli failed: {done.stderr.strip()}")
