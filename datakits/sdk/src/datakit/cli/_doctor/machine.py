"""Python, drivers, shared libraries and the clock."""

from __future__ import annotations

import ctypes
import importlib
import platform
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from datakit.cli._doctor.finding import Finding, State

_OLDEST_PYTHON: Final = (3, 11)

# Extra of this distribution → the modules that it brings, and their distributions.
_DRIVERS: Final = {
    "sqlserver": (("mssql_python", "mssql-python"),),
    "duckdb": (("duckdb", "duckdb"),),
    "postgres": (("psycopg", "psycopg"), ("pgpq", "pgpq")),
}

# What mssql-python's bundled driver loads at its first connection, and the Debian package that brings it.
_LIBRARIES: Final = (
    ("libkrb5.so.3", "libkrb5-3"),
    ("libgssapi_krb5.so.2", "libgssapi-krb5-2"),
    ("libltdl.so.7", "libltdl7"),
    ("libssl.so.3", "libssl3"),
)

_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised


def examine_python() -> Finding:
    """Say whether this Python is new enough."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("Python", State.BAD, detail, f"use Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer")
    return Finding("Python", State.GOOD, detail)


def examine_drivers(needed: AbstractSet[str]) -> Iterator[Finding]:
    """Import each driver, because one that is installed may still miss a library."""
    for extra, modules in _DRIVERS.items():
        for module, distribution in modules:
            subject = f"driver {distribution}"
            try:
                importlib.import_module(module)
                yield Finding(subject, State.GOOD, version(distribution))
            except PackageNotFoundError:
                yield Finding(subject, State.GOOD, "installed without metadata")
            except ImportError as error:
                state = State.BAD if extra in needed else State.UNNEEDED
                yield Finding(subject, state, f"cannot be imported: {error}", f"pip install 'datakit[{extra}]'")


def examine_libraries(*, needed: bool) -> Iterator[Finding]:
    """Load the shared libraries that SQL Server's driver needs."""
    if platform.system() != "Linux":
        return
    for library, package in _LIBRARIES:
        try:
            ctypes.CDLL(library)
            yield Finding(library, State.GOOD, "loads")
        except OSError as error:
            state = State.BAD if needed else State.UNNEEDED
            yield Finding(
                library, state, str(error), f"apt-get install {package} (Debian), or your system's package of it"
            )


def examine_clock() -> Finding:
    """Ask the kernel whether somebody keeps the clock right; Kerberos refuses one that is 5 minutes off."""
    from datetime import UTC, datetime

    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    try:
        # modes = 0 only reads, which needs no privilege; the buffer is larger than any version of struct timex
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    except (OSError, AttributeError):
        return Finding("clock", State.GOOD, now)
    if state == _TIME_ERROR:
        fix = "run an NTP client on the host (chrony, systemd-timesyncd); compare with a domain controller: date -u"
        return Finding("clock", State.DOUBTFUL, f"{now}; the kernel says that nobody synchronises it", fix)
    return Finding("clock", State.GOOD, f"{now}, synchronised" if state >= 0 else now)
