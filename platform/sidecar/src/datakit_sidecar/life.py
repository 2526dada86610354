"""The life of one principal's tickets: what to do next and when, as a state machine without clock, thread or network.

::

    no key ──key arrives──► issue ──► granted ──renew_at of its life──► renew ──► granted …
                              ▲          │                                │
                              │          └── a service's ticket fails: ask for it again, later and later
                              ├── a new key arrives: use it at once, so that a wrong one is known early
                              └── not renewable, expired, its life cut short, or the KDC does not renew it

A failure is tried again at once, then after growing pauses with jitter, for ever. A refused key is remembered and
never tried again; the tickets that are there are renewed and served without it. So it is while a request with the key
is on its way to a KDC that is slow: a second one with the same key could be a second wrong try.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from datakit_sidecar.errors import KdcSilent, KdcUnreachable, KerberosFailed, KeyRefused, TicketEnded
from datakit_sidecar.failure import Failure
from datakit_sidecar.kerberos import Times

_SHORTEST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_DENIED_PAUSE: Final = 300.0
_LIVES_PER_PAUSE: Final = 20
_WORTH_RENEWING: Final = 0.9
_TICKET_SUSPECT: Final = 2


class Step(Enum):
    """What to do."""

    WAIT = "wait"
    ISSUE = "issue"
    RENEW = "renew"
    SERVICES = "services"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    :ivar until: for ``WAIT``, seconds since 1970; None waits for a key or a signal.
    """

    step: Step
    until: float | None = None


@dataclass(slots=True)
class Tries:
    """When something that failed is tried again: at once, then after 1 s, 2 s, 4 s …, each shortened at random.

    :ivar random: returns a number from 0 to 1.
    """

    random: Callable[[], float] = random.random
    failures: int = 0
    _at: float = 0.0
    _pause: float = 0.0

    def failed(self, now: float, *, retryable: bool, life: float) -> None:
        """Count a failure.

        :param life: of a ticket, in seconds; no pause is longer than a twentieth of it, as far as that is a second.
        """
        self.failures += 1
        if not retryable:
            pause = _DENIED_PAUSE
        elif self.failures == 1:
            pause = 0.0
        else:
            limit = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, life / _LIVES_PER_PAUSE)) if life else _LONGEST_PAUSE
            pause = min(limit, _SHORTEST_PAUSE * 2 ** min(self.failures - 2, 10))
        self._pause = pause * (1 - self.random() / 2)
        self._at = now + self._pause

    def reset(self) -> None:
        """It went well, or shall be tried now."""
        self.failures = 0
        self._at = 0.0

    def at(self, now: float) -> float:
        """Return when to try next; a clock that was set back does not make it longer."""
        return min(self._at, now + self._pause) if self._at else 0.0


