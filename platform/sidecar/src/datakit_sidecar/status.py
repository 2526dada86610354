"""What is published, how long it lives and what went wrong last: written by the threads that work, read by probes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from datakit_sidecar.failure import Failure
from datakit_sidecar.settings import Settings

BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of the vault's answers, seconds."""


@dataclass(slots=True)
class Tickets:
    """One principal's tickets.

    :ivar ends: what is published → when it expires; ``krbtgt`` stands for the ticket-granting ticket.
    :ivar wanted: what has to be published.
    :ivar kvno: version of the key in use; None if a password does not tell.
    :ivar error: what went wrong last with a ticket, until it goes well.
    :ivar key_error: what is wrong with the key in the vault, until it is right.
    """

    wanted: tuple[str, ...]
    ends: dict[str, float] = field(default_factory=dict)
    kvno: int | None = None
    renewals: int = 0
    issues: int = 0
    rotated_at: float | None = None
    next_at: float | None = None
    error: Failure | None = None
    key_error: Failure | None = None

    @property
    def trouble(self) -> Failure | None:
        """What has to be solved first."""
        return self.key_error or self.error


@dataclass(slots=True)
class SecretFiles:
    """One secret's files.

    :ivar published_at: when its present value was published; None if never.
    :ivar checked_at: when the vault last said that it is the present one.
    """

    published_at: float | None = None
    checked_at: float | None = None
    rotated_at: float | None = None
    error: Failure | None = None


class Board:
    """The state of everything. Thread-safe: change and read it within :meth:`open`."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._minimum_life = settings.health.minimum_life
        self.started_at = now()
        self.tickets: dict[str, Tickets] = {
            each.name: Tickets((*(("krbtgt",) if each.share == "tgt" else ()), *each.services))
            for each in settings.principals
        }
        self.secrets: dict[str, SecretFiles] = {each.folder: SecretFiles() for each in settings.secrets}
        self.failures: Counter[tuple[str, str]] = Counter()
        self.vault_seconds: list[int] = [0] * (len(BUCKETS) + 1)
        self.vault_total = 0.0
        self.vault_checked_at: float | None = None
        self.audit_trouble: Callable[[], str | None] = lambda: None

    @contextmanager
    def open(self) -> Iterator[Board]:
        """Within, nobody else changes or reads it."""
        with self._lock:
            yield self

    def count_failure(self, what: str, error: Failure) -> None:
        """Count a failure by its cause; ``what`` is ``kdc``, ``vault`` or ``publish``."""
        with self._lock:
            self.failures[what, type(error).__name__] += 1

    def count_vault_call(self, seconds: float) -> None:
        """Count a call to the vault."""
        with self._lock:
            self.vault_seconds[sum(seconds > bound for bound in BUCKETS)] += 1
            self.vault_total += seconds

    def reasons(self) -> list[str]:
        """Return why it is not ready; nothing if it is."""
        now = self._now()
        with self._lock:
            found = [reason for name, tickets in self.tickets.items() for reason in self._missing(name, tickets, now)]
            found += [
                f"secret {name}: not published{_because(files.error)}"
                for name, files in self.secrets.items()
                if files.published_at is None
            ]
        trouble = self.audit_trouble()
        return found if trouble is None else [*found, f"audit: {trouble}"]

    def _missing(self, name: str, tickets: Tickets, now: float) -> Iterator[str]:
        for wanted in tickets.wanted:
            end = tickets.ends.get(wanted)
            what = f"{name}: " + ("the ticket-granting ticket" if wanted == "krbtgt" else f"the ticket for {wanted}")
            if end is None:
                yield f"{what} is not published{_because(tickets.trouble)}"
            elif end <= now:
                yield f"{what} expired {now - end:.0f} s ago{_because(tickets.trouble)}"
            elif end - now < self._minimum_life:
                least = f"less than {self._minimum_life:.0f} s"
                yield f"{what} has {end - now:.0f} s left, {least}{_because(tickets.trouble)}"

    def as_json(self) -> dict[str, Any]:
        """Return everything as the probes' answer shows it."""
        reasons = self.reasons()
        now = self._now()
        with self._lock:
            return {
                "ready": not reasons,
                "reasons": reasons,
                "principals": {name: _ticket_json(tickets, now) for name, tickets in self.tickets.items()},
                "secrets": {name: _secret_json(files, now) for name, files in self.secrets.items()},
                "vault": {"checked_at": _iso(self.vault_checked_at)},
            }


def _ticket_json(tickets: Tickets, now: float) -> Mapping[str, Any]:
    return {
        "seconds_left": {name: max(0, round(end - now)) for name, end in tickets.ends.items()},
        "kvno": tickets.kvno,
        "issued": tickets.issues,
        "renewed": tickets.renewals,
        "rotated_at": _iso(tickets.rotated_at),
        "next_at": _iso(tickets.next_at),
        "error": None if tickets.trouble is None else tickets.trouble.as_json(),
    }


def _secret_json(files: SecretFiles, now: float) -> Mapping[str, Any]:
    return {
        "age_seconds": None if files.published_at is None else round(now - files.published_at),
        "checked_at": _iso(files.checked_at),
        "rotated_at": _iso(files.rotated_at),
        "error": None if files.error is None else files.error.as_json(),
    }


def _because(error: Failure | None) -> str:
    return "" if error is None else f" ({error.what})"


def _iso(moment: float | None) -> str | None:
    return None if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
