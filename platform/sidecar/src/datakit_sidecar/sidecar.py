"""The sidecar as a whole: builds the parts from the settings, runs them, and takes them down again."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from datakit_vault import RetryPolicy, Vault

from datakit_sidecar import krb5conf, metrics
from datakit_sidecar.agent import Agent
from datakit_sidecar.audit import AuditLog
from datakit_sidecar.errors import NotReady
from datakit_sidecar.failure import Failure
from datakit_sidecar.health import HealthServer, Page
from datakit_sidecar.kdc_calls import KdcCalls
from datakit_sidecar.kerberos import Realm
from datakit_sidecar.life import Life
from datakit_sidecar.publish import Publisher
from datakit_sidecar.refusals import Refusals
from datakit_sidecar.settings import PrincipalSettings, Settings
from datakit_sidecar.status import Board
from datakit_sidecar.watch import Watch

_log = logging.getLogger(__name__)
_ONE_TRY: Final = RetryPolicy(attempts=1)
"""The vault is asked again by the watch, which knows how urgent it is."""
_AT_FIRST_SECONDS: Final = 10.0
"""How long the first tickets may be expected any moment."""
KRB5_CONF: Final = "krb5.conf"
"""Published beside the tickets for whoever uses them."""


class Sidecar:
    """Everything, ready to :meth:`start`.

    Nothing is asked of the vault or a KDC before :meth:`start`; the folders are made and checked here.

    :raises SidecarError: the folders, the audit file or krb5.conf cannot be used.
    """

    def __init__(self, settings: Settings, *, stdout: IO[str] | None = None) -> None:
        self.settings = settings
        self._publisher = Publisher(settings.publish)
        folders = [settings.publish.tickets] if settings.principals else []
        folders += [settings.publish.secrets] if settings.secrets else []
        for doubt in self._publisher.prepare(*folders):
            _log.warning("%s", doubt)
        self.board = Board(settings, time.time)
        self.audit = AuditLog(settings.audit, stream=stdout)
        self.board.audit_trouble = lambda: self.audit.trouble
        self._refusals = Refusals(settings.publish.tickets)
        self._realm: Realm | None = None
        self._agents: list[Agent] = []
        if settings.kerberos is not None and settings.principals:
            beside = {settings.publish.tickets / KRB5_CONF: krb5conf.install(settings.kerberos)}
            for path, text in beside.items():
                self._publisher.publish_text(path, text)
            self._realm = Realm(settings.kerberos)
            self._agents = [self._agent(principal, self._realm, beside) for principal in settings.principals]
        self._vault = Vault(settings.vault, retry=_ONE_TRY)
        self._watch = Watch(
            settings,
            self._vault,
            agents=self._agents,
            enctypes=None if self._realm is None else self._realm.enctypes,
            publisher=self._publisher,
            audit=self.audit,
            board=self.board,
        )

    def _agent(self, principal: PrincipalSettings, realm: Realm, beside: Mapping[Path, str]) -> Agent:
        kerberos = self.settings.kerberos
        assert kerberos is not None  # noqa: S101 - the caller looked
        life = Life(
            principal.services,
            shares_granting=principal.share == "tgt",
            renew_at=kerberos.renew_at,
            minimum_life=self.settings.health.minimum_life,
        )
        return Agent(
            principal,
            realm=realm,
            calls=KdcCalls(principal.name, kerberos.timeout),
            life=life,
            publisher=self._publisher,
            refusals=self._refusals,
            cache=self.settings.publish.tickets / principal.file_name,
            beside=beside,
            audit=self.audit,
            board=self.board,
            wants_key=lambda: self._watch.look_now(principal.name),
        )

    def start(self, command: str) -> None:
        """Begin to ask vault and KDCs."""
        self.audit.write(
            "start",
            command=command,
            pid=os.getpid(),
            uid=os.geteuid(),
            configuration=self.settings.source,
            vault=self.settings.vault.host,
            principals=[each.name for each in self.settings.principals],
            secrets=[str(each.secret) for each in self.settings.secrets],
        )
        for agent in self._agents:
            agent.start()
        self._watch.start()

    def look_now(self, *, renew: bool) -> None:
        """Read the vault again and wait for nothing; with ``renew``, get new tickets, too."""
        self._watch.look_now()
        for agent in self._agents:
            agent.retry_now(renew=renew)

    def stop(self, reason: str, *, destroy: bool) -> None:
        """End at once, also while a KDC or the vault is silent; with ``destroy``, remove what was published."""
        for agent in self._agents:
            agent.stop()
        self._watch.stop()
        removed = self._publisher.close(destroy=destroy)
        self.audit.write_last("stop", reason=reason, removed=removed, left=not destroy)

    def pages(self) -> dict[str, functools.partial[Page]]:
        """Return the pages for a :class:`HealthServer`."""
        return {
            "/healthz": functools.partial(Page.json, 200, {"alive": True}),
            "/readyz": functools.partial(self._ready_page),
            "/metrics": functools.partial(self._metrics_page),
        }

    def _ready_page(self) -> Page:
        state = self.board.as_json()
        return Page.json(200 if state["ready"] else 503, state)

    def _metrics_page(self) -> Page:
        text = metrics.render(
            self.board, now=time.time(), audit_lines=self.audit.head[0], audit_lost=self.audit.lost_copies
        )
        return Page(200, metrics.CONTENT_TYPE, text)


class Signals:
    """Signals as they come: blocked for every thread, and fetched by the main one, so that none arrives elsewhere.

    Make it before the first thread is started.
    """

    _FETCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self._FETCHED)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def next(self, seconds: float) -> signal.Signals | None:
        """Return the next signal, or None after so many seconds."""
        info = signal.sigtimedwait(self._FETCHED, seconds)
        return None if info is None else signal.Signals(info.si_signo)


def run(settings: Settings, signals: Signals, *, stdout: IO[str] | None = None) -> None:
    """Keep tickets and secrets until SIGTERM or SIGINT.

    :raises SidecarError: the configuration cannot be used on this machine.
    """
    with _health_first(settings) as serve:
        sidecar = Sidecar(settings, stdout=stdout)
        serve(sidecar)
        sidecar.start("run")
        _log.info("%s", _summary(settings))
        readiness = _Readiness(sidecar.board)
        while True:
            number = signals.next(readiness.note())
            if number in (signal.SIGTERM, signal.SIGINT):
                break
            if number is not None:
                _log.info("%s: reading the vault again", number.name)
                sidecar.look_now(renew=number == signal.SIGUSR1)
        sidecar.stop(number.name, destroy=not settings.publish.leave)


class _Readiness:
    """Says in the log when it becomes ready, and when and why not."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._since = time.monotonic()
        self._ready: bool | None = None

    def note(self) -> float:
        """Look, and return the seconds after which to look again."""
        reasons = self._board.reasons()
        now = time.monotonic()
        if self._ready is None and reasons and now - self._since < _AT_FIRST_SECONDS:
            return 0.05
        if self._ready is not (not reasons):
            if reasons:
                _log.warning("not ready: %s", "; ".join(reasons))
            else:
                _log.info("ready after %.1f s: every ticket and secret is published", now - self._since)
            self._ready, self._since = not reasons, now
        return 5.0 if self._ready else 1.0


