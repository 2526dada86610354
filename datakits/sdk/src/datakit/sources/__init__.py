"""Sources: where data comes from. Adding one is one module that implements :class:`Source` and passes
:func:`datakit.testing.source_conformance`; a package registers it as entry point ``datakit.sources``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from datakit.errors import UnknownName
from datakit.model.contract import Contract
from datakit.model.environment import SourceSystem
from datakit.model.load import ReadPlan, Slice, Window
from datakit.model.manifest import Dataset, Isolation, LoadMode

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RowStream", "Source", "open_source"]


@runtime_checkable
class RowStream(Protocol):
    """The rows of one slice, as Arrow batches. Iterate to the end, then compare ``server_count``; close always."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch: the contract's columns in order."""

    @property
    def server_count(self) -> int | None:
        """How many rows the server says it sent, known after the last batch; None where it cannot say."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield batches.

        :raises SourceUnavailable: the connection dropped; rows already yielded are no whole.
        :raises ValueRefused: a value cannot be kept without loss; names the column and the row's key.
        """

    def close(self) -> None:
        """Cancel what is still running and give the connection back. May be called twice, and by another thread."""


@runtime_checkable
class Source(Protocol):
    """One source system. Methods may be called from several threads; each :class:`RowStream` has its connection."""

    def describe(self, name: str, dataset: Dataset) -> Contract:
        """Read the live contract of a dataset from the source's catalog.

        :param name: ``CONNECTION.DATASET``, the contract's name.
        :raises UnsupportedType: a column's type has no lossless mapping; names the column.
        :raises LoginRefused: the principal may not read the object, or it does not exist.
        """

    def plan(
        self,
        dataset: Dataset,
        contract: Contract,
        *,
        mode: LoadMode,
        since: str | None,
        slices: int | None,
    ) -> ReadPlan:
        """Decide what to read.

        A dataset without a cursor has no window. With one, ``merge`` reads from ``since`` minus the lag, inclusive;
        ``append`` reads from ``since``, exclusive, up to the present minus the lag, bounded; ``replace`` reads
        everything. See :class:`~datakit.model.load.Window` for why only ``append`` is bounded.

        :param since: the stored cursor's value, None for everything.
        :param slices: how many; None lets the dataset's ``slices.rows`` decide. A dataset without ``slices`` has one.
        :raises InvalidCursor: the source's highest cursor value lies before ``since``, or a value is NULL.
        """

    def read(self, dataset: Dataset, contract: Contract, window: Window | None, slice_: Slice) -> RowStream:
        """Open one slice; the columns are those of ``contract``, which may be fewer than the source has."""

    def close(self) -> None:
        """Close every connection. May be called twice."""


def open_source(
    system: str, connection: SourceSystem, *, isolation: Isolation = Isolation.AUTO, where: str, base: str | None = None
) -> Source:
    """Open the source system.

    :param system: name of an entry point in ``datakit.sources``.
    :param where: the file and key that ``connection`` comes from, for errors.
    :param base: folder that ``sql`` paths of datasets are relative to.
    :raises UnknownName: no adapter has that name.
    :raises DriverMissing: the adapter's driver is not installed.
    :raises AccessDenied: no usable ticket, or the login was refused.
    :raises SourceUnavailable: it cannot be reached.
    """
    adapters = {point.name: point for point in entry_points(group="datakit.sources")}
    if system not in adapters:
        raise UnknownName.of("source system type", system, adapters, where=where)
    source: Source = adapters[system].load()(connection, isolation=isolation, where=where, base=base)
    return source
