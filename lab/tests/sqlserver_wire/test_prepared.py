"""Results encoded once: the same bytes as live ones, and exactly the rows of a slice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from datakit_lab.sqlserver.backend import Parameter, ResultColumn, SqlType
from datakit_lab.sqlserver.child import SqlServerProcess
from datakit_lab.sqlserver.encoding import RowEncoder
from datakit_lab.sqlserver.prepared import PreparedResult
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import FACTORY, Clients, rows_until_the_connection_drops

# duplicates, gaps and negative keys
KEYS = [-5, -5, 0, 1, 1, 1, 4, 7, 7, 9, 100]
COLUMNS = (ResultColumn("key ]x", SqlType("bigint"), nullable=False), ResultColumn("text", SqlType("nvarchar", 10)))


def table(keys: list[int]) -> list[pa.RecordBatch]:
    texts = pa.array([None if key % 3 == 0 else f"é{key}" for key in keys])
    whole = pa.RecordBatch.from_arrays([pa.array(keys, pa.int64()), texts], names=["key ]x", "text"])
    return [whole.slice(0, 4), whole.slice(4)]


@pytest.fixture(scope="module")
def server() -> Iterator[SqlServerProcess]:
    with SqlServerProcess(FACTORY.replace(":backend", ":prepared")) as running:
        yield running


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("", KEYS),
        ("WHERE [key ]]x] >= 1 AND [key ]]x] < 7", [1, 1, 1, 4]),
        ("WHERE [key ]]x] > 1 AND [key ]]x] <= 7", [4, 7, 7]),
        ("WHERE [key ]]x] = -5", [-5, -5]),
        ("WHERE [key ]]x] BETWEEN 4 AND 9", [4, 7, 7, 9]),
        ("WHERE ([key ]]x] >= @low) AND [key ]]x] < @High", [0, 1, 1, 1, 4]),
        ("WHERE [key ]]x] > 100", []),
        ("WHERE [key ]]x] >= 9 AND [key ]]x] < 0", []),
        ("WHERE [another] < 3", KEYS),
    ],
)
def test_a_range_gives_exactly_its_rows(where: str, wanted: list[int]) -> None:
    result = PreparedResult.encode(COLUMNS, table(KEYS), slice_column="key ]x")
    parameters = [Parameter("@low", SqlType("bigint"), 0), Parameter("@high", SqlType("int"), 7)]
    rows = result.select(f"SELECT * FROM t {where}", parameters)
    expected = b"".join(
        block.data.tobytes()
        for batch in table(wanted)
        for block in RowEncoder(COLUMNS, null_bitmaps=False).blocks(batch)
    )
    found = b"".join(chunk.tobytes() for chunk in rows.chunks())
    assert len(wanted) == rows.rows
    assert expected == found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-20, 20), max_size=40).map(sorted), st.integers(-22, 22), st.integers(-22, 22))
def test_slices_that_touch_cover_every_row_once(keys: list[int], first: int, second: int) -> None:
    low, high = sorted((first, second))
    result = PreparedResult.encode(COLUMNS, table(keys), slice_column="key ]x")
    name = "[key ]]x]"
    parts = [f"{name} < {low}", f"{name} >= {low} AND {name} < {high}", f"{name} >= {high}"]
    found = b"".join(chunk.tobytes() for part in parts for chunk in result.select(f"WHERE {part}").chunks())
    assert result.data.tobytes() == found


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="not sorted"):
        PreparedResult.encode(COLUMNS, table([3, 1]), slice_column="key ]x")


def test_a_mapped_file_serves_the_same_bytes(tmp_path: Path) -> None:
    in_memory = PreparedResult.encode(COLUMNS, table(KEYS))
    mapped = PreparedResult.encode(COLUMNS, table(KEYS), folder=tmp_path)
    assert in_memory.data.tobytes() == mapped.data.tobytes()
    assert [] == list(tmp_path.iterdir())


def test_a_bound_that_was_not_sent_is_an_error_not_the_whole_table() -> None:
    result = PreparedResult.encode(COLUMNS, table(KEYS), slice_column="key ]x")
    with pytest.raises(ValueError, match="@low"):
        result.select("WHERE [key ]]x] >= @low")


def test_a_driver_reads_a_slice_and_its_count_from_one_batch(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, text FROM big WHERE [id] >= 1000 AND [id] < 2000;\nSELECT ROWCOUNT_BIG() AS [rows];")
        rows = cursor.fetchall()
        assert cursor.nextset()
        assert 3000 == cursor.fetchone()[0]
    assert [(i // 3, f"row {i}") for i in range(3000, 6000)] == [tuple(row) for row in rows]


def test_a_driver_reads_a_slice_by_parameters(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, text FROM big WHERE [id] >= ? AND [id] < ?", (66_000, 70_000))
        read = cursor.arrow()
    assert [i // 3 for i in range(198_000, 200_000)] == read.column("id").to_pylist()


def test_the_whole_result_arrives_and_a_drop_counts_its_rows(server: SqlServerProcess, clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, text  FROM big;")
        assert 200_000 == cursor.arrow().num_rows
    server.fault("drop after 777 matching FROM big")
    with clients.freetds() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, text FROM big")
        read = sum(1 for _ in rows_until_the_connection_drops(cursor))
    assert 777 == read