def once(settings: Settings, signals: Signals, *, seconds: float, stdout: IO[str] | None = None) -> None:
    """Publish everything once and leave it there.

    :param seconds: how long to try.
    :raises Failure: what was in the way at the end of that time, or at once if trying again cannot help.
    """
    sidecar = Sidecar(settings, stdout=stdout)
    sidecar.start("once")
    deadline = time.monotonic() + seconds
    error: Failure | None = None
    number = None
    while reasons := sidecar.board.reasons():
        error = _hopeless(sidecar.board)
        number = signals.next(0.02)
        if error is not None or number in (signal.SIGTERM, signal.SIGINT) or time.monotonic() > deadline:
            break
    else:
        sidecar.stop("published", destroy=False)
        return
    last = error or _last_error(sidecar.board)
    stopped = number.name if number is not None else None
    sidecar.stop(stopped or ("timeout" if last is None else type(last).__name__), destroy=False)
    if stopped is None and last is not None:
        raise last
    raise NotReady(
        f"not everything was published {'before ' + stopped if stopped else f'within {seconds:g} s'}: {reasons[0]}",
        fix="datakit-sidecar doctor says what is in the way",
    )


def _hopeless(board: Board) -> Failure | None:
    """Return an error that trying again cannot help, of something that is not published."""
    with board.open():
        errors = [each.trouble for each in board.tickets.values() if not set(each.wanted) <= each.ends.keys()]
        errors += [each.error for each in board.secrets.values() if each.published_at is None]
    return next((error for error in errors if error is not None and not error.retryable), None)


def _last_error(board: Board) -> Failure | None:
    with board.open():
        errors = [each.trouble for each in board.tickets.values()] + [each.error for each in board.secrets.values()]
    return next((error for error in errors if error is not None), None)


@contextlib.contextmanager
def _health_first(settings: Settings) -> Iterator[functools.partial[None]]:
    """Answer probes before anything else is begun, so that they see why it is not ready."""
    pages = {"/healthz": functools.partial(Page.json, 200, {"alive": True})}
    pages["/readyz"] = functools.partial(Page.json, 503, {"ready": False, "reasons": ["starting"]})
    server = HealthServer(settings.health, pages)
    _log.info("probes: http://%s:%d/readyz", settings.health.address, server.port)
    try:
        yield functools.partial(lambda sidecar: pages.update(sidecar.pages()))
    finally:
        server.close()


def _summary(settings: Settings) -> str:
    principals = ", ".join(each.name for each in settings.principals) or "no principal"
    secrets = ", ".join(each.folder for each in settings.secrets) or "no secret"
    return f"{principals}; {secrets}; vault {settings.vault.host}; from {settings.source}"
