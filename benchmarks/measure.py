"""One contender, one fresh process, one load: how long, how much memory, and whether what landed is the table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import ROOT, peers
from benchmarks.contenders.job import Job

if TYPE_CHECKING:
    from datakit_lab.postgres import Postgres

    from benchmarks.server import Double

_LONGEST_SECONDS: Final = 900
_ROLE: Final = "bench"


class ContenderFailed(Exception):
    """A contender ended with an error, took too long or landed something else; the text is the end of its log."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who races, and into what.

    :ivar name: as the table shows it.
    :ivar module: in ``benchmarks.contenders``.
    :ivar target: ``duckdb``, ``postgres``, or None if it writes nothing.
    :ivar packages: ``own`` runs in this virtual environment, ``peers`` in that of :mod:`benchmarks.peers`.
    """

    name: str
    module: str
    target: str | None
    options: dict[str, Any] = field(default_factory=dict)
    packages: str = "own"

    @property
    def key(self) -> str:
        """Name and target."""
        return f"{self.name} → {self.target}" if self.target else self.name


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured load.

    :ivar seconds: wall time of the load; imports are not in it, for anybody.
    :ivar peak_bytes: the process's highest resident memory, imports and all.
    """

    seconds: float
    rows: int
    peak_bytes: int


def measure(contender: Contender, table: str, double: Double, postgres: Postgres, scratch: Path) -> Outcome:
    """Let a contender load the table once into an empty target.

    :raises ContenderFailed: it failed, or what landed is not what the double served.
    """
    with _empty_target(contender, table, double, postgres, scratch) as job:
        outcome = _run(contender, job, Path(job.work_folder) / "log")
        if outcome.rows != double.tables[table]:
            raise ContenderFailed(f"it says that it moved {outcome.rows:,} of {double.tables[table]:,} rows")
        if contender.target:
            _check(job, double.tables[table])
    return outcome


@contextmanager
def _empty_target(contender: Contender, table: str, double: Double, postgres: Postgres, scratch: Path) -> Iterator[Job]:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    server = None
    if contender.target == "postgres":
        with postgres.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [_ROLE]).fetchone():
                postgres.create_role(_ROLE, double.password)
        postgres.create_database(_ROLE, owner=_ROLE)
        server = {"host": "localhost", "port": postgres.port, "dbname": _ROLE, "user": _ROLE}
        server["password"] = double.password
    try:
        yield Job(
            host=double.host,
            port=double.port,
            database=double.database,
            user=double.user,
            password=double.password,
            table=table,
            target=contender.target,
            duckdb_file=str(folder / "bench.duckdb") if contender.target == "duckdb" else None,
            postgres=server,
            work_folder=str(folder),
            options=contender.options,
        )
    finally:
        if server:
            postgres.drop_database(_ROLE)
            with postgres.connect() as connection:  # so that the next contender does not pay for this one's pages
                connection.execute("CHECKPOINT")
        shutil.rmtree(folder)


def _run(contender: Contender, job: Job, log: Path) -> Outcome:
    python = sys.executable if contender.packages == "own" else peers.python()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [python, "-m", f"benchmarks.contenders.{contender.module}"],
            cwd=ROOT,
            env=_environment(job),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
        )
        assert process.stdin
        assert process.stdout
        watchdog = threading.Timer(_LONGEST_SECONDS, process.kill)
        watchdog.start()
        try:
            process.stdin.write(json.dumps(asdict(job)).encode())
            process.stdin.close()
            said = process.stdout.read().decode()
            process.wait()
        finally:
            watchdog.cancel()
            process.kill()  # does nothing to one that has ended; an interrupted run leaves none behind
            process.stdout.close()
    if process.returncode:
        raise ContenderFailed(f"exit code {process.returncode}: {_tail(log)}")
    result = json.loads(said.splitlines()[-1])
    return Outcome(**result)


def _check(job: Job, rows: int) -> None:
    landed, expected = _look(job), _look(replace(job, target=None, options={"rows": rows}))
    if landed != expected:
        raise ContenderFailed(f"other rows landed than were served: {landed} instead of {expected}")


def _look(job: Job) -> list[str]:
    looking = subprocess.run(
        [sys.executable, "-m", "benchmarks.contenders.look"],
        cwd=ROOT,
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        check=False,
    )
    if looking.returncode:
        raise ContenderFailed(f"what landed cannot be read: {looking.stderr[-2000:]}")
    figures: list[str] = json.loads(looking.stdout)
    return figures


def _environment(job: Job) -> dict[str, str]:
    """Return a small environment of its own, so that nothing of the caller's changes what is measured."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": job.work_folder, "TMPDIR": job.work_folder, "NO_COLOR": "1", "TERM": "dumb"}


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-12:])
