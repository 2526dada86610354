"""The laws that every source keeps, as a suite that a company runs on its own adapter::

    @pytest.mark.parametrize("law", source_conformance(), ids=lambda law: law.__name__)
    def test_my_source(law, my_case):
        law(my_case)

A law is a function of one :class:`SourceCase`, opens the source itself, and raises AssertionError where it is broken.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import DatakitError, InvalidCursor, SourceUnavailable
from datakit.model.contract import Contract
from datakit.model.load import ReadPlan, Slice, Window
from datakit.model.manifest import Dataset, LoadMode
from datakit.sources import RowStream, Source
from datakit.sources.notation import from_ordinal, lag_ordinal, to_ordinal

__all__ = ["SourceCase", "source_conformance"]

_PATIENCE: Final = 60.0
"""Seconds after which a thread that should have ended is called stuck."""


@dataclass(frozen=True, slots=True)
class SourceCase:
    """What the suite reads.

    :ivar open: opens the source; called once in each law.
    :ivar dataset: at least 100 rows, so that there is something to cut. With a ``key``, or none declared; a ``cursor``
        and ``slices`` add their laws.
    :ivar rows: exactly what the source holds, in the contract's columns and types.
    :ivar name: the contract's name.
    """

    open: Callable[[], Source]
    dataset: Dataset
    rows: pa.Table
    name: str = "test.rows"


Law = Callable[[SourceCase], None]


def source_conformance() -> tuple[Law, ...]:
    """Return the laws, to parametrize a test with."""
    return (
        describes_the_same_contract_twice,
        streams_have_the_schema_of_the_contract,
        replace_reads_every_row_whatever_was_read_before,
        the_count_of_the_server_is_the_count_of_the_rows,
        a_contract_with_fewer_columns_reads_only_them,
        slices_cover_every_row_exactly_once,
        merge_reads_everything_first_and_the_last_rows_again,
        append_continues_after_the_last_row,
        a_window_holds_what_its_bounds_say,
        a_cursor_that_runs_backwards_is_refused,
        what_does_not_exist_is_an_error_of_the_tree,
        a_stream_can_be_closed_at_any_time_and_twice,
        a_stream_can_be_closed_by_another_thread,
        several_threads_read_at_once,
        a_source_can_be_closed_twice,
    )


def describes_the_same_contract_twice(case: SourceCase) -> None:
    """``describe`` is a question, not an event; its key exists and is never NULL."""
    with _opened(case) as source:
        first, second = (source.describe(case.name, case.dataset) for _ in range(2))
    _same(first, second)
    _same(case.name, first.dataset)
    _same(_types(case.rows.schema), _types(first.arrow_schema()))
    for name in first.key:
        column = first.column(name)
        _true(column is not None and not column.nullable, f"the key column {name!r} exists and is not nullable")


def streams_have_the_schema_of_the_contract(case: SourceCase) -> None:
    """The schema is known before the first batch, and every batch has it."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        stream = source.read(case.dataset, contract, None, Slice())
        _same(contract.arrow_schema(), stream.schema)
        for batch in stream:
            _same(contract.arrow_schema(), batch.schema)
            batch.validate(full=True)
        stream.close()


def replace_reads_every_row_whatever_was_read_before(case: SourceCase) -> None:
    """``replace`` reads everything; without a cursor there is no window, with one it has no bounds."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        since = None if case.dataset.cursor is None else _middle(case, contract)
        plan = source.plan(case.dataset, contract, mode=LoadMode.REPLACE, since=since, slices=None)
        _same(case.dataset.cursor is None, plan.window is None)
        _true(plan.window is None or (plan.window.since is None and not plan.window.bounded), "no bounds")
        _same_rows(case.rows, _read(source, case, contract, plan))


def the_count_of_the_server_is_the_count_of_the_rows(case: SourceCase) -> None:
    """``server_count`` is unknown before the end, and then equals the rows, or stays unknown."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        stream = source.read(case.dataset, contract, None, Slice())
        _same(None, stream.server_count)
        rows = sum(batch.num_rows for batch in stream)
        _true(stream.server_count in {None, rows}, f"the server counts {stream.server_count}, and {rows} were read")
        stream.close()


