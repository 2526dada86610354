"""One soak: the stage is set, faults come and go, and at the end it is counted what was worse than they excuse."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from datakit_sidecar.testing import SidecarProcess

from ..stage import Stage
from . import faults as catalogue
from .intervals import Span, total, united, without
from .watch import Findings, Probe, Readers

RENEWABLE_LIVES: Final = 3
"""Lives after which a ticket is got with the key again, so that a rotation meets a sidecar that needs its key."""
_WARM_UP: Final = 0.15
"""The part of the time after which the process has seen every kind of work, and is weighed for the first time."""
_MEMORY_GROWTH: Final = 1.5e6
_DESCRIPTOR_GROWTH: Final = 2
_CATCH_UP_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2.0
_TOLERANCE: Final = 0.25
"""Seconds by which two observers of the same moment may differ."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for.

    :ivar seconds: how long faults come and go.
    :ivar without: words of faults that are left out.
    """

    seconds: float
    seed: int
    ticket_life: timedelta = timedelta(seconds=4)
    renewable_life: timedelta = timedelta(seconds=4 * RENEWABLE_LIVES)
    without: tuple[str, ...] = ()


@dataclass(slots=True)
class Soak:
    """A soak under way.

    :ivar excused: spans within which the sidecar may be unready.
    :ivar doing: what is wrong now, in words.
    :ivar log: what happened, in words.
    """

    plan: Plan
    stage: Stage
    sidecar: SidecarProcess
    probe: Probe
    readers: Readers
    faults: catalogue.Faults
    began: float = field(default_factory=time.time)
    excused: list[Span] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    doing: str = "nothing"
    log: list[str] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        return time.time() - self.began

    def note(self, text: str) -> None:
        """Write a line of the log."""
        self.log.append(f"{self.elapsed:7.1f} s  {text}")
        with (self.stage.folder / "soak.log").open("a", encoding="utf-8") as file:
            file.write(f"{self.log[-1]}\n")

    def go(self, tick: Callable[[Soak], None]) -> None:
        """Let faults come and go until the time is over; ``tick`` is called often."""
        random = self.faults.random
        while self.elapsed < self.plan.seconds and self.sidecar.exit_code is None:
            self._wait(random.uniform(0.5, 4), tick)
            chosen, seconds = self.faults.choose()
            self.doing = " and ".join(fault.name for fault in chosen)
            self.note(f"{self.doing} for {seconds:.1f} s")
            begin = time.time()
            with catalogue.together(chosen):
                self._wait(seconds, tick)
            self.doing = "nothing"
            recovery = catalogue.recovery_of(chosen)
            if recovery is not None:
                self.excused.append((begin, time.time() + recovery))
            self.done.update(fault.name for fault in chosen)
            tries = map(self.stage.failed_tries, self.stage.accounts)
            self.faults.most_tries = max(self.faults.most_tries, *tries)
        self.doing = "catching up"
        deadline = time.time() + _CATCH_UP_SECONDS
        while time.time() < deadline and self.sidecar.exit_code is None and self.behind():
            self._wait(0.2, tick)

    def behind(self) -> list[str]:
        """Return what is not yet as vault and realm have it."""
        found = list(self.probe.reasons)
        versions = {name: each["kvno"] for name, each in self.sidecar.state()["principals"].items()}
        for account in self.stage.accounts:
            if account.field == "keytab" and versions[account.principal] != account.kvno:
                found.append(f"{account.principal}: key {versions[account.principal]} is in use, not {account.kvno}")
        if self.stage.secret_file.read_text(encoding="utf-8") != self.stage.database_password:
            found.append("the database's old password is published")
        return found

    def _wait(self, seconds: float, tick: Callable[[Soak], None]) -> None:
        until = time.time() + seconds
        while (left := until - time.time()) > 0:
            tick(self)
            time.sleep(min(0.2, left))


def run(plan: Plan, folder: Path, tick: Callable[[Soak], None] = lambda _soak: None) -> Result:
    """Run a soak and count.

    :param folder: where everything is written.
    :param tick: called some times a second.
    """
    with ExitStack() as stack:
        stage = stack.enter_context(Stage(plan.ticket_life, plan.renewable_life, folder))
        sidecar = stack.enter_context(stage.sidecar())
        sidecar.wait_until_ready()
        random = Random(plan.seed)
        chosen = catalogue.Faults(stage, sidecar, random)
        chosen.known = [each for each in chosen.known if not any(word in each.name for word in plan.without)]
        readers = Readers(stage)
        stack.callback(readers.stop)
        readers.start()
        soak = Soak(plan, stage, sidecar, Probe(sidecar), readers, chosen)
        soak.probe.start()
        soak.go(tick)
        return _ended(soak)


def _ended(soak: Soak) -> Result:
    result = Result(soak)
    alive = soak.sidecar.exit_code is None
    result.require("the sidecar ran to the end", alive, f"exit code {soak.sidecar.exit_code}")
    if alive:
        behind = soak.behind()
        result.require("the newest keys and secrets are in use", not behind, "; ".join(behind))
        result.metrics = soak.sidecar.metrics()
    soak.probe.end()
    result.require("every reader read to the end", soak.readers.running, str(soak.stage.folder / "reader-0.err"))
    result.findings = soak.readers.found()
    soak.readers.stop()
    if alive:
        began = time.monotonic()
        code = soak.sidecar.stop()
        result.require("SIGTERM ended it", code == 0, f"exit code {code}")
        seconds = time.monotonic() - began
        result.require("SIGTERM ended it soon", seconds < _STOP_SECONDS, f"after {seconds:.1f} s")
        left = [str(path) for path in soak.stage.volume.rglob("*") if path.is_file()]
        result.require("it took away what it had published", not left, ", ".join(left))
    result.judge()
    return result


@dataclass(slots=True)
class Result:
    """What came of a soak.

    :ivar problems: what is worse than the faults excuse; none if it went well.
    """

    soak: Soak
    findings: Findings = field(default_factory=Findings)
    metrics: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def require(self, what: str, good: bool, otherwise: str) -> None:
        """Note a problem if something is not good."""
        if not good:
            self.problems.append(f"not true: {what} ({otherwise})")

    def judge(self) -> None:
        """Count everything."""
        self._judge_readiness()
        self._judge_keys()
        self._judge_weight()
        self._judge_audit()

    def _judge_readiness(self) -> None:
        soak = self.soak
        stalls = [(begin - _TOLERANCE, end + 1.0) for begin, end in soak.probe.stalls]
        unready = united(soak.probe.unready)
        beyond = without(unready, [*soak.excused, *stalls])
        # the time of a soak begins when its probe does
        unserved = united(self.findings.unserved)
        lied = without(unserved, [*((begin - _TOLERANCE, end + _TOLERANCE) for begin, end in unready), *stalls])
        seconds = time.time() - soak.began
        lives = seconds / soak.plan.ticket_life.total_seconds() * len(soak.stage.accounts)
        self.facts += [
            ("time", f"{seconds:.0f} s, {lives:.0f} ticket lifetimes, {soak.probe.asked:,} probes"),
            ("faults", f"{sum(soak.done.values())}, which excuse {total(united(soak.excused)):.0f} s"),
            ("unready within them", f"{total(unready) - total(beyond):.1f} s"),
            ("unready beyond them", f"{total(beyond):.1f} s"),
            ("a reader had no valid ticket", f"{total(unserved):.1f} s, of which {total(lied):.1f} s while ready"),
            ("this machine stood still", f"{total(soak.probe.stalls):.1f} s"),
            ("reads", f"{self.findings.reads:,}, {len(self.findings.failures)} failed"),
            ("services opened", f"{self.findings.opened:,}"),
        ]
        words = ", ".join(f"from {begin - soak.began:.1f} to {end - soak.began:.1f} s" for begin, end in beyond)
        self.require("it was ready whenever no fault excused it", not beyond, words)
        words = ", ".join(f"from {begin - soak.began:.1f} to {end - soak.began:.1f} s" for begin, end in lied)
        self.require("a reader had a valid ticket whenever it was ready", not lied, words)
        self.require("no read failed", not self.findings.failures, "; ".join(self.findings.failures[:5]))
        self.require("readers opened services", self.findings.opened > 0, "none")

    def _judge_keys(self) -> None:
        soak = self.soak
        kdc_log = soak.stage.kdc.log.read_text(encoding="utf-8")
        refused = kdc_log.count(": PREAUTH_FAILED: ")
        locked = kdc_log.count(": LOCKED_OUT: ")
        retried = self._retried()
        renewals, issues = (
            sum(value for name, value in self.metrics.items() if name.startswith(f"datakit_sidecar_tickets_{what}"))
            for what in ("renewed_total", "issued_total")
        )
        rotations = soak.faults.rotations
        secrets = soak.faults.secret_number - 1
        self.facts += [
            ("tickets", f"{renewals:.0f} renewed, {issues:.0f} got with a key"),
            ("rotations", f"{rotations} keys ({soak.faults.early_keys} in the vault first), {secrets} passwords"),
            ("keys refused", f"{refused}, {len(retried)} tried again; most in a row: {soak.faults.most_tries}"),
        ]
        self.require("no refused key was tried again", not retried, "; ".join(retried))
        most = rotations + soak.faults.early_keys
        self.require("the KDC refused no key more than once", refused <= most, f"{refused} refusals, {most} rotations")
        self.require("no account was locked", not locked and soak.faults.most_tries < 3, f"{locked} requests refused")

    def _retried(self) -> list[str]:
        """Return keys that were refused twice, and not taken in between."""
        refused: set[tuple[Any, Any]] = set()
        found = []
        for line in self._audit_lines():
            key = line.get("principal", ""), line.get("kvno")
            if line["event"] == "ticket.issued":
                refused.discard(key)
            elif line["event"] == "ticket.denied" and line["reason"] == "KeyRefused" and key[1] is not None:
                if key in refused:
                    found.append(f"{key[0]}, key {key[1]}")
                refused.add(key)
        return found

    def _judge_weight(self) -> None:
        if len(self.soak.probe.weights) < 10:
            self.problems.append("it was weighed too seldom to tell whether it grows")
            return
        first, last = self.soak.probe.weight_at(_WARM_UP), self.soak.probe.weight_at(1)
        self.facts += [
            ("resident memory", f"{first.memory / 1e6:.1f} MB, at the end {last.memory / 1e6:.1f} MB"),
            ("threads", f"{first.threads}, at the end {last.threads}"),
        ]
        growth = last.memory - first.memory
        self.require("memory stays as it is", growth < _MEMORY_GROWTH, f"{growth / 1e6:.1f} MB more")
        if first.descriptors is not None and last.descriptors is not None:
            self.facts.append(("descriptors", f"{first.descriptors}, at the end {last.descriptors}"))
            more = last.descriptors - first.descriptors
            self.require("descriptors stay as many", more <= _DESCRIPTOR_GROWTH, f"{more} more")

    def _judge_audit(self) -> None:
        command = [sys.executable, "-m", "datakit_sidecar.cli", "verify-audit", str(self.soak.stage.audit_file)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        self.facts.append(("audit", checked.stdout.strip().splitlines()[-1] if checked.stdout else checked.stderr))
        self.require("the audit log is whole", checked.returncode == 0, checked.stdout + checked.stderr)

    def _audit_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.soak.sidecar.stdout.read_text(encoding="utf-8").splitlines()]
