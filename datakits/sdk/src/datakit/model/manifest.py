"""``datakit.yaml``: what a source datakit reads, and how a bronze datakit lands it."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from datakit.model._base import Model, text_like

_SEMVER = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
NAME_PATTERN: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
_DATASET_NAME = r"^[a-z][a-z0-9_]*$"
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")

KebabName = Annotated[
    str, text_like(NAME_PATTERN, "lower-case words joined by hyphens, such as airline-source", max_length=63)
]
"""Lower-case words joined by hyphens, at most 63 characters, so that it fits a DNS label and an image's name."""

DatasetName = Annotated[
    str, text_like(_DATASET_NAME, "lower-case words joined by underscores, such as flight_delays", max_length=63)
]
"""Lower-case words joined by underscores, at most 63 characters, so that it fits a PostgreSQL table's name."""

Version = Annotated[str, text_like(_SEMVER, "a SemVer version without a leading v, such as 1.2.3")]
"""SemVer without a leading v."""


def _parse_duration(value: Any) -> Any:
    if isinstance(value, str):
        if match := _DURATION.fullmatch(value.strip()):
            return timedelta(**{_UNITS[match[2]]: int(match[1])})
        raise ValueError(f"{value!r} is not a duration; write a number and ms, s, m, h or d, such as 5m")
    return value


def _write_duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{round(seconds * 1000)}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(_parse_duration, json_schema_input_type=str),
    PlainSerializer(_write_duration, return_type=str),
    Field(ge=timedelta(0)),
]
"""A length of time, written ``5m``, ``30s``, ``1h`` …"""


class LoadMode(StrEnum):
    """How rows reach the warehouse's table."""

    REPLACE = "replace"
    APPEND = "append"
    MERGE = "merge"


class Naming(StrEnum):
    """How column names are spelled in the warehouse."""

    PRESERVE = "preserve"
    SNAKE_CASE = "snake_case"


class SchemaPolicy(StrEnum):
    """What happens when the source's columns are not those of the contract or of the warehouse's table.

    ``evolve`` takes added and widened columns and fails on anything else; ``freeze`` leaves added columns out
    and fails on anything else; ``fail`` fails on any change.
    """

    EVOLVE = "evolve"
    FREEZE = "freeze"
    FAIL = "fail"


class SubMicrosecond(StrEnum):
    """What happens to the 100-nanosecond digit of ``datetime2(7)``, ``time(7)`` and ``datetimeoffset(7)``.

    ``refuse`` fails at the first value that has one, ``truncate`` drops it, ``column`` keeps it in a second column
    ``NAME_ns`` (int16, 0 to 900). The end-of-time sentinel 9999-12-31 23:59:59.9999999 lands as the last microsecond
    of that day in every case.
    """

    REFUSE = "refuse"
    TRUNCATE = "truncate"
    COLUMN = "column"


class Cursor(Model):
    """The column that an incremental load continues from."""

    column: Annotated[
        str, Field(description="An ordered, never-NULL column: a modified-at time, an identity, a rowversion")
    ]
    lag: Annotated[
        Duration,
        Field(
            description="How late a row may become visible with an older cursor value. merge reads this far back "
            "again; append stays this far behind the present. Only for time columns; rowversion needs none"
        ),
    ] = timedelta(0)


class SlicePlan(Model):
    """How a dataset is cut into slices that load in parallel."""

    column: Annotated[
        str, Field(description="A never-NULL integer or time column whose range is cut, best the leading key column")
    ]
    rows: Annotated[int, Field(gt=0, description="Rows per slice, about")] = 2_000_000


class Dataset(Model):
    """One table or query of the source system."""

    table: Annotated[
        str | None, Field(description="SCHEMA.TABLE; bracket a name that holds a dot: [my.schema].Table")
    ] = None
    sql: Annotated[str | None, Field(description="Path of a file with one SELECT, relative to datakit.yaml")] = None
    key: Annotated[tuple[str, ...], Field(description="Columns that identify a row")] = ()
    cursor: Cursor | None = None
    slices: SlicePlan | None = None
    sub_microsecond: SubMicrosecond = SubMicrosecond.REFUSE
    keep_offset: Annotated[
        bool,
        Field(description="Keep the offset of datetimeoffset columns in a second column NAME_offset (minutes, int16)"),
    ] = False

    @model_validator(mode="after")
    def _table_or_sql(self) -> Dataset:
        if (self.table is None) == (self.sql is None):
            raise ValueError("give either table or sql")
        return self


class Isolation(StrEnum):
    """The isolation level that a source is read under.

    ``auto`` is snapshot where the database allows it, else read committed.
    """

    AUTO = "auto"
    SNAPSHOT = "snapshot"
    READ_COMMITTED = "read_committed"
    REPEATABLE_READ = "repeatable_read"
    SERIALIZABLE = "serializable"
    READ_UNCOMMITTED = "read_uncommitted"


class SourceDatakit(Model):
    """``kind: source``: the extraction of one source system."""

    kind: Literal["source"]
    name: KebabName
    version: Version
    description: str | None = None
    system: Annotated[str, Field(description="The adapter that reads it: sqlserver, or one that a package registers")]
    connection: Annotated[
        KebabName, Field(description="The source system's name in environments; where it is comes from there")
    ]
    isolation: Isolation = Isolation.AUTO
    datasets: Annotated[dict[DatasetName, Dataset], Field(min_length=1)]


class IncludedSource(Model):
    """A source datakit that a bronze datakit includes."""

    datakit: KebabName
    version: Annotated[Version | None, Field(description="The exact version; none takes the one in this tree")] = None


class BronzeDatakit(Model):
    """``kind: bronze``: the standard way to land datasets. A warehouse may override each of the defaults."""

    kind: Literal["bronze"]
    name: KebabName
    version: Version
    description: str | None = None
    system: Annotated[str, Field(description="The kind of source system whose datasets it lands")]
    sources: Annotated[tuple[IncludedSource, ...], Field(min_length=1)]
    mode: LoadMode = LoadMode.REPLACE
    naming: Naming = Naming.SNAKE_CASE
    row_hash: Annotated[bool, Field(description="Add _dk_row_hash, the SHA-256 of the row's values")] = False
    schema_changes: SchemaPolicy = SchemaPolicy.EVOLVE


Datakit = Annotated[SourceDatakit | BronzeDatakit, Field(discriminator="kind")]
