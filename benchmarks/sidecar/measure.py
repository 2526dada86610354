"""How soon there is a ticket, what the process weighs, and what a renewal costs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import psutil
from datakit.credentials.tickets import check_ticket
from datakit.errors import DatakitError

from benchmarks.sidecar.contenders import ACCOUNT, Contender, Ours

_POLL_SECONDS: Final = 0.002
_LONGEST_SECONDS: Final = 120
_SETTLE_SECONDS: Final = 2.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOKS: Final = 100
_GONE: Final = (0, 0)


class ContenderFailed(Exception):
    """A contender ended, or did not do what it is for; the text is the end of its log."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Resident memory of a process and its children, bytes.

    :ivar proportional: with shared pages divided among those who share; None if this user may not ask.
    """

    resident: int
    proportional: int | None


@dataclass(slots=True)
class Figures:
    """What was measured of one contender.

    :ivar first_ticket: seconds from the start of the process to a valid ticket in its file, one per round.
    :ivar work: processor seconds in them, which a busy machine does not change.
    :ivar renewal: processor seconds of a renewal, over all of them; the kernel counts hundredths of a second.
    :ivar look: processor seconds of a look at the vault; nothing for those who have none.
    """

    first_ticket: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    renewal: float | None = None
    look: float = 0.0
    early: Weight | None = None
    late: Weight | None = None
    installed: int = 0
    error: str = ""


def first_ticket(contender: Contender) -> tuple[float, float]:
    """Start it and wait for a ticket; return the seconds, and those of a processor.

    :raises ContenderFailed: there is none.
    """
    began = time.perf_counter()
    with _running(contender) as process:
        _wait(contender, process, lambda: _has_ticket(contender))
        seconds = time.perf_counter() - began
        return seconds, _processor_seconds(process.pid)


def life(contender: Contender, figures: Figures, *, renewals: int) -> None:
    """Let it renew so many times, and fill the figures.

    :raises ContenderFailed: it does not renew.
    """
    with _running(contender) as process:
        _wait(contender, process, lambda: _has_ticket(contender))
        time.sleep(_SETTLE_SECONDS)
        figures.early = _weight(process.pid)
        began = _processor_seconds(process.pid)
        for _ in range(renewals):
            before = _version(contender.cache)
            contender.renew(process)
            _wait(contender, process, partial(_differs, contender.cache, before))
        time.sleep(_SETTLE_SECONDS)  # what it does after a renewal belongs to it
        figures.renewal = (_processor_seconds(process.pid) - began) / renewals
        figures.late = _weight(process.pid)


def look(contender: Ours) -> float:
    """Return the processor seconds that a look at the vault costs, of one that looks all the time."""
    vault = contender.stage.vault
    with _running(contender) as process:
        _wait(contender, process, lambda: _has_ticket(contender))
        time.sleep(_SETTLE_SECONDS)
        began, asked = _processor_seconds(process.pid), len(vault.requests)
        _wait(contender, process, lambda: len(vault.requests) >= asked + _LOOKS)
        return (_processor_seconds(process.pid) - began) / (len(vault.requests) - asked)


@contextmanager
def _running(contender: Contender) -> Iterator[subprocess.Popen[bytes]]:
    process = contender.start()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended, with all it had started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(contender.cache.parent, ignore_errors=True)


def _has_ticket(contender: Contender) -> bool:
    if not contender.cache.exists():
        return False
    try:
        check_ticket(f"{ACCOUNT}@{contender.stage.kdc.realm}", name=f"FILE:{contender.cache}")
    except DatakitError:  # half written
        return False
    return True


def _version(cache: Path) -> tuple[int, int]:
    """Return what differs after a renewal; some rename a new file there, some write into the old one."""
    try:
        info = cache.stat()
    except FileNotFoundError:  # kinit removes it first
        return _GONE
    return info.st_ino, info.st_mtime_ns


def _differs(cache: Path, before: tuple[int, int]) -> bool:
    return _version(cache) not in (before, _GONE)


def _wait(contender: Contender, process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = contender.log.read_text(errors="replace").strip().splitlines()
            raise ContenderFailed("\n".join(lines[-12:]) or "it said nothing")
        time.sleep(_POLL_SECONDS)


def _weight(pid: int) -> Weight:
    while True:
        try:
            return _sum([_weight_of(each) for each in _family(pid)])
        except (FileNotFoundError, ProcessLookupError):  # a child has just ended
            continue


def _weight_of(pid: int) -> Weight:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    try:
        proportional = _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"), "Pss")
    except PermissionError:
        proportional = None
    return Weight(_kilobytes(status, "VmRSS"), proportional)


def _kilobytes(text: str, name: str) -> int:
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:"))) * 1024


def _sum(weights: list[Weight]) -> Weight:
    parts = [each.proportional for each in weights if each.proportional is not None]
    return Weight(sum(each.resident for each in weights), sum(parts) if len(parts) == len(weights) else None)


def _processor_seconds(pid: int) -> float:
    """Return what a process and its children, those that ended too, took so far."""
    while True:
        try:
            # utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5)
            return sum(int(field) for each in _family(pid) for field in _stat(each)[11:15]) / _TICKS
        except FileNotFoundError:  # a child has just ended; its time is its parent's from now on
            continue


def _family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
