"""One principal's tickets: does what :class:`datakit_sidecar.life.Life` says, in a thread of its own.

Principals do not wait for one another, nor for the vault: a KDC that hangs costs its own principal the deadline, and
nobody else anything.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import krb5

from datakit_sidecar.audit import AuditLog
from datakit_sidecar.errors import KeyRefused, SidecarError
from datakit_sidecar.failure import one_line
from datakit_sidecar.kdc_calls import KdcCalls, Outcome
from datakit_sidecar.kerberos import Realm, Ticket, new_context
from datakit_sidecar.keytab import Key, Password
from datakit_sidecar.life import Life, Step
from datakit_sidecar.publish import Publisher
from datakit_sidecar.refusals import Refusals
from datakit_sidecar.settings import PrincipalSettings
from datakit_sidecar.status import Board

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LONGEST_WAIT: Final = 30.0
"""Seconds after which the clock is looked at, whatever was planned: a machine may have slept, or its clock moved."""
_PAUSE_AFTER_BUG: Final = 1.0


class Agent:
    """Keeps the tickets of one principal.

    :param beside: path → text of what is published with the tickets and is no secret, such as a krb5.conf.
    :param wants_key: called when the KDC has refused the key: the vault may hold another one.
    :param now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        principal: PrincipalSettings,
        *,
        realm: Realm,
        calls: KdcCalls,
        life: Life,
        publisher: Publisher,
        refusals: Refusals,
        cache: Path,
        beside: Mapping[Path, str],
        audit: AuditLog,
        board: Board,
        wants_key: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.principal = principal
        self.calls = calls
        self._realm = realm
        self._life = life
        self._publisher = publisher
        self._refusals = refusals
        self._cache = cache
        self._beside = beside
        self._audit = audit
        self._board = board
        self._wants_key = wants_key
        self._now = now
        self._kdcs = realm.kdcs_of(principal.name)
        self._context = functools.cache(new_context)
        """libkrb5's context of this agent's thread."""
        self._changed = threading.Condition()
        self._stopped = False
        self._key: Key | Password | None = None
        self._used_key: Key | None = None
        self._granting: Ticket | None = None
        self._services: dict[str, Ticket] = {}
        self._late: deque[tuple[Step, bytes | None, Callable[[], None]]] = deque()
        """What is to be done with outcomes that came after their deadline."""
        self._is_published = False
        self._thread = threading.Thread(target=self._run, name=f"tickets {principal.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step it is in; does not wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self.calls.close()

    def deliver(self, key: Key | Password) -> bool:
        """Take a key from the vault; return whether it is another one than before."""
        with self._changed:
            is_new = self._life.key_arrived(key.fingerprint)
            if is_new:
                self._key = key
                self._changed.notify()
            return is_new

    def retry_now(self, *, renew: bool = False) -> None:
        """Wait no longer; with ``renew``, get new tickets now."""
        with self._changed:
            self._life.retry_now(renew=renew)
            self._changed.notify()

    def _run(self) -> None:
        while not self._stopped:
            step = Step.WAIT
            try:
                step, work = self._next()
                work()
            except Exception as error:  # noqa: BLE001 - a bug must not end the tickets of weeks
                self._survive(step, error)

    def _next(self) -> tuple[Step, Callable[[], None]]:
        """Return what to do now; for ``WAIT``, that is to wait."""
        with self._changed:
            if self._late:
                step, fingerprint, settle = self._late.popleft()
                if fingerprint is not None:
                    self._life.ended(fingerprint)
                return step, settle
            now = self._now()
            if self._is_published and not all(map(_exists, (self._cache, *self._beside))):
                self._life.unpublished = True  # somebody removed it
            decision = self._life.next(now)
            if decision.step is Step.WAIT:
                with self._board.open() as board:
                    board.tickets[self.principal.name].next_at = decision.until
                wait = _LONGEST_WAIT if decision.until is None else min(_LONGEST_WAIT, decision.until - now)
                if not self._stopped:
                    self._changed.wait(max(0.01, wait))
            return decision.step, functools.partial(self._do, decision.step, self._key)

    def _do(self, step: Step, key: Key | Password | None) -> None:
        match step:
            case Step.ISSUE if isinstance(key, Password):
                self._derive(key)
            case Step.ISSUE if isinstance(key, Key):
                self._issue(key)
            case Step.RENEW if self._granting is not None:
                self._renew(self._granting)
            case Step.SERVICES if self._granting is not None:
                self._serve(self._granting)
            case Step.PUBLISH:
                self._publish()

    def _ask(
        self,
        step: Step,
        what: str,
        call: Callable[[krb5.Context], T],
        settle: Callable[[Outcome[T]], None],
        settle_late: Callable[[Outcome[T]], None] | None = None,
        *,
        key: Key | Password | None = None,
    ) -> None:
        """Make a call and settle its outcome; a call that is given up has another one later, settled in this thread."""

        def late(outcome: Outcome[T]) -> None:
            with self._changed:
                fingerprint = None if key is None else key.fingerprint
                self._late.append((step, fingerprint, functools.partial(settle_late or settle, outcome)))
                self._changed.notify()

        settle(functools.partial(self.calls.run, f"no answer to {what}", call, late, kdcs=self._kdcs))

    def _derive(self, password: Password) -> None:
        def settle(outcome: Outcome[Key]) -> None:
            try:
                key = outcome()
            except SidecarError as error:
                self._grant_failed(Step.ISSUE, error, password)
                return
            password.secret.wipe()
            with self._changed:
                if self._key is password:
                    self._key = key

        what = "the question for the salt"
        self._ask(Step.ISSUE, what, lambda context: self._realm.derived_key(context, password), settle, key=password)

    def _issue(self, key: Key) -> None:
        def settle(outcome: Outcome[Ticket]) -> None:
            try:
                ticket = outcome()
            except SidecarError as error:
                self._grant_failed(Step.ISSUE, error, key)
                return
            if (self._key is None or key.fingerprint != self._key.fingerprint) and self._is_granted():
                self._discard(ticket)  # a newer key's is there
                return
            self._granted(ticket, key)

        self._ask(
            Step.ISSUE,
            "the request for a ticket",
            lambda context: self._refusals.guard(context, key, self._realm.first_ticket),
            settle,
            key=key,
        )

    def _renew(self, granting: Ticket) -> None:
        def settle(outcome: Outcome[Ticket]) -> None:
            is_current = granting is self._granting
            try:
                ticket = outcome()
            except SidecarError as error:
                if is_current:
                    self._grant_failed(Step.RENEW, error, None)
                return
            if is_current:
                self._granted(ticket, None)
            else:
                self._discard(ticket)

        self._ask(Step.RENEW, "a renewal", lambda context: self._realm.renewed(context, granting), settle)

    def _is_granted(self) -> bool:
        return self._granting is not None and self._granting.times.end > self._now()

    def _granted(self, ticket: Ticket, key: Key | None) -> None:
        name = self.principal.name
        with self._changed:
            self._life.granted(ticket.times, self._now(), key=None if key is None else key.fingerprint)
        self._discard(self._granting)
        self._granting = ticket
        details = {
            "principal": name,
            "ends": int(ticket.times.end),
            "renewable_until": None if ticket.times.renew_until is None else int(ticket.times.renew_until),
        }
        with self._board.open() as board:
            board.tickets[name].error = None
            board.tickets[name].renewals += key is None
        if key is None:
            self._audit.write("ticket.renewed", **details)
            return
        self._refusals.forget(name)
        self._note_key(key)
        self._audit.write("ticket.issued", kvno=key.kvno, enctypes=key.enctypes, **details)

    def _note_key(self, key: Key) -> None:
        name, before, self._used_key = self.principal.name, self._used_key, key
        rotated = before is not None and before.fingerprint != key.fingerprint
        with self._board.open() as board:
            tickets = board.tickets[name]
            tickets.issues += 1
            tickets.kvno = key.kvno
            if rotated:
                tickets.rotated_at = self._now()
        if before is not None and rotated:
            self._audit.write("key.rotated", principal=name, old_kvno=before.kvno, kvno=key.kvno)
            _log.info("%s: the KDC takes the new key (version %s, before %s)", name, key.kvno, before.kvno)

    def _grant_failed(self, step: Step, error: SidecarError, key: Key | Password | None) -> None:
        with self._changed:
            self._life.failed(step, error, self._now(), key=None if key is None else key.fingerprint)
        self._note(error, "kdc", step.value)
        if not error.retryable:
            kvno = key.kvno if isinstance(key, Key) else None
            self._audit.write(
                "ticket.denied", principal=self.principal.name, step=step.value, reason=type(error).__name__, kvno=kvno
            )
        if isinstance(error, KeyRefused):
            self._wants_key()

    def _serve(self, granting: Ticket) -> None:
        got: dict[str, Ticket] = {}
        failures: dict[str, SidecarError] = {}
        for service in self._life.missing:
            if self._stopped:
                return
            self._ask(
                Step.SERVICES,
                f"the request for {service}",
                lambda context, service=service: self._realm.service_ticket(context, granting, service),  # type: ignore[misc]
                functools.partial(_sort, service, got, failures),
                functools.partial(self._served_late, granting, service),
            )
        self._served(got, failures)

    def _served_late(self, granting: Ticket, service: str, outcome: Outcome[Ticket]) -> None:
        got: dict[str, Ticket] = {}
        failures: dict[str, SidecarError] = {}
        _sort(service, got, failures, outcome)
        if granting is self._granting and service in self._life.missing:
            self._served(got, failures)
            return
        for ticket in got.values():
            self._discard(ticket)

    def _served(self, got: dict[str, Ticket], failures: dict[str, SidecarError]) -> None:
        for error in failures.values():
            self._note(error, "kdc", "services")
        for service, ticket in got.items():
            self._discard(self._services.get(service))
            self._services[service] = ticket
        with self._changed:
            self._life.served(got, failures, self._now())
        denied = {service: type(error).__name__ for service, error in failures.items() if not error.retryable}
        if denied:
            self._audit.write("services.denied", principal=self.principal.name, services=denied)

    def _publish(self) -> None:
        name = self.principal.name
        tickets = [*self._services.values()]
        if self.principal.share == "tgt" and self._granting is not None:
            tickets.insert(0, self._granting)
        now = self._now()
        live = [ticket for ticket in tickets if ticket.times.end > now]
        try:
            done = bool(live) and self._publisher.publish(
                self._cache, lambda path: self._realm.write(self._context(), path, live)
            )
            for path, text in self._beside.items():
                if done and not _exists(path):
                    self._publisher.publish_text(path, text)
        except SidecarError as error:
            with self._changed:
                self._life.publish_failed(error, self._now())
            self._note(error, "publish", "publish")
            return
        self._is_published = done
        with self._changed:
            self._life.published()
        if not done:
            return
        ends = {ticket.service or "krbtgt": ticket.times.end for ticket in live}
        with self._board.open() as board:
            board.tickets[name].ends = ends
        self._audit.write(
            "tickets.published",
            principal=name,
            path=str(self._cache),
            tickets={service: int(end) for service, end in ends.items()},
        )

    def _discard(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self._realm.discard(self._context(), ticket)

    def _survive(self, step: Step, error: Exception) -> None:
        _log.critical("%s: %s met a bug; please report it", self.principal.name, step.value, exc_info=error)
        bug = SidecarError(f"a bug: {type(error).__name__}", subject=self.principal.name, fix="see the sidecar's log")
        self._board.count_failure("bug", bug)
        with self._changed:
            now = self._now()
            if step is Step.WAIT:
                self._changed.wait(_PAUSE_AFTER_BUG)
            elif step is Step.PUBLISH:
                self._life.publish_failed(bug, now)
            elif step is Step.SERVICES:
                self._life.served((), dict.fromkeys(self._life.missing, bug), now)
            else:
                self._life.failed(Step.ISSUE, bug, now)

    def _note(self, error: SidecarError, what: str, step: str) -> None:
        self._board.count_failure(what, error)
        with self._board.open() as board:
            board.tickets[self.principal.name].error = error
        level = logging.WARNING if error.retryable else logging.ERROR
        _log.log(level, "%s: %s failed: %s", self.principal.name, step, one_line(error))


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises what is wrong with the folder; publishing says it


def _sort(service: str, got: dict[str, Ticket], failures: dict[str, SidecarError], outcome: Outcome[Ticket]) -> None:
    """Put the outcome for a service where it belongs."""
    try:
        got[service] = outcome()
    except SidecarError as error:
        failures[service] = error
