"""What every contender does the same: take the job from stdin, load, time the load alone, say so on stdout.

It imports nothing but the standard library, because contenders run in virtual environments of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """One load.

    :ivar table: the table to read, in the schema ``dbo``.
    :ivar target: ``duckdb``, ``postgres``, or None for a contender that writes nothing.
    :ivar options: what only this contender understands.
    """

    host: str
    port: int
    database: str
    user: str
    password: str
    table: str
    target: str | None
    duckdb_file: str | None
    postgres: dict[str, Any] | None
    work_folder: str
    options: dict[str, Any]


def connection_string(job: Job) -> str:
    """Return what mssql-python needs to connect as the job says, with the largest packets."""
    return (
        f"Server=tcp:{job.host},{job.port};Database={job.database};UID={job.user};PWD={job.password};"
        "Encrypt=no;PacketSize=32767"
    )


def read() -> Job:
    """Read the job, once; it is on stdin because it holds passwords."""
    return Job(**json.load(sys.stdin))


def timed(load: Callable[[], int]) -> None:
    """Run ``load``, which returns the rows it moved; whatever it imports must be imported before.

    Prints one JSON line, the last of stdout: ``seconds``, ``rows`` and ``peak_bytes``, the highest resident memory
    of this process since it was executed, imports and all. An exception ends the process, as usual.
    """
    started = time.perf_counter()
    rows = load()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    # getrusage's ru_maxrss would count the memory of the parent too, which a child has until it executes a program
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def run(load: Callable[[Job], int]) -> None:
    """Read the job and run ``load`` with it, timed."""
    job = read()
    timed(lambda: load(job))
