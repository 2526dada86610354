"""The lab's data: what is loaded, and how the source changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from datakit_lab.data import STEPS, load, load_airline, load_nasty, load_tpch, mutate
from datakit_lab.sqlserver.tsql import DuckBackend

AIRLINE = "AirlineOps"


@pytest.fixture
def backend() -> Iterator[DuckBackend]:
    with DuckBackend() as server:
        yield server


def one(backend: DuckBackend, sql: str, database: str = AIRLINE) -> object:
    return backend.run(sql, database)[0][0]


def test_january_to_november_then_december_make_the_whole_year(backend: DuckBackend) -> None:
    load_airline(backend)
    before = one(backend, "SELECT MAX(ModifiedAt) FROM ops.Flights")
    assert one(backend, "SELECT COUNT(*) FROM ops.Flights") == 308_641

    mutate(backend, "december")

    assert one(backend, "SELECT COUNT(*) FROM ops.Flights") == 336_776
    assert one(backend, "SELECT MAX(FlightID) FROM ops.Flights") == 336_776
    assert one(backend, "SELECT MAX(ModifiedAt) FROM ops.Flights") > before  # type: ignore[operator]
    assert one(backend, "SELECT COUNT(*) FROM ops.Weather") == 26_115


def test_the_data_is_real_with_its_nulls_and_its_duplicates(backend: DuckBackend) -> None:
    load_airline(backend, months=range(1, 13))

    assert one(backend, "SELECT COUNT(*) FROM ops.Flights WHERE DepTime IS NULL") == 8_255
    assert (
        one(
            backend,
            "SELECT COUNT(*) FROM (SELECT Origin, LocalDate, LocalHour FROM ops.Weather "
            "GROUP BY Origin, LocalDate, LocalHour HAVING COUNT(*) > 1) AS d",
        )
        == 3
    )
    assert backend.run("SELECT Name FROM ops.Airlines WHERE Carrier = 'UA'", AIRLINE) == [("United Air Lines Inc.",)]


def test_each_step_of_the_sources_life_moves_a_cursor(backend: DuckBackend) -> None:
    load_airline(backend, months=[11])
    for step in STEPS:
        flights = one(backend, "SELECT MAX(ModifiedAt) FROM ops.Flights")
        planes = one(backend, "SELECT MAX(RowVersion) FROM ops.Planes")

        assert len(mutate(backend, step)) == 1

        table, column, old = (
            ("Planes", "RowVersion", planes) if step == "retirements" else ("Flights", "ModifiedAt", flights)
        )
        assert one(backend, f"SELECT MAX({column}) FROM ops.{table}") > old, step  # type: ignore[operator]
    assert (
        one(
            backend,
            "SELECT COUNT(*) FROM sys.columns WHERE object_id = OBJECT_ID('ops.Flights') "
            "AND name = 'CancellationReason'",
        )
        == 1
    )


def test_new_rows_continue_the_identity(backend: DuckBackend) -> None:
    load_airline(backend, months=[1])
    count = one(backend, "SELECT COUNT(*) FROM ops.Weather")

    backend.run(
        "INSERT ops.Weather (Origin, TimeHour, LocalDate, LocalHour) VALUES ('JFK', '2014-01-01', '2013-12-31', 19)",
        AIRLINE,
    )

    assert one(backend, "SELECT MAX(ObservationID) FROM ops.Weather") == count + 1  # type: ignore[operator]


@pytest.mark.parametrize(("wrong", "message"), [("load", "no data set 'nothing'"), ("mutate", "no step 'nothing'")])
def test_an_unknown_name_is_refused_with_the_known_ones(backend: DuckBackend, wrong: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        {"load": load, "mutate": mutate}[wrong](backend, "nothing")  # type: ignore[operator]


def test_loading_twice_is_refused(backend: DuckBackend) -> None:
    load_airline(backend, months=[])

    with pytest.raises(ValueError, match="already exists"):
        load(backend, "airline")


def test_tpch_has_its_rows_and_its_types(backend: DuckBackend) -> None:
    load_tpch(backend, scale=0.001, tables=["lineitem", "orders"])

    assert one(backend, "SELECT COUNT(*) FROM dbo.lineitem", "Tpch") == 6_005
    described = "SELECT system_type_name FROM sys.dm_exec_describe_first_result_set(N'SELECT * FROM lineitem', NULL, 0)"
    types = [row[0] for row in backend.run(described, "Tpch")]
    assert (len(types), types[4], types[8], types[10], types[15]) == (
        16,
        "decimal(15,2)",
        "char(1)",
        "date",
        "varchar(44)",
    )
    assert one(backend, "SELECT MIN(DATALENGTH(l_shipmode)) FROM dbo.lineitem", "Tpch") == 10


def test_the_nasty_values_survive(backend: DuckBackend) -> None:
    load_nasty(backend)

    def ask(sql: str) -> list[tuple[object, ...]]:
        return backend.run(sql, "Nasty")

    assert ask(
        "SELECT CONVERT(varchar(33), MAX(DateTime2Value), 121), "
        "CONVERT(varchar(40), MAX(OffsetValue), 121) FROM dbo.AllTypes"
    ) == [("9999-12-31 23:59:59.9999999", "9999-12-31 09:59:59.9999999 -14:00")]
    assert [str(value) for value in ask("SELECT MIN(WholeDecimal), MAX(FineDecimal) FROM dbo.AllTypes")[0]] == [
        "-" + "9" * 38,
        "0." + "9" * 38,
    ]
    assert ask("SELECT Name FROM dbo.LoneSurrogates WHERE ID IN (2, 4, 5) ORDER BY ID") == [
        (b"\x3d\xd8",),
        (b"",),
        (None,),
    ]
    assert ask("SELECT COUNT(*) FROM sys.columns WHERE object_id = OBJECT_ID('dbo.Wide')") == [(1024,)]
    assert ask("SELECT COUNT(*) FROM dbo.NoRows") == [(0,)]
    assert ask(
        "SELECT GeographyValue.ToString(), CAST(HierarchyValue AS varbinary(8)) FROM dbo.AllTypes WHERE ID = 3"
    ) == [("POINT (-122.34 47.65)", b"\x58")]
    assert ask("SELECT MAX(LEN(name)) FROM sys.tables") == [(128,)]
