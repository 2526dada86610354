"""One DuckDB file: opened at first use, one cursor per transaction, errors in our words."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb

from datakit.errors import (
    ConfigurationError,
    ContractError,
    DatakitError,
    InvalidFile,
    LoadInProgress,
    LoginRefused,
    ValueRefused,
    WarehouseUnavailable,
)
from datakit.warehouses._duckdb.catalog import limits
from datakit.warehouses._ledger import Execute

_LOG: Final = logging.getLogger("datakit.warehouses")
_POLL_SECONDS: Final = 0.2
_LOCKED: Final = re.compile(r"Conflicting lock is held in (?:(?P<program>.+?) \()?PID (?P<pid>\d+)")
"""Without a program, and with PID 0, where the process is of another container."""
_CORRUPT: Final = re.compile(r"[Cc]orrupt|Failure while replaying WAL")
_FULL: Final = re.compile(
    # DuckDB spills no more than nine tenths of the room that there is, and then cannot "offload data block"
    r"No space left on device|disk quota exceeded|File too large|Out of (disk )?space|failed to offload data block",
    re.IGNORECASE,
)
_NO_FILE: Final = re.compile(r"Is a directory|Not a directory|No such file or directory|File name too long")
_NO_MEMORY: Final = re.compile(r"could not allocate block|failed to pin block|failed to allocate", re.IGNORECASE)

_locks: dict[str, threading.Lock] = {}
_locks_guard: Final = threading.Lock()


def lock_of(name: str) -> threading.Lock:
    """Return this process's lock of that name. DuckDB's own file lock keeps every other process out."""
    with _locks_guard:
        return _locks.setdefault(name, threading.Lock())


class Database:
    """The file and its settings; thread-safe.

    :param wait: seconds to wait for another process to close the file.
    """

    def __init__(self, file: Path, *, memory_limit: str, threads: int, wait: float, where: str) -> None:
        if not file.parent.is_dir():
            raise InvalidFile(
                f"the folder of the DuckDB file does not exist: {file.parent}",
                subject=f"{where}.path",
                cause="a mistyped path, or a volume that is not mounted (so the folder is never created)",
                fix=f"correct the path, or: mkdir -p {file.parent}",
            )
        self.file = file
        self._where = where
        self.limits = limits(memory_limit)
        self._wait = wait
        self._settings: dict[str, str | int | bool] = {
            "memory_limit": memory_limit,
            "threads": threads,
            # rows of one load have no order of their own; keeping one costs memory
            "preserve_insertion_order": False,
            # a table that is missing must be an error, never a Python variable of the same name
            "python_enable_replacements": False,
            # a load may not fetch code over the network
            "autoinstall_known_extensions": False,
        }
        self._guard = threading.RLock()  # an error while the file is opened closes it, within the guard
        self._connection: duckdb.DuckDBPyConnection | None = None
        # catalog changes of two transactions conflict in DuckDB, so those of this process take turns
        self.ddl = lock_of(f"{file}\0ddl")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a new connection to the open database. The caller closes it.

        :raises LoadInProgress: another process has the file open, and did not close it in time.
        :raises LoginRefused: this user may not read and write the file.
        """
        with self._guard, self.translated():
            if self._connection is None:
                connection = self._opened()
                try:
                    for name, value in self._settings.items():
                        connection.execute(f"SET GLOBAL {name} = ?", [value])
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
            cursor = self._connection.cursor()
            cursor.execute("SET TimeZone = 'UTC'")  # a setting of the session; load log and tests read text in UTC
            return cursor

    def _opened(self) -> duckdb.DuckDBPyConnection:
        """Open the file; while another process has it, wait for that one."""
        deadline = time.monotonic() + self._wait
        waiting = False
        while True:
            try:
                return duckdb.connect(str(self.file))
            except duckdb.IOException as error:
                held = _LOCKED.search(str(error))
                if held is None or time.monotonic() > deadline:
                    raise
                if not waiting:
                    _LOG.info("%s: waiting for %s, which has the DuckDB file open", self.file, _holder(held))
                waiting = True
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Run statements in one transaction: committed at the end, rolled back by any exception."""
        cursor = self.cursor()
        try:
            with self.translated():
                cursor.execute("BEGIN")
                try:
                    yield executor(cursor)
                    cursor.execute("COMMIT")
                except BaseException:
                    with suppress(duckdb.Error):  # a failed COMMIT has already rolled back; the first error counts
                        cursor.execute("ROLLBACK")
                    raise
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the file. May be called twice; the next cursor opens it again."""
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(duckdb.Error):  # closing writes a checkpoint; if that fails, the log replays it next time
                connection.close()

    @contextmanager
    def translated(self, subject: str | None = None) -> Iterator[None]:
        """Turn DuckDB's errors into ours."""
        try:
            yield
        except duckdb.Error as error:
            translated = self._translate(error, subject or str(self.file))
            if isinstance(error, duckdb.FatalException | duckdb.InternalException):
                self.close()  # DuckDB refuses everything after such an error, until the file is opened again
            raise translated from None

    def _translate(self, error: duckdb.Error, subject: str) -> DatakitError:
        text = str(error)
        first = text.splitlines()[0]
        if held := _LOCKED.search(text):
            return LoadInProgress(
                "another process has the DuckDB file open, and DuckDB lets in one process at a time",
                subject=subject,
                cause=_holder(held),
                fix=f"wait for it, or look at it: ps -fp {held['pid']}" if int(held["pid"]) else "wait for it",
            )
        if _FULL.search(text):
            return WarehouseUnavailable(
                f"the disk is full: {first}", subject=subject, fix=f"make room: df -h {self.file.parent}"
            )
        if "Permission denied" in text or "read-only" in text.lower() or os.strerror(errno.EROFS) in text:
            return LoginRefused(
                f"this process (uid {os.geteuid()}) may not write the DuckDB file: {first}",
                subject=subject,
                fix=f"compare owner and mode: ls -ln {self.file.parent}",
            )
        if f'file "{self.file}"' in first and (reason := _NO_FILE.search(first)):
            is_folder = reason[0] == "Is a directory"
            return InvalidFile(
                f"the path of the DuckDB file is {'a folder' if is_folder else 'none of a file'}: {first}",
                subject=f"{self._where}.path",
                cause=None if is_folder else "a link that leads nowhere, or a folder that takes no files",
                fix=f"name a file in it: {self.file}/NAME.duckdb" if is_folder else f"look at it: ls -ld {self.file}",
            )
        if _CORRUPT.search(text):
            return ConfigurationError(
                f"the file is damaged: {first}",
                subject=subject,
                cause="the disk lost a write, or the file was copied while it was open",
                fix="restore it from a backup, or name a new file and load everything with `datakit run --full`",
            )
        if "not a valid DuckDB database file" in text or "different version" in text:
            return ConfigurationError(
                f"the file cannot be opened by this DuckDB ({duckdb.__version__}): {first}",
                subject=subject,
                fix="name another file, or open it with the DuckDB that wrote it",
            )
        if isinstance(error, duckdb.OutOfMemoryException) or _NO_MEMORY.search(text):  # a commit says it otherwise
            return WarehouseUnavailable(
                f"DuckDB ran out of its memory: {first}", subject=subject, fix="raise memory_limit in the environment"
            )
        match error:
            case duckdb.TransactionException() | duckdb.SequenceException():
                return LoadInProgress(f"another load changed the same table: {first}", subject=subject, fix="retry")
            case duckdb.ConversionException() | duckdb.OutOfRangeException() | duckdb.InvalidInputException():
                return ValueRefused(f"DuckDB refuses a value: {first}", subject=subject, fix="correct it at the source")
            case duckdb.CatalogException() | duckdb.BinderException() | duckdb.ConstraintException():
                return ContractError(f"DuckDB refuses the load: {first}", subject=subject)
        return WarehouseUnavailable(f"DuckDB failed: {first}", subject=subject, fix="retry")


def executor(cursor: duckdb.DuckDBPyConnection) -> Execute:
    """Return a function that executes on this cursor."""

    def execute(sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return cursor.execute(sql, list(parameters)).fetchall()

    return execute


def _holder(held: re.Match[str]) -> str:
    if not int(held["pid"]):
        return "a process of another container"
    return f"process {held['pid']}" + (f" ({held['program']})" if held["program"] else "")