def a_contract_with_fewer_columns_reads_only_them(case: SourceCase) -> None:
    """The contract decides about the columns, not the source."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        last = contract.columns[-1]
        narrow = Contract(dataset=contract.dataset, columns=(last,))
        _same_rows(case.rows.select([last.name]), _read_slice(source, case, narrow, None, Slice()))


def slices_cover_every_row_exactly_once(case: SourceCase) -> None:
    """Bounds touch, the outer ones are open, and no row is in two slices or in none."""
    if case.dataset.slices is None:
        return
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        for wanted in (1, 2, 7):
            plan = source.plan(case.dataset, contract, mode=LoadMode.REPLACE, since=None, slices=wanted)
            count = len(plan.slices)
            _true(1 <= count <= wanted, f"{count} slices for {wanted}")
            _same([(n, count) for n in range(1, count + 1)], [(part.index, part.count) for part in plan.slices])
            _same((None, None), (plan.slices[0].lower, plan.slices[-1].upper))
            _true(all(left.upper == right.lower for left, right in pairwise(plan.slices)), "bounds touch")
            _same_rows(case.rows, _read(source, case, contract, plan))


def merge_reads_everything_first_and_the_last_rows_again(case: SourceCase) -> None:
    """The first merge reads all; the next one begins with the last rows, because one of them may be new."""
    if case.dataset.cursor is None:
        return
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        first = source.plan(case.dataset, contract, mode=LoadMode.MERGE, since=None, slices=None)
        _true(first.window is not None and first.window.since is None, "the first window has no lower bound")
        _true(first.window is not None and not first.window.bounded, "a row updated meanwhile is read now")
        _same_rows(case.rows, _read(source, case, contract, first))
        until = _until(first)
        again = source.plan(case.dataset, contract, mode=LoadMode.MERGE, since=until, slices=None)
        _same(until, _until(again))
        _same_rows(_expected(case, contract, again.window), _read(source, case, contract, again))


def append_continues_after_the_last_row(case: SourceCase) -> None:
    """Appends read no row twice, and the next one after everything was read is empty."""
    if case.dataset.cursor is None:
        return
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        first = source.plan(case.dataset, contract, mode=LoadMode.APPEND, since=None, slices=None)
        _same_rows(_expected(case, contract, first.window), _read(source, case, contract, first))
        again = source.plan(case.dataset, contract, mode=LoadMode.APPEND, since=_until(first), slices=None)
        _same(0, _read(source, case, contract, again).num_rows)
        _same(_until(first), _until(again))


def a_window_holds_what_its_bounds_say(case: SourceCase) -> None:
    """From a value in the middle: exclusive for ``append``, inclusive and a lag earlier for ``merge``."""
    if case.dataset.cursor is None:
        return
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        middle = _middle(case, contract)
        for mode in (LoadMode.APPEND, LoadMode.MERGE):
            plan = source.plan(case.dataset, contract, mode=mode, since=middle, slices=None)
            window = plan.window
            if window is None or window.since is None:
                raise AssertionError(f"{mode} since {middle!r} has no lower bound")
            type_ = _cursor_type(contract, window.column)
            lag = lag_ordinal(case.dataset.cursor.lag, type_) if mode is LoadMode.MERGE else 0
            _same(max(0, to_ordinal(middle, type_) - lag), max(0, to_ordinal(window.since, type_)))
            _same_rows(_expected(case, contract, window), _read(source, case, contract, plan))


def a_cursor_that_runs_backwards_is_refused(case: SourceCase) -> None:
    """A source whose highest value lies below the stored one was restored: nothing is read by guess."""
    if case.dataset.cursor is None:
        return
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        plan = source.plan(case.dataset, contract, mode=LoadMode.MERGE, since=None, slices=None)
        type_ = _cursor_type(contract, case.dataset.cursor.column)
        step = 1_000 if type_.name == "date" else 1_000_000_000
        beyond = from_ordinal(to_ordinal(_until(plan), type_) + step, type_)
        for mode in (LoadMode.MERGE, LoadMode.APPEND):
            try:
                source.plan(case.dataset, contract, mode=mode, since=beyond, slices=None)
            except InvalidCursor:
                continue
            raise AssertionError(f"{mode} since {beyond!r}, above every value, was not refused")


def what_does_not_exist_is_an_error_of_the_tree(case: SourceCase) -> None:
    """An unknown table is a :class:`DatakitError` that names it and says what to do; the source lives on."""
    with _opened(case) as source:
        nowhere = Dataset(table="no_such_schema.no_such_table")
        try:
            source.describe("test.nowhere", nowhere)
        except DatakitError as error:
            _true("no_such_table" in str(error), f"the error names the table: {error}")
        else:
            raise AssertionError("a table that does not exist was described")
        source.describe(case.name, case.dataset)


def a_stream_can_be_closed_at_any_time_and_twice(case: SourceCase) -> None:
    """Before the first batch, between batches, after the last."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        for batches in (0, 1, None):
            stream = source.read(case.dataset, contract, None, Slice())
            rows = 0
            for number, batch in enumerate(stream if batches != 0 else (), 1):
                rows += batch.num_rows
                if number == batches:
                    break
            stream.close()
            stream.close()
            _true(batches is not None or rows == case.rows.num_rows, "the whole stream has every row")
        _same_rows(case.rows, _read_slice(source, case, contract, None, Slice()))


