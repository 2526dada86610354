"""The life of the airline's source, the same every time: what an incremental load has to bring across.

Retired planes are marked and not deleted: a row that is gone has no cursor value, so that only a ``replace`` could
notice, while a mark (and the rowversion that moves with it) is seen by ``merge`` and ``replace`` alike.
"""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from datakit_lab.data.airline import DATABASE, FLIGHTS, WEATHER, add_months

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql import DuckBackend

_DECEMBER: Final = 12
_CORRECTED_EVERY: Final = 997
"""One flight in so many had a wrong delay: a prime, so that all carriers and days have some."""


def _december(backend: DuckBackend) -> str:
    with backend.cursor() as cursor:
        (there,) = cursor.execute(
            f'SELECT count(*) FROM "{DATABASE}".ops."Flights" WHERE month("FlightDate") = 12'
        ).fetchall()[0]
        if there:
            raise ValueError("December is there already: the step runs once")
        cursor.execute("BEGIN")
        flights, observations = add_months(cursor, [_DECEMBER])
        cursor.execute("COMMIT")
    for table in (FLIGHTS, WEATHER):
        backend.restart_identity(DATABASE, table.schema, table.name)
    return f"December arrived: {flights:,} flights and {observations:,} observations of the weather"


def _corrections(backend: DuckBackend) -> str:
    rows = backend.run(
        "UPDATE ops.Flights SET ArrDelay = ArrDelay - 1, ModifiedAt = DATEADD(millisecond, FlightID % 60000, "
        "'2014-01-02T08:00:00') "
        f"WHERE FlightID % {_CORRECTED_EVERY} = 0 AND ArrDelay IS NOT NULL; SELECT @@ROWCOUNT",
        DATABASE,
    )
    return f"{rows[0][0]:,} delays were corrected"


def _retirements(backend: DuckBackend) -> str:
    rows = backend.run(
        "UPDATE ops.Planes SET RetiredOn = '2013-12-31' WHERE YearBuilt < 1975 AND RetiredOn IS NULL; SELECT "
        "@@ROWCOUNT",
        DATABASE,
    )
    return f"{rows[0][0]:,} planes built before 1975 were retired"


def _new_column(backend: DuckBackend) -> str:
    rows = backend.run(
        "ALTER TABLE ops.Flights ADD CancellationReason nvarchar(40) NULL; "
        "UPDATE ops.Flights SET CancellationReason = CASE WHEN Carrier IN ('EV', 'MQ', '9E') "
        "THEN N'Weather: météo' ELSE N'Carrier' END, "
        "ModifiedAt = DATEADD(millisecond, FlightID % 60000, '2014-01-03T08:00:00') "
        "WHERE DepTime IS NULL AND FlightDate >= '2013-11-01'; SELECT @@ROWCOUNT",
        DATABASE,
    )
    return f"ops.Flights got the column CancellationReason, and {rows[0][0]:,} cancelled flights a reason"


STEPS: Final[dict[str, Callable[[DuckBackend], str]]] = {
    "december": _december,
    "corrections": _corrections,
    "retirements": _retirements,
    "new-column": _new_column,
}
"""The steps in the order in which they happen."""


def mutate(backend: DuckBackend, step: str | None = None) -> list[str]:
    """Let the source change by one step, or by all in order.

    :returns: a sentence for each step.
    :raises ValueError: there is no such step, or it ran before.
    :raises SqlError: the airline is not loaded, or the column is there already.
    """
    if step is not None and step not in STEPS:
        raise ValueError(f"there is no step {step!r}; there are {', '.join(STEPS)}")
    return [play(backend) for name, play in STEPS.items() if step in {None, name}]
