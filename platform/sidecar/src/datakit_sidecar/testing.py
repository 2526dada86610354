"""A sidecar as a child process, for tests of whatever depends on one. Let it choose its port: ``health: {port: 0}``.

::

    with SidecarProcess(configuration, folder=tmp_path) as sidecar:
        sidecar.wait_until_ready()
        sidecar.metrics()["datakit_sidecar_ready"]
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from datakit_sidecar import health
from datakit_sidecar.configuration import load
from datakit_sidecar.errors import NotReady

_POLL_SECONDS: Final = 0.02
_FIRST_LINES: Final = 4096
_PROGRAM: Final = (sys.executable, "-m", "datakit_sidecar.cli")


class SidecarProcess:
    """``datakit-sidecar run`` with a configuration.

    :param configuration: the file.
    :param folder: where its standard output (the audit log) and standard error are written.
    :param environment: the whole environment; this process's own if None.
    :param prefix: a command to run it with, such as ``setpriv``.
    """

    def __init__(
        self,
        configuration: Path,
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        configured = load(configuration, environment or os.environ).health
        self._address, self._port = configured.address, configured.port
        self.stdout = folder / "sidecar.out"
        self.stderr = folder / "sidecar.err"
        self._command = [*prefix, *_PROGRAM, "run", "--config", str(configuration)]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._log_began = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._running.poll()

    @property
    def port(self) -> int:
        """Where it answers probes.

        :raises NotReady: it has not said so yet.
        """
        if self._port:
            return self._port
        with self.stderr.open("rb") as log:
            log.seek(self._log_began)
            found = re.search(rb"probes: http://[^:]+:(\d+)/", log.read(_FIRST_LINES))
        if found is None:
            raise NotReady("the sidecar does not listen yet")
        return int(found[1])

    def start(self) -> None:
        """Start it; its logs go on where a former process's ended."""
        self._log_began = self.stderr.stat().st_size if self.stderr.exists() else 0
        with self.stdout.open("ab") as stdout, self.stderr.open("ab") as stderr:
            self._process = subprocess.Popen(self._command, stdout=stdout, stderr=stderr, env=self._environment)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait for something to become true.

        :raises NotReady: the process ended, or the time is over; with what it wrote to standard error.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if self.exit_code is not None or time.monotonic() > deadline:
                state = "is running" if self.exit_code is None else f"ended with exit code {self.exit_code}"
                raise NotReady(f"the sidecar {state}; it wrote:\n{self.log()[-4000:]}")
            time.sleep(_POLL_SECONDS)

    def wait_until_ready(self, seconds: float = 30) -> None:
        """Wait until every ticket and secret is published.

        :raises NotReady: as :meth:`wait_until`.
        """
        self.wait_until(self.is_ready, seconds)

    def is_ready(self) -> bool:
        """Whether it says so; False also while it does not answer."""
        try:
            return self.page("/readyz").status == 200
        except NotReady:
            return False

    def page(self, path: str) -> health.Page:
        """Ask for a page.

        :raises NotReady: it does not answer.
        """
        return health.ask(self._address, self.port, path)

    def state(self) -> dict[str, Any]:
        """Return what ``/readyz`` answers."""
        state: dict[str, Any] = json.loads(self.page("/readyz").text)
        return state

    def metrics(self) -> dict[str, float]:
        """Return the metrics, by name and labels as they are written."""
        lines = self.page("/metrics").text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit lines on standard output, without one that is just being written."""
        whole = self.stdout.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def log(self) -> str:
        """Return standard error."""
        return self.stderr.read_text(encoding="utf-8", errors="replace")

    def memory(self) -> int:
        """Return the resident memory, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._running.send_signal(number)

    def stop(self, seconds: float = 10) -> int:
        """Send SIGTERM, wait and return the exit code.

        :raises subprocess.TimeoutExpired: it does not end.
        """
        self.signal(signal.SIGTERM)
        return self._running.wait(seconds)

    def kill(self) -> None:
        """End it as the kernel's out-of-memory killer would."""
        self._running.kill()
        self._running.wait()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise NotReady("the sidecar was not started", fix="call start() first")
        return self._process