def a_stream_can_be_closed_by_another_thread(case: SourceCase) -> None:
    """The reading thread ends: with what it has, or with :class:`SourceUnavailable`, but it ends."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        stream = source.read(case.dataset, contract, None, Slice())
        started, outcome = threading.Event(), []

        def work() -> None:
            try:
                for _ in stream:
                    started.set()
                outcome.append("read")
            except SourceUnavailable:
                outcome.append("ended")
            finally:
                started.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        started.wait(_PATIENCE)
        stream.close()
        thread.join(_PATIENCE)
        _true(not thread.is_alive(), "the reading thread ended")
        _true(outcome in (["read"], ["ended"]), f"the reading thread ended in order, not with {outcome}")


def several_threads_read_at_once(case: SourceCase) -> None:
    """Every stream has its own connection."""
    with _opened(case) as source:
        contract = source.describe(case.name, case.dataset)
        tables: list[Any] = []

        def work() -> None:
            try:
                tables.append(_read_slice(source, case, contract, None, Slice()))
            except BaseException as error:  # noqa: BLE001  # it is compared below, in the thread of the test
                tables.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
        _same(len(threads), len(tables))
        for table in tables:
            _true(isinstance(table, pa.Table), f"a thread reads as if it were alone: {table}")
            _same_rows(case.rows, table)


def a_source_can_be_closed_twice(case: SourceCase) -> None:
    """And closing it closes its streams."""
    source = case.open()
    contract = source.describe(case.name, case.dataset)
    source.read(case.dataset, contract, None, Slice())
    source.close()
    source.close()


@contextmanager
def _opened(case: SourceCase) -> Iterator[Source]:
    source = case.open()
    try:
        yield source
    finally:
        source.close()


def _read(source: Source, case: SourceCase, contract: Contract, plan: ReadPlan) -> pa.Table:
    if plan.empty:
        return contract.arrow_schema().empty_table()
    return pa.concat_tables([_read_slice(source, case, contract, plan.window, part) for part in plan.slices])


def _read_slice(source: Source, case: SourceCase, contract: Contract, window: Window | None, part: Slice) -> pa.Table:
    stream: RowStream = source.read(case.dataset, contract, window, part)
    try:
        table = pa.Table.from_batches(list(stream), stream.schema)
        _true(stream.server_count in {None, table.num_rows}, "the server's count is the count of the rows")
        return table
    finally:
        stream.close()


def _until(plan: ReadPlan) -> str:
    if plan.window is None or plan.window.until is None:
        raise AssertionError("a plan with a cursor has a window with an upper bound")
    return plan.window.until


def _cursor_type(contract: Contract, name: str) -> Any:
    column = contract.column(name)
    if column is None:
        raise AssertionError(f"the contract has the cursor column {name!r}")
    return column.type


def _ordinals(case: SourceCase, contract: Contract, name: str) -> list[int]:
    """Return the cursor's values as ordinals, by way of their text."""
    type_ = _cursor_type(contract, name)
    values = case.rows[name]
    if pa.types.is_binary(values.type):
        return [int.from_bytes(value, "big") for value in values.to_pylist()]
    texts = pc.strftime(values, "%Y-%m-%dT%H:%M:%S").to_pylist() if pa.types.is_timestamp(values.type) else None
    return [to_ordinal(text, type_) for text in texts or map(str, values.to_pylist())]


def _middle(case: SourceCase, contract: Contract) -> str:
    if case.dataset.cursor is None:
        raise AssertionError("called only for a dataset with a cursor")
    name = case.dataset.cursor.column
    ordinals = sorted(_ordinals(case, contract, name))
    return from_ordinal(ordinals[len(ordinals) // 2], _cursor_type(contract, name))


def _expected(case: SourceCase, contract: Contract, window: Window | None) -> pa.Table:
    if window is None:
        return case.rows
    type_ = _cursor_type(contract, window.column)
    low = None if window.since is None else to_ordinal(window.since, type_)
    high = None if window.until is None else to_ordinal(window.until, type_)
    keep = [
        (low is None or ordinal > low or (window.since_inclusive and ordinal == low))
        and (high is None or not window.bounded or ordinal <= high)
        for ordinal in _ordinals(case, contract, window.column)
    ]
    return case.rows.filter(pa.array(keep, pa.bool_()))


def _types(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


def _same(expected: object, actual: object) -> None:
    if expected != actual:
        raise AssertionError(f"expected {expected!r}, and got {actual!r}")


def _true(holds: bool, law: str) -> None:
    if not holds:
        raise AssertionError(f"does not hold: {law}")


def _same_rows(expected: pa.Table, actual: pa.Table) -> None:
    """Compare as bags of rows: order means nothing, duplicates do."""
    _same(_types(expected.schema), _types(actual.schema))
    wanted, got = _bag(expected), _bag(actual)
    if wanted != got:
        missing, extra = list((wanted - got).elements()), list((got - wanted).elements())
        raise AssertionError(
            f"{len(missing)} rows are missing, such as {missing[:1]}; {len(extra)} are too many, such as {extra[:1]}"
        )


def _bag(table: pa.Table) -> Counter[str]:
    columns: Sequence[list[Any]] = [column.to_pylist() for column in table.columns]
    return Counter(map(repr, zip(*columns, strict=True)))
