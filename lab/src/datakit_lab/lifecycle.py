"""Start, end and look at a lab from another process than the one that runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from datakit_lab.control import call
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import accepts
from datakit_lab.processes import last_words
from datakit_lab.sidecar import readiness
from datakit_lab.state import LabOptions, LabRecord, LabState

_POLL_SECONDS: Final = 0.05
_START_SECONDS: Final = 900  # TPC-H at a large scale is generated and loaded before the double listens
_STOP_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at a lab found.

    :ivar answering: for each server, whether its port answers; for the sidecar, whether it is ready.
    :ivar sidecar: what a sidecar that is ready says about its tickets and secrets.
    """

    record: LabRecord | None
    running: bool
    answering: dict[str, bool]
    sidecar: dict[str, Any] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the lab runs and every server of it answers."""
        ready = self.record is not None and self.record.phase == "ready"
        return self.running and ready and all(self.answering.values())

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        record = asdict(self.record) if self.record is not None and self.running else {}
        return {
            "running": self.running,
            "healthy": self.healthy,
            "answering": self.answering,
            "sidecar": self.sidecar,
            **record,
        }


def start(state: LabState, options: LabOptions) -> tuple[bool, LabRecord]:
    """Start a lab and wait until it is ready; clean up first after one that crashed.

    :returns: whether it was already running (then its options are what they were), and its record.
    :raises LabError: a port is taken, or a program is missing.
    :raises LabUnavailable: a server did not start.
    """
    if state.running:
        return True, _wait_until_ready(state, None)
    state.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.remove_leftovers()
    state.logs.mkdir(mode=0o700, exist_ok=True)
    with (state.logs / "lab.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "datakit_lab.supervisor", str(state.directory), options.as_json()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives this command and its terminal
        )
    return False, _wait_until_ready(state, supervisor)


def end(state: LabState) -> bool:
    """End the lab and remove what it left, but its logs; return whether one was running.

    :raises LabUnavailable: it does not end.
    """
    if not state.directory.exists():
        return False
    ran = state.running
    if ran:
        record = _record(state)
        os.kill(record.supervisor, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while state.running:
            if time.monotonic() > deadline:
                raise LabUnavailable(
                    f"the lab (process {record.supervisor}) does not end", fix=f"kill -9 {record.supervisor}"
                )
            time.sleep(_POLL_SECONDS)
    state.remove_leftovers()
    return ran


def look(state: LabState) -> Health:
    """Look at a lab: who of it is alive, and who answers."""
    record = state.read() if state.directory.exists() else None
    running = record is not None and state.running
    services = record.services if record is not None and running else {}
    answering = {name: service.pid is not None and accepts(service.port) for name, service in services.items()}
    sidecar = readiness(services["sidecar"].port) if answering.get("sidecar") else None
    if "sidecar" in answering:
        answering["sidecar"] = sidecar is not None
    return Health(record, running, answering, sidecar)


def running_record(state: LabState) -> LabRecord:
    """Return the record of a lab that is ready.

    :raises LabError: none runs in this directory.
    """
    record = state.read() if state.directory.exists() and state.running else None
    if record is None or record.phase != "ready":
        raise LabError(f"no lab runs in {state.directory}", fix="datakit-lab up, or name its folder: --state-dir")
    return record


def rotate(state: LabState, what: str) -> list[str]:
    """Rotate ``keytab`` or ``password`` in the running lab; return what was done, a line each.

    :raises LabError: no lab runs.
    :raises LabUnavailable: it does not answer.
    """
    running_record(state)
    try:
        did: list[str] = call(state.supervisor_control, f"rotate {what}")["did"]
    except LabUnavailable:
        raise LabUnavailable(f"the lab in {state.directory} does not answer", fix="datakit-lab status") from None
    return did


def _wait_until_ready(state: LabState, supervisor: subprocess.Popen[bytes] | None) -> LabRecord:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        record = state.read()
        if record is not None and record.phase == "ready":
            return record
        ended = supervisor.poll() is not None if supervisor is not None else not state.running
        if ended:
            record = state.read()
            if record is not None and record.phase == "failed":
                state.remove_leftovers()
                kind = LabUnavailable if record.exit_code == LabUnavailable.exit_code else LabError
                raise kind(record.problem or "the lab did not start", fix=record.fix)
            log = state.logs / "lab.log"
            raise LabUnavailable(f"the lab ended before it was ready: {last_words(log)}", fix=f"read {log}")
        if time.monotonic() > deadline:
            raise LabUnavailable("the lab does not become ready", fix=f"read the logs in {state.logs}")
        time.sleep(_POLL_SECONDS)


def _record(state: LabState) -> LabRecord:
    """Return the record of a lab whose lock is held; it may still be about to write its first one."""
    deadline = time.monotonic() + _STOP_SECONDS
    while (record := state.read()) is None:
        if time.monotonic() > deadline:
            raise LabUnavailable(f"the lab in {state.directory} holds its lock and says nothing", fix="read its logs")
        time.sleep(_POLL_SECONDS)
    return record
