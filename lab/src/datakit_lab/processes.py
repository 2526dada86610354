"""Child processes of the lab: they die with it, write to a log file, and end when they are told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from datakit_lab.errors import LabUnavailable

_LAUNCHER: Final = Path(__file__).with_name("_launch.py")
_POLL_SECONDS: Final = 0.005


class ChildProcess:
    """A program that runs until it is stopped, and never longer than the thread that started it.

    The kernel kills it when the starting thread ends, however that happens; start long-lived ones from a thread that
    lives as long (in doubt, the main thread).

    :param name: what it is, for messages.
    :param command: program and arguments; never a secret among them.
    :param log: the file that stdout and stderr are appended to.
    :param env: the whole environment of the child; the parent's own if None.
    :param user: uid and gid to run as; only root may choose.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                launched(command, user=user),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=directory,
                start_new_session=True,  # ctrl-c in the terminal is for the lab, which stops its children in order
            )

    @property
    def pid(self) -> int:
        """The process id; it stays the same from start to end."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, seconds: float = 30) -> None:
        """Wait until ``ready()`` is true.

        :raises LabUnavailable: the process ended first, or ``seconds`` passed; the message ends with its last words.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise self._failure(f"ended at once with code {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(f"did not become ready within {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; return False if ``seconds`` passed before it."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.running:
            self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 10) -> None:
        """Ask it to end, wait, and kill it if it does not."""
        self.send(number)
        if not self.wait(seconds):
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def _failure(self, what: str) -> LabUnavailable:
        return LabUnavailable(f"{self.name} {what}: {last_words(self.log)}", fix=f"read its log: {self.log}")


class Server(ABC):
    """A server of the lab, which a ``with`` statement starts and closes."""

    _process: ChildProcess | None = None

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.running else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abstractmethod
    def close(self) -> None:
        """Stop it for good, and remove what is its own."""


def launched(command: Sequence[str | Path], *, user: tuple[int, int] | None = None) -> list[str]:
    """Return the command line that runs ``command`` so that it dies with this process."""
    uid, gid = user or (-1, -1)
    return [sys.executable, "-IS", str(_LAUNCHER), str(os.getpid()), str(uid), str(gid), *map(str, command)]


def wait_for(condition: Callable[[], bool], *, seconds: float, pause: float = 0.1) -> bool:
    """Ask, with a ``pause`` between, until something is so; return False if ``seconds`` passed first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def started_at(pid: int) -> str:
    """Return when a process started, in clock ticks of the machine; "" if it has ended.

    With the process id it names one process among all that ever ran (proc(5), ``stat``, fields 3 and 22).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def last_words(log: Path, lines: int = 3) -> str:
    """Return the last ``lines`` of a log file on one line, for a message."""
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    return " | ".join(text.splitlines()[-lines:]) or "it said nothing"
