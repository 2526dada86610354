"""Who looks at the sidecar from outside, all the time: a probe, readers, and an eye on its memory."""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from datakit_lab.processes import ChildProcess
from datakit_sidecar.errors import NotReady
from datakit_sidecar.testing import SidecarProcess

from ..stage import REALM, ROOT, SERVICES, Stage, fixed_port
from .intervals import Span

_PROBE_SECONDS: Final = 0.05
_WEIGH_SECONDS: Final = 1.0
_STALL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Weight:
    """What the process weighs at a moment.

    :ivar descriptors: None if this user may not count them.
    """

    at: float
    memory: int
    threads: int
    descriptors: int | None


class Probe(threading.Thread):
    """Asks ``/readyz`` twenty times a second, as a kubelet does now and then.

    :ivar unready: spans within which it was not ready, or did not answer.
    :ivar stalls: spans within which this thread, and so probably every process, got no processor.
    """

    def __init__(self, sidecar: SidecarProcess) -> None:
        super().__init__(name="probe", daemon=True)
        self.unready: list[Span] = []
        self.stalls: list[Span] = []
        self.weights: list[Weight] = []
        self.reasons: list[str] = []
        self.asked = 0
        self._sidecar = sidecar
        self._ended = threading.Event()

    def run(self) -> None:
        """Ask until :meth:`end`."""
        since: float | None = None
        weighed = 0.0
        before = time.time()
        while not self._ended.wait(_PROBE_SECONDS):
            now = time.time()
            if now - before > _STALL_SECONDS:
                self.stalls.append((before, now))
            before = now
            reasons = self._ask()
            self.asked += 1
            self.reasons = reasons
            if reasons and since is None:
                since = now
            elif not reasons and since is not None:
                self.unready.append((since, now))
                since = None
            if now > weighed + _WEIGH_SECONDS:
                weighed = now
                self.weights.append(weigh(self._sidecar))
        if since is not None:
            self.unready.append((since, time.time()))

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()
        self.join()

    def weight_at(self, part: float) -> Weight:
        """Return the median weight of the tenth of all looks around a part (0 to 1) of the time."""
        looks = self.weights
        width = max(1, len(looks) // 10)
        first = min(max(0, int(part * len(looks)) - width // 2), len(looks) - width)
        chosen = looks[first : first + width]
        descriptors = [each.descriptors for each in chosen if each.descriptors is not None]
        return Weight(
            chosen[0].at,
            int(statistics.median(each.memory for each in chosen)),
            int(statistics.median(each.threads for each in chosen)),
            int(statistics.median(descriptors)) if descriptors else None,
        )

    def _ask(self) -> list[str]:
        try:
            page = self._sidecar.page("/readyz")
        except NotReady as error:
            return [str(error)]
        return [] if page.status == 200 else json.loads(page.text)["reasons"]


def weigh(sidecar: SidecarProcess) -> Weight:
    """Return what the process weighs now."""
    process = Path(f"/proc/{sidecar.pid}")
    status = (process / "status").read_text(encoding="ascii")
    memory, threads = (int(re.findall(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[0]) for name in ("VmRSS", "Threads"))
    try:
        descriptors = len(os.listdir(process / "fd"))  # noqa: PTH208 - a descriptor may be gone before it is a path
    except PermissionError:  # the process forbids others to look into it, except root
        descriptors = None
    return Weight(time.time(), memory * 1024, threads, descriptors)


@dataclass(slots=True)
class Readers:
    """Reader processes and what they found."""

    stage: Stage
    count: int = 2
    _logs: list[Path] = field(default_factory=list)
    _processes: list[ChildProcess] = field(default_factory=list)

    def start(self) -> None:
        """Start them; the sidecar has published everything."""
        stage = self.stage
        conf = stage.folder / "reader-krb5.conf"
        published = (stage.volume / "tickets/krb5.conf").read_text(encoding="utf-8")
        # near its end libkrb5 tries to replace a ticket by itself; a reader has nothing to ask a KDC for
        conf.write_text(published.replace(f":{stage.kdc.port}", f":{fixed_port()}"), encoding="utf-8")
        keytab = stage.kdc.keytab(stage.folder / "services.keytab", *SERVICES)
        for number in range(self.count):
            log = stage.folder / f"reader-{number}.jsonl"
            log.touch()
            job = {
                "caches": [str(stage.cache(account)) for account in stage.accounts],
                "services": SERVICES,
                "realm": REALM,
                "secret": str(stage.secret_file),
                "keytab": str(keytab),
                "krb5_conf": str(conf),
                "log": str(log),
            }
            path = stage.folder / f"reader-{number}.json"
            path.write_text(json.dumps(job), encoding="utf-8")
            self._logs.append(log)
            self._processes.append(_reader(path))

    def stop(self) -> None:
        """End them, before the sidecar takes away what they read."""
        for process in self._processes:
            process.kill()

    @property
    def running(self) -> bool:
        """Whether all of them still read."""
        return all(process.running for process in self._processes)

    def found(self) -> Findings:
        """Return what all of them found so far."""
        findings = Findings()
        for log in self._logs:
            open_spans: dict[str, float] = {}
            last: dict[str, int] = {}
            at = 0.0
            for line in log.read_text(encoding="utf-8").splitlines():
                entry: dict[str, Any] = json.loads(line)
                at = entry["at"]
                if "failure" in entry:
                    findings.failures.append(entry["failure"])
                if "span" in entry:
                    findings.unserved.append(tuple(entry["span"]))
                last = entry.get("counts", last)
                open_spans = entry.get("unserved", open_spans)
            findings.unserved += [(begin, at) for begin in open_spans.values() if begin < at]
            findings.reads += last.get("reads", 0)
            findings.opened += last.get("opened", 0)
        return findings


@dataclass(slots=True)
class Findings:
    """What readers found.

    :ivar reads: files opened and parsed.
    :ivar opened: services opened with a published ticket, which the services accepted.
    :ivar unserved: spans within which a published ticket had expired.
    """

    reads: int = 0
    opened: int = 0
    failures: list[str] = field(default_factory=list)
    unserved: list[Span] = field(default_factory=list)


def _reader(job: Path) -> ChildProcess:
    """Start a reader that cannot write where the sidecar publishes, as one with a read-only volume.

    Near the end of a ticket libkrb5 appends notes to a cache that it may write to, beneath the eyes of other readers.
    """
    command: list[str | Path] = [sys.executable, "-m", "tests.sidecar.soak.reader", job]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    return ChildProcess("a reader", command, log=job.with_suffix(".err"), directory=ROOT)