@dataclass(slots=True)
class Life:
    """The state. Every method takes the time as seconds since 1970.

    :param services: service principal names that want a ticket.
    :param shares_granting: whether the ticket-granting ticket is published, too.
    :param renew_at: the part of a ticket's life after which it is renewed.
    :param minimum_life: seconds that a ticket must always have left; it is renewed early enough for that, if it can be.
    """

    services: tuple[str, ...]
    shares_granting: bool = False
    renew_at: float = 0.5
    minimum_life: float = 0.0
    random: Callable[[], float] = random.random
    granting: Times | None = None
    missing: tuple[str, ...] = ()
    unpublished: bool = False
    _due: float = 0.0
    _renewable: bool = False
    _key: bytes | None = None
    _key_is_new: bool = False
    _refused: set[bytes] = field(default_factory=set)
    _in_flight: set[bytes] = field(default_factory=set)
    _granting_tries: Tries = field(init=False)
    _service_tries: Tries = field(init=False)
    _publish_tries: Tries = field(init=False)

    def __post_init__(self) -> None:
        self._granting_tries = Tries(self.random)
        self._service_tries = Tries(self.random)
        self._publish_tries = Tries(self.random)

    @property
    def has_usable_key(self) -> bool:
        """Whether there is a key that no KDC has refused."""
        return self._key is not None and self._key not in self._refused

    def next(self, now: float) -> Decision:
        """Say what to do now; of several things, what the others need comes first."""
        plans = [plan for plan in (self._plan_granting(now), *self._plan_rest(now)) if plan is not None]
        for step, at in plans:
            if at <= now:
                return Decision(step)
        return Decision(Step.WAIT, min((at for _, at in plans), default=None))

    def key_arrived(self, fingerprint: bytes) -> bool:
        """Take a key from the vault; return whether it is another one than before."""
        if fingerprint == self._key:
            return False
        self._key = fingerprint
        self._key_is_new = True
        self.retry_now()
        return True

    def granted(self, times: Times, now: float, *, key: bytes | None = None) -> None:
        """A ticket-granting ticket is there; every service wants a new ticket.

        :param key: fingerprint of the key that it was issued with; None if it was renewed. Another key may have arrived
            meanwhile, and is still to be used.
        """
        self.granting = times
        if key == self._key:
            self._key_is_new = False
        self._renewable = times.renew_until is not None
        self._due = now + (times.end - now) * self.renew_at * (1 - self.random() / 10)
        latest = times.end - 2 * self.minimum_life
        if now < latest:
            self._due = min(self._due, latest)
        self._granting_tries.reset()
        self.missing = self.services
        self.unpublished = self.unpublished or self.shares_granting

    def failed(self, step: Step, error: Failure, now: float, *, key: bytes | None = None) -> None:
        """A ticket-granting ticket could not be issued or renewed.

        :param key: fingerprint of the key that was tried, which need not be the present one any more.
        """
        if key is not None and isinstance(error, KdcSilent) and error.in_flight:
            self._in_flight.add(key)
        if isinstance(error, KeyRefused) and key is not None:
            self._refused.add(key)
            if key == self._key:
                self._key_is_new = False
        elif step is Step.RENEW and self.has_usable_key and not isinstance(error, KdcUnreachable | KdcSilent):
            self._renewable = False  # whatever the reason is, the key may still do
        else:
            self._granting_tries.failed(now, retryable=error.retryable, life=self._life)

    def ended(self, key: bytes) -> None:
        """A request with the key that was given up in flight has ended; what came of it is told next."""
        self._in_flight.discard(key)

    def served(self, services: Iterable[str], failures: Mapping[str, Failure], now: float) -> None:
        """Tickets of services are there, or could not be had."""
        got = tuple(services)
        self.missing = tuple(service for service in self.missing if service not in got)
        self.unpublished = self.unpublished or bool(got)
        if not failures:
            self._service_tries.reset()
            return
        retryable = any(error.retryable for error in failures.values())
        self._service_tries.failed(now, retryable=retryable, life=self._life)
        doubtful = all(isinstance(error, TicketEnded | KerberosFailed) for error in failures.values())
        if doubtful and self._service_tries.failures >= _TICKET_SUSPECT:
            # the realm's own key may have changed, and then no ticket of the old one is worth anything
            self._renewable = False
            self._due = self._service_tries.at(now)

    def published(self) -> None:
        """What there is was published."""
        self.unpublished = False
        self._publish_tries.reset()

    def publish_failed(self, error: Failure, now: float) -> None:
        """It could not be published."""
        self._publish_tries.failed(now, retryable=error.retryable, life=self._life)

    def retry_now(self, *, renew: bool = False) -> None:
        """Wait no longer; with ``renew``, get new tickets even if the old ones have a long time left."""
        for tries in (self._granting_tries, self._service_tries, self._publish_tries):
            tries.reset()
        if renew:
            self._due = 0.0

    def _plan_granting(self, now: float) -> tuple[Step, float] | None:
        at = self._granting_tries.at(now)
        may_issue = self.has_usable_key and self._key not in self._in_flight
        if may_issue and (self._key_is_new or self.granting is None or now >= self.granting.end):
            return Step.ISSUE, at
        if self.granting is None or now >= self.granting.end:
            return None
        at = max(at, self._due)
        left = 0.0 if self.granting.renew_until is None else self.granting.renew_until - max(now, at)
        if self._renewable and left >= _WORTH_RENEWING * self._life:
            return Step.RENEW, at
        if may_issue:
            return Step.ISSUE, at
        # a shorter life than before, and better than none
        return (Step.RENEW, at) if self._renewable and left > self.granting.end - max(now, at) + 1 else None

    def _plan_rest(self, now: float) -> Iterator[tuple[Step, float]]:
        if self.missing and self.granting is not None and now < self.granting.end:
            yield Step.SERVICES, self._service_tries.at(now)
        if self.unpublished:
            yield Step.PUBLISH, self._publish_tries.at(now)

    @property
    def _life(self) -> float:
        return 0.0 if self.granting is None else self.granting.end - self.granting.start
